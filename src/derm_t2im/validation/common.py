"""What the suites share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from derm_t2im.validation.rules import Rule, one_of, present, unique

if TYPE_CHECKING:
    import pandas as pd

SHA256 = "^[0-9a-f]{64}$"


def files_exist(table: pd.DataFrame, root: Path) -> list[bool]:
    """Whether the file of each row is there."""
    return [isinstance(path, str) and (root / path).is_file() for path in table["path"]]


def files(table: pd.DataFrame, root: Path) -> dict[str, Path]:
    """The file of each image, by id."""
    pairs = zip(table["image_id"], table["path"], strict=True)
    return {name: root / path for name, path in pairs if isinstance(name, str) and isinstance(path, str)}


def on_what_is_there(rules: list[Rule], table: pd.DataFrame) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """Rules on columns that are there and not empty, and the columns that are not."""
    there = {name for name in table.columns if len(table) == 0 or table[name].notna().any()}
    gone = sorted({rule.column for rule in rules if rule.column not in there})
    return tuple(rule for rule in rules if rule.column in there), tuple(gone)


def always(kind: str, again: str) -> list[Rule]:
    """Rules for every table of images."""
    return [
        unique("image_id", "critical", "every image_id occurs once", again, ("path",)),
        one_of("file_found", [True], "critical", "every image file is there", "run `dvc checkout`", ("path",)),
        one_of("kind", [kind], "critical", f"every image is {kind}", again),
        present("label", "critical", "every image has a label", again),
    ]
