"""Stage `curate`: which synthetic images stay, and why the others do not.

The output is a manifest. The FiftyOne dataset is no output of this stage, because making it twice
does not give the same bytes: `derm-t2im browse` builds it from the manifest in seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from derm_t2im import duplicates, features, manifest, paths
from derm_t2im.curation import brain, neighbours, review, rules
from derm_t2im.curation.decide import Outcome, Pool, curate
from derm_t2im.errors import UserError
from derm_t2im.features import Features
from derm_t2im.fidelity import detail, pixels
from derm_t2im.fidelity.copies import Search
from derm_t2im.imaging.io import read_batches
from derm_t2im.params import load
from derm_t2im.params.curate import Curate
from derm_t2im.progress import say
from derm_t2im.state import fingerprint, move_into_place, read_json, work_folder, write_json

if TYPE_CHECKING:
    import pandas as pd


def run() -> None:
    """Write data/curated/ (manifest.parquet, real.parquet) and metrics/curation.json."""
    settings = load("curate", Curate)
    _gate()
    decisions = review.read(paths.REVIEW_DECISIONS)
    real = manifest.read(paths.SPLITS_MANIFEST)
    real = real[real["split"] != "unused"].reset_index(drop=True)
    of_real = features.load(paths.FEATURES_REAL)
    table = manifest.read(paths.SYNTHETIC_MANIFEST)
    found = features.load(paths.FEATURES_SYNTHETIC)
    real_matrix = of_real.rows(real["image_id"])
    if real_matrix.shape[1] != found.matrix.shape[1]:
        raise UserError("Real and synthetic images were encoded differently: run `dvc repro embed`.")
    pool = gather(table, found, real, settings)
    outcome = curate(pool, real, real_matrix, decisions, settings, brain.uniqueness, brain.near_duplicates)
    folder = work_folder("curate", fingerprint(settings), afresh=True)
    manifest.write(outcome.synthetic, folder / paths.CURATED_MANIFEST.name)
    manifest.write(outcome.real, folder / paths.CURATED_REAL.name)
    write_json(paths.CURATION_METRICS, outcome.metrics)
    move_into_place(folder, paths.CURATED)
    _report(outcome, settings)


def _gate() -> None:
    if failures := read_json(paths.VALIDATION_METRICS, "validate").get("critical_failures", 0):
        raise UserError(f"The validation gate has {failures} critical failures: see {paths.VALIDATION_REPORT}.")


def gather(table: pd.DataFrame, found: Features, real: pd.DataFrame, settings: Curate) -> Pool:
    """A pool and all that is known of it: features, the probe's opinion, copies, pictures that repeat.

    Args:
        table: Manifest of the synthetic images.
        found: Their features.
        real: Manifest of the real images with ``split``.
        settings: Section `curate`.
    """
    ids, files = table["image_id"].tolist(), table["path"].tolist()
    thumbs = _thumbnails(files)
    return Pool(
        table,
        found.rows(ids),
        found.probability(ids, table["label"].tolist()),
        found.predicted(ids),
        found.probabilities[found.index(ids)].max(axis=1),
        _copies(files, thumbs, real, settings),
        _twins(files, thumbs, real, settings),
    )


def _copies(files: list[str], thumbs: np.ndarray, real: pd.DataFrame, settings: Curate) -> np.ndarray:
    """Id of the image that each of ``files`` repeats, None for none; ``thumbs`` are thumbnails of them.

    As `fidelity` searches, but among all of train, judged by images of val alone, and without the encoder's features,
    which found no planted copy that small pictures did not.
    """
    train, heldout = (real[real["split"] == name] for name in ("train", "val"))
    if train.empty or heldout.empty:  # curate says what is wrong
        return np.full(len(files), None, dtype=object)
    references = pixels.joined(pixels.references(images) for images in read_batches(train["path"].tolist()))
    null = pixels.spaces(_thumbnails(heldout["path"].tolist()))
    search = Search(references, null, detail.suspected(settings.copy_quantile))
    originals, honest = (detail.Files(some["path"].tolist()) for some in (train, heldout))
    confirm = detail.learn(originals, honest, search.null, settings.copy_quantile, settings.seed)
    copies = confirm(detail.Files(files), search.find(pixels.spaces(thumbs)))
    of = train["image_id"].to_numpy(dtype=object)[copies.reference]
    of[~copies.flagged] = None
    return np.asarray(of)


def _twins(files: list[str], thumbs: np.ndarray, real: pd.DataFrame, settings: Curate) -> np.ndarray:
    """Pairs of rows that show one picture, int (m, 2).

    By fine detail, whatever the turn and the crop, and by small pictures, which outlast compression: two
    are as near as two real images of different lesions hardly ever are.
    """
    pairs = [duplicates.search(files).at]
    train = real[real["split"] == "train"]
    if len(train) > 1:
        groups = train["group_id" if "group_id" in train else "image_id"].to_numpy(dtype=object).astype(str)
        of_train = pixels.standardised(_thumbnails(train["path"].tolist()))
        limit = neighbours.close_distance(of_train, groups, rules.pair_share(settings, len(files)))
        if np.isfinite(limit):
            pairs.append(neighbours.pairs_within(pixels.standardised(thumbs), limit))
    return np.unique(np.concatenate(pairs), axis=0)


def _thumbnails(files: list[str]) -> np.ndarray:
    """Image files as uint8 (n, s, s, 3)."""
    return np.concatenate([pixels.thumbnails(batch) for batch in read_batches(files)])


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
