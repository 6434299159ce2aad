"""The audit of a set, from its path to everything that was found, as one plain dictionary (the JSON file)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import progress
from derm_t2im.audit import collect, measure, probes, repeats
from derm_t2im.errors import UserError
from derm_t2im.imaging import pool
from derm_t2im.quarantine import tally

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.sources.labels import Scheme

MOST = 1000  # finds of a kind that are listed one by one; all are counted
LONG = 2000  # images from which the comparison takes a while
TABULATED = (
    "Sampler", "Schedule type", "Steps", "CFG scale", "Size", "Model", "Model hash", "Lora hashes", "VAE",
    "Face restoration", "Version", "prompt", "negative_prompt",
)  # fmt: skip
NOT_STATED = "(not stated)"


def audit(
    path: Path, limit: int = 0, table: str | None = None, label: str | None = None, scheme: Scheme = "as_is"
) -> dict[str, Any]:
    """Audit the set at ``path``.

    Args:
        path: A folder of images or a table, see :func:`derm_t2im.audit.collect.collect`.
        limit: Most images to look at, classes and splits in proportion (0: all).
        table: Name of the table within the folder, or ``none``.
        label: Column of the label.
        scheme: How labels become classes.

    Returns:
        What :func:`summary` gives.

    Raises:
        UserError: if there is nothing to audit.
    """
    found = collect.collect(path, table, label, scheme)
    rows = collect.sample(found.rows, limit)
    looked = progress.track(pool.each(measure.look, rows["file"].tolist()), "audit", total=len(rows))
    measured = measure.gather(rows, looked)
    if not len(measured.rows):
        reasons = {**tally(found.refused["reason"]), **tally(measured.unreadable["reason"])}
        said = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
        raise UserError(f"audit: none of the images of {path} can be used ({said}).")
    if len(measured.rows) >= LONG:
        progress.say(f"audit: comparing {len(measured.rows)} images")
    return {"path": str(path), "layout": found.layout, **summary(found, measured, len(rows))}


def summary(found: collect.Collection, measured: measure.Measured, looked_at: int) -> dict[str, Any]:
    """Everything found, ready for JSON; ``failed`` says whether labels contradict one another or splits leak."""
    import pandas as pd

    rows = measured.rows
    again = repeats.find(measured)
    groups = repeats.groups(rows, again)
    known = rows["label"].notna().to_numpy(dtype=bool)
    labels = rows["label"].fillna("").to_numpy(dtype=object)
    values = {name: rows.loc[known, name].to_numpy(dtype=float) for name in measure.MEASURES}
    several = len(set(labels[known])) > 1
    areas = probes.measure_areas(values, labels[known], groups[known]) if several else {}
    shortcuts = probes.probe_areas(measured.thumbs[known], labels[known], groups[known]) if several else {}
    unusable = pd.concat([found.refused, measured.unreadable], ignore_index=True)
    finds = {"contradictions": again.contradictions, "leaks": again.leaks, "copies": again.copies}
    return {
        "images": len(rows),
        "not_looked_at": len(found.rows) - looked_at,
        "unusable": {
            "n": len(unusable),
            "reasons": tally(unusable["reason"]),
            "examples": unusable.head(MOST).to_dict("records"),
        },
        "classes": tally(rows["label"]),
        "unlabelled": int((~known).sum()),
        "splits": _counts(rows, "split"),
        "kinds": _counts(rows, "kind"),
        "duplicates": {
            "exact_groups": len(again.exact),
            "exact_images": sum(len(group) for group in again.exact),
            "near_pairs": len(again.near),
            "exact": [repeats.example(rows, "identical pixels", group) for group in again.exact[:MOST]],
            "near": [
                repeats.example(rows, repeats.likeness(r), list(pair))
                for pair, r in zip(again.near[:MOST], again.correlation[:MOST], strict=True)
            ],
        },
        **{
            name: {"n": len(some), "examples": [repeats.example(rows, what, at) for what, at in some[:MOST]]}
            for name, some in finds.items()
        },
        "artefacts": {
            name: {
                "classes": {label: _spread(numbers[labels[known] == label]) for label in sorted(set(labels[known]))},
                "areas": {label: area._asdict() for label, area in areas.get(name, {}).items()},
            }
            for name, numbers in values.items()
        },
        "shortcuts": {
            probe: {label: area._asdict() for label, area in by_class.items()} for probe, by_class in shortcuts.items()
        },
        "diversity": {
            label: {**some.share.keys("share"), "n": some.share.n, **some.share_of_even.keys(f"share_of_{probes.EVEN}")}
            for label, some in probes.alike(measured.thumbs[known], labels[known]).items()
        },
        "settings": _settings(measured),
        "failed": bool(again.contradictions or again.leaks),
    }


def _counts(rows: pd.DataFrame, column: str) -> dict[str, dict[str, int]]:
    """Images per value of a column and class; empty where no image has a value."""
    names = rows[column].fillna(NOT_STATED)
    if rows[column].isna().all():
        return {}
    return {str(name): tally(rows.loc[names == name, "label"].fillna("(no label)")) for name in sorted(names.unique())}


def _spread(numbers: np.ndarray) -> dict[str, float]:
    """Median and quartiles of what could be measured."""
    numbers = numbers[np.isfinite(numbers)]
    quartiles = np.percentile(numbers, (25, 50, 75)) if len(numbers) else np.full(3, np.nan)
    return {"n": len(numbers), "quarter": quartiles[0], "median": quartiles[1], "three_quarters": quartiles[2]}


def _settings(measured: measure.Measured) -> dict[str, Any]:
    """How often each value of each generation setting occurs, per class."""
    labels = measured.rows["label"].fillna("(no label)")
    stated = [(label, some) for label, some in zip(labels, measured.settings, strict=True) if some]
    values: dict[str, dict[str, dict[str, int]]] = {}
    for key in TABULATED:
        if not any(some.get(key) for _, some in stated):
            continue
        for label, some in stated:
            counts = values.setdefault(key, {}).setdefault(some.get(key) or NOT_STATED, {})
            counts[label] = counts.get(label, 0) + 1
    return {"images": len(stated), "values": values}
