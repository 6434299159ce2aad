"""Stage `validate`: the gate before curation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import features, manifest, paths
from derm_t2im.curation import neighbours
from derm_t2im.features import Features
from derm_t2im.params import load
from derm_t2im.params.validate import Validate
from derm_t2im.state import read_json
from derm_t2im.validation import expectations, gate, suites

if TYPE_CHECKING:
    import pandas as pd


def run() -> None:
    """Write reports/validation/ and metrics/validation.json; stop on a critical failure."""
    settings = load("validate", Validate)
    real, made = features.load(paths.FEATURES_REAL), features.load(paths.FEATURES_SYNTHETIC)
    splits, synthetic = manifest.read(paths.SPLITS_MANIFEST), manifest.read(paths.SYNTHETIC_MANIFEST)
    fidelity = read_json(paths.FIDELITY_METRICS, "fidelity")
    checked = suites.all_suites(
        splits,
        synthetic,
        {*real.image_id, *made.image_id},
        fidelity,
        settings,
        behind=_behind(splits, synthetic, real, made, fidelity),
    )
    gate.hold(checked, paths.VALIDATION_REPORT, paths.VALIDATION_METRICS)


def _behind(
    splits: pd.DataFrame, synthetic: pd.DataFrame, real: Features, made: Features, fidelity: dict[str, Any]
) -> suites.Behind:
    """The images that a person should look at when a number of the whole set fails."""
    there = synthetic[synthetic["image_id"].isin(made.image_id) & synthetic["label"].notna()]
    ids, labels = there["image_id"].to_numpy(dtype=object), there["label"].to_numpy(dtype=object)
    train = splits.loc[(splits["split"] == "train") & splits["image_id"].isin(real.image_id), "image_id"]
    sought = {"all": np.full(len(ids), True), **{label: labels == label for label in sorted(set(labels))}}

    def first(order: np.ndarray, rows: np.ndarray) -> tuple[str, ...]:
        return tuple(ids[order[rows[order]]][: expectations.EXAMPLES])

    far = np.zeros(len(ids))
    if len(train) and real.matrix.shape[1] == made.matrix.shape[1]:
        far = neighbours.nearest(made.rows(ids), real.rows(train))[1]
    unlike = np.argsort(-far, kind="stable")
    unsure = np.argsort(made.probability(ids, labels.tolist()), kind="stable")
    other = made.predicted(ids) != labels
    return suites.Behind(
        {name: first(unlike, rows) for name, rows in sought.items()},
        {name: first(unsure, rows & other) for name, rows in sought.items()},
        tuple(name for pair in fidelity.get("copies", {}).get("pairs", []) for name in pair),
    )
