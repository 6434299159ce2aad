"""From a diagnosis to a class, by a table that is read by people and kept under version control.

``labels.csv`` beside this file holds a row per diagnosis. What is not in it is reported, never
guessed. Malignant are melanoma, basal cell carcinoma and actinic keratosis / intraepithelial
carcinoma, as in HAM10000 (Tschandl et al. 2018) and ISIC 2018.
"""

from __future__ import annotations

import csv
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

Scheme = Literal["binary", "ham10000", "as_is"]

#: The diagnoses of HAM10000 and of the ISIC 2018 ground truth.
HAM10000 = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")

#: First level of the ISIC Archive's hierarchy of diagnoses; only a path that starts here is read as one.
ISIC_TOP = ("benign", "indeterminate", "malignant")

_TABLE = Path(__file__).with_name("labels.csv")


def normal(diagnosis: str) -> str:
    """A diagnosis as the table writes it: lower case, blanks for underscores and hyphens."""
    return " ".join(re.sub(r"[_\-]+", " ", diagnosis).split()).casefold()


@lru_cache(maxsize=1)
def table() -> tuple[int, dict[str, dict[str, str]]]:
    """The mapping's version, and its rows by diagnosis."""
    lines = _TABLE.read_text(encoding="utf-8").splitlines()
    version = re.search(r"version (\d+)", lines[0])
    if version is None:
        raise ValueError(f"{_TABLE.name} does not state its version in the first line")
    rows = {normal(row["diagnosis"]): row for row in csv.DictReader(lines[1:])}
    return int(version[1]), rows


def classes(scheme: Scheme) -> list[str]:
    """The classes that a scheme can give, sorted; none for ``as_is``."""
    return [] if scheme == "as_is" else sorted({row[scheme] for row in table()[1].values()} - {""})


def label_of(diagnosis: str, scheme: Scheme) -> str | None:
    """The class of a diagnosis; None where the table has none.

    A path of the ISIC Archive, from the general to the special (``Benign:...:Nevus:Nevus, Spitz``), has the
    class of the most special of its parts that the table knows, even where that is no class.

    Args:
        diagnosis: As the source writes it.
        scheme: ``binary``, ``ham10000`` (seven classes), or ``as_is``: the diagnosis itself, unchecked.
    """
    if scheme == "as_is":
        return diagnosis.strip() or None
    rows = table()[1]
    parts = [normal(part) for part in diagnosis.split(":")]
    known = parts[::-1] if parts[0] in ISIC_TOP else [normal(diagnosis)]
    return next((rows[part][scheme] for part in known if part in rows), None) or None
