"""Stage `split`: groups, and who learns and who tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import manifest, paths, progress, state
from derm_t2im.params import load
from derm_t2im.params.split import Split
from derm_t2im.quarantine import tally

if TYPE_CHECKING:
    import pandas as pd


def run() -> None:
    """Group and split the processed images; write the manifest and ``metrics/split.json``."""
    from derm_t2im import duplicates, splits

    settings = load("split", Split)
    table = manifest.read(paths.PROCESSED_MANIFEST)
    near = duplicates.search(
        progress.track(table["path"].tolist(), "compare images"),
        table["phash"].tolist(),
        settings.near_duplicate_bits,
        settings.near_duplicate_correlation,
    ).at
    table["group_id"] = splits.group_ids(table, near)
    manifest.write(splits.assign(table, settings), paths.SPLITS_MANIFEST)
    # What is stated is measured on what was written.
    written = manifest.read(paths.SPLITS_MANIFEST)
    metrics = _metrics(written, near)
    metrics["leaked_groups"] = splits.leaked_groups(written, near)
    state.write_json(paths.SPLIT_METRICS, metrics)
    sizes = ", ".join(f"{name} {count}" for name, count in metrics["images"].items())
    if count := metrics["contradictions"]:
        progress.say(
            f"split: {count} lesions or pictures bear two labels (`derm-t2im audit` shows them): mend the source"
        )
    progress.say(f"split: {sizes} -> {paths.SPLITS}")


def _contradictions(table: pd.DataFrame, near: np.ndarray) -> int:
    """Lesions and pictures with more than one label; a patient may well have lesions of both kinds."""
    from derm_t2im import splits

    one = splits.group_ids(table.drop(columns="patient_id", errors="ignore"), near)
    return int((table.groupby(one)["label"].nunique() > 1).sum())


def _metrics(table: pd.DataFrame, near: np.ndarray) -> dict[str, Any]:
    from derm_t2im.splits import SPLITS, kinds_of_pairs

    sizes = table["group_id"].value_counts()
    labels = sorted(table["label"].unique())
    counts = {name: tally(table.loc[table["split"] == name, "label"]) for name in SPLITS}
    seeds = table[table["seed_image"]]
    external = table["role"] == "external"
    pool_groups = set(table.loc[~external, "group_id"])
    return {
        "groups": len(sizes),
        "largest_group": int(sizes.max()),
        "near_duplicates": len(near),
        "near_duplicate_pairs": kinds_of_pairs(table, near),
        "contradictions": _contradictions(table, near),
        "external_dropped": int(table.loc[external, "group_id"].isin(pool_groups).sum()),
        "images": {name: int((table["split"] == name).sum()) for name in SPLITS},
        "classes": {name: {label: counts[name].get(label, 0) for label in labels} for name in SPLITS},
        "seed_images": len(seeds),
        "seed_classes": tally(seeds["label"]),
    }
