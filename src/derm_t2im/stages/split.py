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
    from derm_t2im import splits

    settings = load("split", Split)
    table = manifest.read(paths.PROCESSED_MANIFEST)
    near = _near(table, settings)
    table["group_id"] = splits.group_ids(table, near)
    manifest.write(splits.assign(table, settings), paths.SPLITS_MANIFEST)
    # What is stated is measured on what was written.
    written = manifest.read(paths.SPLITS_MANIFEST)
    metrics = _metrics(written, near)
    metrics["leaked_groups"] = splits.leaked_groups(written, near)
    state.write_json(paths.SPLIT_METRICS, metrics)
    sizes = ", ".join(f"{name} {count}" for name, count in metrics["images"].items())
    progress.say(f"split: {sizes} -> {paths.SPLITS}")


def _near(table: pd.DataFrame, settings: Split) -> np.ndarray:
    """Positions of near-duplicates: alike by their hashes, and then by their pixels."""
    from derm_t2im import splits
    from derm_t2im.imaging import hashing, io

    pairs = splits.near_pairs(table["phash"].tolist(), settings.near_duplicate_bits)
    involved = np.unique(pairs[:, :2])
    details = np.zeros((len(involved), 32, 32), np.float32)
    for k, at in enumerate(progress.track(involved.tolist(), "compare near-duplicates")):
        details[k] = hashing.detail(io.read_stack([table["path"].iloc[at]])[0])
    local = pairs.copy()
    local[:, :2] = np.searchsorted(involved, pairs[:, :2])
    return involved[splits.confirm(local, details)] if len(pairs) else np.zeros((0, 2), np.int64)


def _metrics(table: pd.DataFrame, near: np.ndarray) -> dict[str, Any]:
    from derm_t2im.splits import SPLITS

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
        "contradictions": int((table.groupby("group_id")["label"].nunique() > 1).sum()),
        "external_dropped": int(table.loc[external, "group_id"].isin(pool_groups).sum()),
        "images": {name: int((table["split"] == name).sum()) for name in SPLITS},
        "classes": {name: {label: counts[name].get(label, 0) for label in labels} for name in SPLITS},
        "seed_images": len(seeds),
        "seed_classes": tally(seeds["label"]),
    }
