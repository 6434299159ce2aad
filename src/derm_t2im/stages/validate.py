"""Stage `validate`: the gate before curation."""

from __future__ import annotations

from derm_t2im import features, manifest, paths
from derm_t2im.params import load
from derm_t2im.params.validate import Validate
from derm_t2im.state import read_json
from derm_t2im.validation import gate, suites


def run() -> None:
    """Write reports/validation/ and metrics/validation.json; stop on a critical failure."""
    settings = load("validate", Validate)
    embedded = {
        *features.load(paths.FEATURES_REAL).image_id,
        *features.load(paths.FEATURES_SYNTHETIC).image_id,
    }
    checked = suites.all_suites(
        manifest.read(paths.SPLITS_MANIFEST),
        manifest.read(paths.SYNTHETIC_MANIFEST),
        embedded,
        read_json(paths.FIDELITY_METRICS, "fidelity"),
        settings,
    )
    gate.hold(checked, paths.VALIDATION_REPORT, paths.VALIDATION_METRICS)
