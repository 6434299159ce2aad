"""The same picture more than once: within the set, under two labels, in two splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im.audit.collect import UNUSED

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.audit.measure import Measured


@dataclass
class Repeats:
    """What is met more than once. Each find is (what, positions of the images that show it).

    Attributes:
        exact: Groups of images with identical pixels.
        near: Pairs of near-duplicates, positions, first < second; of identical images only the first counts.
        correlation: Of each such pair's details: the lower, the more it needs a look.
        contradictions: Pictures, or lesions, under two labels.
        leaks: Pictures, lesions or patients in two splits.
        copies: Synthetic images that show a real one.
    """

    exact: list[list[int]] = field(default_factory=list)
    near: list[tuple[int, int]] = field(default_factory=list)
    correlation: list[float] = field(default_factory=list)
    contradictions: list[tuple[str, list[int]]] = field(default_factory=list)
    leaks: list[tuple[str, list[int]]] = field(default_factory=list)
    copies: list[tuple[str, list[int]]] = field(default_factory=list)


def near_duplicates(grey: np.ndarray, thumbs: np.ndarray, hashes: list[str]) -> list[tuple[int, int, float]]:
    """Near-duplicates among n images by the pipeline's own search: (first, second, correlation), first < second."""
    from derm_t2im import duplicates

    found = duplicates.compare(duplicates.Copies(grey, thumbs, hashes))
    return [(int(a), int(b), float(r)) for (a, b), r in zip(found.at, found.correlation, strict=True)]


def find(measured: Measured) -> Repeats:
    """Look for repeats among the images, and for labels and splits that they contradict."""
    rows = measured.rows
    groups = _same(rows["pixels"])
    found = Repeats(exact=sorted(sorted(group) for group in groups if len(group) > 1))
    # Of identical images one stands for all: a set with thousands of them has no more pairs for it.
    first = np.array(sorted(min(group) for group in groups), dtype=np.int64)
    hashes = rows["phash"].iloc[first].tolist()
    pairs = near_duplicates(measured.grey[first], measured.thumbs[first], hashes)
    found.near = [(int(first[a]), int(first[b])) for a, b, _ in pairs]
    found.correlation = [r for _, _, r in pairs]
    same = {min(group): sorted(group) for group in groups}

    pictures = [("identical pixels", group) for group in found.exact]
    near = [(likeness(r), (same[a], same[b])) for (a, b), r in zip(found.near, found.correlation, strict=True)]
    for column, finds in (("label", found.contradictions), ("split", found.leaks), ("kind", found.copies)):
        values = _values(rows, column)
        finds += [(what, apart) for what, group in pictures if (apart := _apart(group, values))]
        finds += [(what, apart) for what, (one, other) in near if (apart := _between(one, other, values))]
    found.contradictions += list(_torn(rows, "lesion_id", "label"))
    for name in ("lesion_id", "patient_id"):
        found.leaks += list(_torn(rows, name, "split"))
    return found


def likeness(correlation: float) -> str:
    """What a pair of near-duplicates is called."""
    return f"near-duplicates, correlation {correlation:.2f}"


def groups(rows: pd.DataFrame, found: Repeats) -> np.ndarray:
    """A number for each image, shared by those that are one picture, lesion or patient: int (n,)."""
    import pandas as pd

    from derm_t2im import splits

    known = rows[["image_id", "lesion_id", "patient_id", "source"]]
    exact = [pair for group in found.exact for pair in pairwise(group)]
    links = np.array([*found.near, *exact], np.int64).reshape(-1, 2)
    return pd.factorize(np.array(splits.group_ids(known, links)))[0]


def example(rows: pd.DataFrame, what: str, at: list[int]) -> dict[str, Any]:
    """A find as a record of the JSON file."""
    images = []
    for k in at:
        row = rows.iloc[k]
        images.append({n: str(row[n]) for n in ("image_id", "file", "label", "split", "kind") if not _missing(row[n])})
    return {"what": what, "images": images}


def _same(keys: pd.Series) -> list[list[int]]:
    """Positions that share a key, for each key; missing keys share nothing."""
    return [[int(k) for k in at] for at in keys.reset_index(drop=True).groupby(keys.to_numpy()).indices.values()]


def _missing(value: Any) -> bool:
    return not isinstance(value, str) or not value


def _values(rows: pd.DataFrame, column: str) -> list[str | None]:
    """Values of a column, None where unknown (or in no split)."""
    return [None if _missing(value) or (column == "split" and value == UNUSED) else value for value in rows[column]]


def _apart(group: list[int], values: list[str | None]) -> list[int]:
    """The first image of each value where the group has more than one; else nothing."""
    firsts: dict[str, int] = {}
    for at in group:
        value = values[at]
        if value is not None:
            firsts.setdefault(value, at)
    return list(firsts.values()) if len(firsts) > 1 else []


def _between(one: list[int], other: list[int], values: list[str | None]) -> list[int]:
    """An image of each side that differ in their value, if there are such."""
    for a in one:
        for b in other:
            if values[a] is not None and values[b] is not None and values[a] != values[b]:
                return [a, b]
    return []


def _torn(rows: pd.DataFrame, key: str, column: str) -> Iterator[tuple[str, list[int]]]:
    """Lesions or patients (of one source) whose images differ in a column."""
    values = _values(rows, column)
    if rows[key].isna().all() or not any(values):
        return
    names = rows["source"].fillna("") + "\x1f" + rows[key]
    for at in _same(names):
        if apart := _apart(at, values):
            yield f"one {key.removesuffix('_id')} ({rows[key].iloc[apart[0]]})", apart
