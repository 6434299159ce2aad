"""Stage `validate`: the gate before curation."""

from __future__ import annotations

import json

from derm_t2im import features, manifest, paths
from derm_t2im.errors import UserError
from derm_t2im.params import load
from derm_t2im.params.validate import Validate
from derm_t2im.validation import gate, suites


def run() -> None:
    """Write reports/validation/ and metrics/validation.json; stop on a critical failure."""
    settings = load("validate", Validate)
    if not paths.FIDELITY_METRICS.is_file():
        raise UserError(f"{paths.FIDELITY_METRICS} is missing: run `dvc repro fidelity` first.")
    embedded = {
        *features.load(paths.FEATURES_REAL).image_id,
        *features.load(paths.FEATURES_SYNTHETIC).image_id,
    }
    checked = suites.all_suites(
        manifest.read(paths.SPLITS_MANIFEST),
        manifest.read(paths.SYNTHETIC_MANIFEST),
        embedded,
        json.loads(paths.FIDELITY_METRICS.read_text(encoding="utf-8")),
        settings,
    )
    gate.hold(checked, paths.VALIDATION_REPORT, paths.VALIDATION_METRICS)
