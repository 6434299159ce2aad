"""Parameters of `acquire`: where images come from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from derm_t2im.params import Section

SourceName = Literal["phantom", "folder", "ham10000"]


class External(Section):
    """A second data set, kept apart from everything but the external test."""

    source: SourceName | Literal["none"] = "phantom"
    path: str = "data/import-external"
    name: str = "external"
    limit: int = Field(0, ge=0)


class Phantom(Section):
    """How many phantoms, and how large."""

    images: int = Field(860, ge=8, le=1_000_000)
    external_images: int = Field(500, ge=0, le=1_000_000)
    size: int = Field(64, ge=32, le=512)
    malignant: float = Field(0.5, gt=0, lt=1)
    hair: float = Field(0.3, ge=0, le=1)


class Folder(Section):
    """How a folder of own images is read."""

    table: str = "metadata.csv"
    columns: dict[str, str] = Field(default_factory=dict)
    licence: str = "unknown"
    attribution: str = "unknown"


class Acquire(Section):
    """Section `acquire`."""

    source: SourceName = "phantom"
    path: str = "data/import"
    name: str = "pool"
    labels: Literal["binary", "ham10000"] = "binary"
    limit: int = Field(0, ge=0)
    max_quarantined: float = Field(0.05, ge=0, le=1)
    seed: int = 0
    external: External = External()
    phantom: Phantom = Phantom()
    folder: Folder = Folder()
