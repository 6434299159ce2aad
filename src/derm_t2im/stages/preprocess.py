"""Stage `preprocess`: one size, no hair, everything measured; goes on where it was killed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derm_t2im import manifest, paths, progress, quarantine, state
from derm_t2im.errors import UserError
from derm_t2im.params import load
from derm_t2im.params.preprocess import Preprocess

if TYPE_CHECKING:
    import pandas as pd


def run() -> None:
    """Prepare every raw image, write PNGs, manifest, quarantine and ``metrics/preprocess.json``."""
    import pandas as pd

    from derm_t2im.imaging import io, prepare

    settings = load("preprocess", Preprocess)
    raw = manifest.read(paths.RAW_MANIFEST)
    key = state.fingerprint(settings, state.hash_file(paths.RAW_MANIFEST), prepare.code_version())
    work = state.work_folder("preprocess", key)
    folder, journal = work / paths.PROCESSED.name, work / "rows.jsonl"

    images = {name: f"images/{role}/{io.file_name(name, '.png')}" for name, role in _named(raw)}
    done = {row["image_id"]: row for row in _finished(journal, folder, images)}
    jobs = [
        prepare.Job(name, Path(path), folder / images[name])
        for name, path in zip(raw["image_id"].tolist(), raw["path"].tolist(), strict=True)
        if name not in done
    ]
    if done:
        progress.say(f"preprocess: {len(done)} of {len(raw)} images were done before")
    one = partial(
        prepare.prepare,
        size=settings.size,
        min_side=settings.min_side,
        max_pixels=settings.max_pixels,
        method=settings.hair.method,
    )
    _work(one, jobs, journal, done)

    results = pd.DataFrame([done[name] for name in raw["image_id"]])
    if "reason" not in results:
        results = results.assign(reason=None, detail=None)
    refused = results["reason"].notna().to_numpy(dtype=bool)
    bad = raw.loc[refused, ["image_id", "path", "kind", "label", "role"]].assign(
        reason=results.loc[refused, "reason"], detail=results.loc[refused, "detail"]
    )
    quarantine.check(bad, len(raw), settings.max_quarantined, "preprocess.max_quarantined", work / "quarantine.csv")
    if refused.all():
        raise UserError(f"preprocess: none of the {len(raw)} images in {paths.RAW} can be used.")
    kept = (
        raw[~refused]
        .drop(columns=["sha256"], errors="ignore")
        .assign(path=[(paths.PROCESSED / images[name]).as_posix() for name in raw.loc[~refused, "image_id"]])
    )
    table = kept.merge(results[~refused].drop(columns=["reason", "detail"]), on="image_id", validate="one_to_one")
    manifest.write(table, folder / paths.PROCESSED_MANIFEST.name)
    manifest.write(bad, folder / paths.PROCESSED_QUARANTINE.name)
    state.move_into_place(folder, paths.PROCESSED)
    state.write_json(paths.PREPROCESS_METRICS, _metrics(table, bad))
    state.discard(work)
    progress.say(f"preprocess: {len(table)} images ({len(bad)} in quarantine) -> {paths.PROCESSED}")


def _named(raw: pd.DataFrame) -> Iterator[tuple[str, str]]:
    roles = raw["role"].fillna("pool") if "role" in raw else ["pool"] * len(raw)
    return zip(raw["image_id"].tolist(), list(roles), strict=True)


def _finished(journal: Path, folder: Path, images: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Rows of an earlier, killed run whose images are there as they were written."""
    for row in state.sealed_rows(journal):
        image = folder / images[row["image_id"]]
        if "reason" in row or (image.is_file() and state.hash_file(image) == row["sha256"]):
            yield row


def _work(one: Any, jobs: list[Any], journal: Path, done: dict[str, dict[str, Any]]) -> None:
    """Run the jobs; each finished one is noted in the journal at once."""
    from derm_t2im.imaging import pool

    with journal.open("w", encoding="utf-8") as notes:
        notes.writelines(state.sealed_line(row) for row in done.values())
        for row in progress.track(pool.each(one, jobs), "preprocess", total=len(jobs)):
            done[row["image_id"]] = row
            notes.write(state.sealed_line(row))
            notes.flush()


def _metrics(table: pd.DataFrame, bad: pd.DataFrame) -> dict[str, Any]:
    from derm_t2im.imaging import quality

    numbers = [name for name in quality.COLUMNS if name not in ("tone", "lesion_count")]
    metrics: dict[str, Any] = {
        "images": len(table),
        "quarantined": quarantine.tally(bad["reason"]),
        "quarantined_images": len(bad),
        "classes": quarantine.tally(table["label"]),
        "tones": quarantine.tally(table["tone"]),
        "lesion_counts": quarantine.tally(table["lesion_count"]),
        "means": {name: float(table[name].mean()) for name in numbers},
        "with_hair": float((table["hair_fraction"] > 0).mean()),
        "with_hair_left": float((table["hair_left"] > 0).mean()),
    }
    for measured, truth in (("lesion_area", "truth_area"), ("lesion_count", "truth_count"), ("ita", "truth_ita"),
                            ("hair_fraction", "truth_hair")):  # fmt: skip
        if truth in table and table[truth].notna().sum() > 3:
            metrics.setdefault("truth", {})[measured] = _agreement(table[measured], table[truth])
    return metrics


def _agreement(measured: pd.Series, truth: pd.Series) -> dict[str, float | int | None]:
    """Spearman's rank correlation with its 95 % interval (Bonett and Wright 2000)."""
    import numpy as np
    from scipy.stats import spearmanr

    both = measured.notna() & truth.notna()
    x, y = measured[both].astype(float).to_numpy(), truth[both].astype(float).to_numpy()
    n = int(both.sum())
    if n <= 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return {"rank_correlation": None, "n": n}
    r = float(spearmanr(x, y).statistic)
    z, error = np.arctanh(min(r, 1 - 1e-12)), 1.96 * np.sqrt((1 + r * r / 2) / (n - 3))
    return {
        "rank_correlation": r,
        "rank_correlation_low": float(np.tanh(z - error)),
        "rank_correlation_high": float(np.tanh(z + error)),
        "n": n,
    }
