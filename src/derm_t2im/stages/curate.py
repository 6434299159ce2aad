"""Stage `curate`: which synthetic images stay, and why the others do not.

The output is a manifest. The FiftyOne dataset is no output of this stage, because making it twice
does not give the same bytes: `derm-t2im browse` builds it from the manifest in seconds.
"""

from __future__ import annotations

import json

from derm_t2im import features, manifest, paths
from derm_t2im.curation import brain, review
from derm_t2im.curation.decide import Outcome, Pool, curate
from derm_t2im.errors import UserError
from derm_t2im.features import Features
from derm_t2im.params import load
from derm_t2im.params.curate import Curate
from derm_t2im.progress import say
from derm_t2im.state import fingerprint, move_into_place, work_folder, write_json


def run() -> None:
    """Write data/curated/ (manifest.parquet, real.parquet) and metrics/curation.json."""
    settings = load("curate", Curate)
    _gate()
    decisions = review.read(paths.REVIEW_DECISIONS)
    real = manifest.read(paths.SPLITS_MANIFEST)
    real = real[real["split"] != "unused"].reset_index(drop=True)
    of_real = features.load(paths.FEATURES_REAL)
    pool = _pool(features.load(paths.FEATURES_SYNTHETIC))
    real_matrix = of_real.rows(real["image_id"])
    if real_matrix.shape[1] != pool.matrix.shape[1]:
        raise UserError("Real and synthetic images were encoded differently: run `dvc repro embed`.")
    outcome = curate(pool, real, real_matrix, decisions, settings, brain.uniqueness, brain.near_duplicates)
    folder = work_folder("curate", fingerprint(settings))
    manifest.write(outcome.synthetic, folder / paths.CURATED_MANIFEST.name)
    manifest.write(outcome.real, folder / paths.CURATED_REAL.name)
    write_json(paths.CURATION_METRICS, outcome.metrics)
    move_into_place(folder, paths.CURATED)
    _report(outcome, settings)


def _gate() -> None:
    try:
        failures = json.loads(paths.VALIDATION_METRICS.read_text(encoding="utf-8")).get("critical_failures", 0)
    except FileNotFoundError:
        raise UserError(f"{paths.VALIDATION_METRICS} is missing: run `dvc repro validate` first.") from None
    if failures:
        raise UserError(f"The validation gate has {failures} critical failures: see {paths.VALIDATION_REPORT}.")


def _pool(found: Features) -> Pool:
    table = manifest.read(paths.SYNTHETIC_MANIFEST)
    ids = table["image_id"].tolist()
    return Pool(
        table,
        found.rows(ids),
        found.probability(ids, table["label"].tolist()),
        found.predicted(ids),
        found.probabilities[found.index(ids)].max(axis=1),
    )


def _report(outcome: Outcome, settings: Curate) -> None:
    m, verdicts = outcome.metrics, outcome.verdicts
    if m["shortfall"]:
        wanted = m["generate_images_needed"]
        cure = f"generate.images={wanted} would meet it" if wanted else "no number of images would meet it"
        say(f"curate: {m['shortfall']} images short of curate.keep={settings.keep}; {cure}.")
    for ids, what in (
        (verdicts.conflicts, "reviewers differ, so neither is obeyed"),
        (verdicts.unknown, "no such image in this pool"),
        (verdicts.outdated, "decided about an earlier image of that name"),
    ):
        if ids:
            say(f"curate: {len(ids)} decisions not followed, {what}: {', '.join(ids[:5])}{' ...' if ids[5:] else ''}")
    lost = ", ".join(f"{count} {reason}" for reason, count in m["rejected"].items() if count)
    say(f"curate: {m['kept']} of {m['pool']} kept (rejected: {lost or 'none'}), {paths.CURATED_MANIFEST}")
