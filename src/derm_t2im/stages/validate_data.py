"""Stage `validate_data`: the gate before anything learns from the images."""

from __future__ import annotations

from derm_t2im import manifest, paths, state
from derm_t2im.params import load
from derm_t2im.params.validate import Validate
from derm_t2im.validation import data_suites, gate


def run() -> None:
    """Write reports/validation_data/ and metrics/validation_data.json; stop on a critical failure.

    data/gate.json is the same after every pass, so that another bound does not train anything again.
    """
    checked = data_suites.data_suites(
        manifest.read(paths.RAW_MANIFEST),
        manifest.read(paths.PROCESSED_MANIFEST),
        manifest.read(paths.SPLITS_MANIFEST),
        load("validate", Validate),
    )
    gate.hold(checked, paths.DATA_VALIDATION_REPORT, paths.DATA_VALIDATION_METRICS)
    state.write_json(paths.DATA_GATE, {"critical_failures": 0})
