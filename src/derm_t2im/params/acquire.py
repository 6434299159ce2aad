"""Parameters of `acquire`: where images come from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from derm_t2im.params import Section

DEFAULT_TABLE = "metadata.csv"  # the only one that may be absent: classes are sub-folders then
FOLDER_COLUMNS = (
    "image_id", "path", "dx", "lesion_id", "patient_id", "age", "sex", "site", "licence", "attribution",
)  # fmt: skip

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
    """How a folder of own images is read; ``columns`` maps our names to those of the table."""

    table: str = DEFAULT_TABLE
    columns: dict[str, str] = Field(default_factory=dict)
    licence: str = "unknown"
    attribution: str = "unknown"

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(columns) - set(FOLDER_COLUMNS))
        if unknown:
            raise ValueError(f"no such column: {', '.join(unknown)}; ours are {', '.join(FOLDER_COLUMNS)}")
        return columns


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
