"""Stage `validate`: the gate before curation."""

from __future__ import annotations

import json

from derm_t2im import features, manifest, paths, state
from derm_t2im.errors import UserError
from derm_t2im.params import load
from derm_t2im.params.validate import Validate
from derm_t2im.progress import say
from derm_t2im.validation import expectations, gate, suites


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
        manifest.read(paths.PROCESSED_MANIFEST),
        manifest.read(paths.SPLITS_MANIFEST),
        manifest.read(paths.SYNTHETIC_MANIFEST),
        embedded,
        json.loads(paths.FIDELITY_METRICS.read_text(encoding="utf-8")),
        settings,
    )
    work = state.work_folder("validate", state.fingerprint("docs"))
    state.discard(work)
    outcomes = expectations.run(checked, work)
    found = gate.metrics(outcomes, checked)
    # Before the gate shuts: whoever it stops wants to read why.
    state.move_into_place(work, paths.VALIDATION_REPORT)
    state.write_json(paths.VALIDATION_METRICS, found)
    say(
        f"validate: {found['passed']} of {found['expectations']} expectations hold, {found['critical_failures']} "
        f"critical failures, {found['warnings']} warnings, {paths.VALIDATION_REPORT / 'index.html'}"
    )
    stop = gate.message(outcomes, paths.VALIDATION_REPORT)
    if stop:
        raise UserError(stop)
