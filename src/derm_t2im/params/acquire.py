"""Parameters of `acquire`: where images come from."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from derm_t2im.params import Section

DEFAULT_TABLE = "metadata.csv"  # the only one that may be absent: classes are sub-folders then
FOLDER_COLUMNS = (
    "image_id", "path", "dx", "lesion_id", "patient_id", "age", "sex", "site", "licence", "attribution",
)  # fmt: skip
IMAGE_HOSTS = ("content.isic-archive.com", "isic-archive.s3.amazonaws.com")

SourceName = Literal["phantom", "folder", "ham10000", "isic"]


class External(Section):
    """A second data set, kept apart from everything but the external test."""

    source: SourceName | Literal["none"] = "phantom"
    path: str = "data/import-external"
    name: str = "external"
    limit: int = Field(0, ge=0)


class Phantom(Section):
    """How many phantoms, and how large."""

    images: int = Field(740, ge=8, le=1_000_000)
    external_images: int = Field(500, ge=0, le=1_000_000)
    size: int = Field(64, ge=32, le=512)
    malignant: float = Field(0.5, gt=0, lt=1)
    hair: float = Field(0.3, ge=0, le=1)


def _known_columns(columns: dict[str, str] | None) -> dict[str, str] | None:
    unknown = sorted(set(columns or {}) - set(FOLDER_COLUMNS))
    if unknown:
        raise ValueError(f"no such column: {', '.join(unknown)}; ours are {', '.join(FOLDER_COLUMNS)}")
    return columns


class FolderSet(Section):
    """One of several data sets below `acquire.path`; what is left out is as `acquire.folder` says."""

    path: str = ""  # sub-folder of acquire.path; empty: the set's name
    role: Literal["pool", "external"] = "pool"
    table: str | None = None
    columns: dict[str, str] | None = None
    licence: str | None = None
    attribution: str | None = None

    _columns = field_validator("columns")(_known_columns)


class Folder(Section):
    """How a folder of own images is read; ``columns`` maps our names to those of the table."""

    table: str = DEFAULT_TABLE
    columns: dict[str, str] = Field(default_factory=dict)
    licence: str = "unknown"
    attribution: str = "unknown"
    sets: dict[str, FolderSet] = Field(default_factory=dict)
    shared_ids: bool = False  # one id is one image, lesion or patient in all sets

    _columns = field_validator("columns")(_known_columns)

    @field_validator("sets")
    @classmethod
    def _apart(cls, sets: dict[str, FolderSet]) -> dict[str, FolderSet]:
        places: dict[str, PurePosixPath] = {}
        for name, one in sets.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                raise ValueError(f"{name!r} is no name for a set: use letters, digits, dot, hyphen and underscore")
            place = PurePosixPath(one.path or name)
            if place.is_absolute() or ".." in place.parts:
                raise ValueError(f"the set {name} has the path {place}: give a sub-folder of acquire.path")
            for other, taken in places.items():
                if place.is_relative_to(taken) or taken.is_relative_to(place):
                    raise ValueError(f"the sets {other} and {name} overlap: {taken} and {place}")
            places[name] = place
        if sets and not any(one.role == "pool" for one in sets.values()):
            raise ValueError("no set has the role pool")
        return sets


class Isic(Section):
    """What to ask the ISIC Archive for, and how hard."""

    query: str = ""
    collections: list[int] = Field(default_factory=list)
    external_query: str = ""
    external_collections: list[int] = Field(default_factory=list)
    base_url: str = "https://api.isic-archive.com/api/v2"
    image_hosts: list[str] = Field(
        default_factory=lambda: ["content.isic-archive.com", "isic-archive.s3.amazonaws.com"]
    )
    requests_per_second: float = Field(10.0, gt=0, le=100)
    threads: int = Field(4, ge=1, le=16)
    tries: int = Field(6, ge=1, le=20)
    backoff: float = Field(1.0, ge=0, le=60)  # seconds before the second try; doubles from there
    timeout: float = Field(30.0, gt=0, le=600)  # seconds without a byte

    @field_validator("base_url")
    @classmethod
    def _address(cls, url: str) -> str:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError("give the API's address, such as https://api.isic-archive.com/api/v2")
        return url.rstrip("/")


class Acquire(Section):
    """Section `acquire`."""

    source: SourceName = "phantom"
    path: str = "data/import"
    name: str = "pool"
    labels: Literal["binary", "ham10000", "as_is"] = "binary"
    limit: int = Field(0, ge=0)
    max_quarantined: float = Field(0.05, ge=0, le=1)
    seed: int = 0
    external: External = External()
    phantom: Phantom = Phantom()
    folder: Folder = Folder()
    isic: Isic = Isic()

    @model_validator(mode="after")
    def _roles_agree(self) -> Acquire:
        external = self.external.source
        if self.source != "phantom" and external == "phantom":
            raise ValueError(
                f"acquire.source is {self.source}, but acquire.external.source is phantom: rendered phantoms are no "
                "test for real images; set acquire.external.source to none, or to your own set"
            )
        sets = [name for name, one in self.folder.sets.items() if one.role == "external"]
        if self.source == "folder" and sets and external != "none":
            raise ValueError(
                f"acquire.folder.sets has an external set ({sets[0]}) and acquire.external.source is {external}: "
                "set acquire.external.source to none, or take the external sets away"
            )
        for role, source, query, collections in (
            ("", self.source, self.isic.query, self.isic.collections),
            ("external_", external, self.isic.external_query, self.isic.external_collections),
        ):
            if source == "isic" and not query.strip() and not collections:
                raise ValueError(
                    f"acquire.isic.{role}query and acquire.isic.{role}collections are empty, which asks for the whole "
                    "archive: give a query, such as image_type:dermoscopic AND diagnosis_3:Nevus, or collections"
                )
        return self
