"""Stage `acquire`: bring the images of the pool and of the external set to ``data/raw``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derm_t2im import manifest, paths, quarantine, state
from derm_t2im.errors import UserError, no_room
from derm_t2im.params import load
from derm_t2im.params.acquire import Acquire
from derm_t2im.progress import say

if TYPE_CHECKING:
    import pandas as pd

_PATHS = ("path", "mask_path", "hair_path", "clean_path")


def run() -> None:
    """Collect both roles, write images, manifest, quarantine and ``metrics/data.json``."""
    settings = load("acquire", Acquire)
    work = state.work_folder("acquire", state.fingerprint(settings))
    folder = work / paths.RAW.name
    shutil.rmtree(folder, ignore_errors=True)  # copying is quick: half of it is not worth keeping
    try:
        folder.mkdir(parents=True)
        _collect(settings, work, folder)
    except OSError as error:
        raise no_room(error, work) or error from None


def _collect(settings: Acquire, work: Path, folder: Path) -> None:
    from derm_t2im import sources

    rows, refused = {}, {}
    rows["pool"], refused["pool"] = sources.collect(settings, "pool", folder)
    rows["external"], refused["external"] = sources.collect(settings, "external", folder)
    rows["external"], both = _apart(rows["external"], set(rows["pool"]["image_id"]), folder)
    refused["external"] = _join([refused["external"], both])

    table, bad = _join(list(rows.values())), quarantine.unique_ids(_join(list(refused.values())))
    if rows["pool"].empty:
        _stop_empty(settings, bad, work)
    for name in ("pool", "external"):
        own = bad[bad["role"] == name] if "role" in bad else bad
        total = len(rows[name]) + len(own)
        quarantine.check(own, total, settings.max_quarantined, "acquire.max_quarantined", work / "quarantine.csv")
    for column in _PATHS:
        if column in table:
            table[column] = table[column].map(lambda text: _relocated(text, folder), na_action="ignore")
    manifest.write(table, folder / paths.RAW_MANIFEST.name)
    manifest.write(bad, folder / paths.RAW_QUARANTINE.name)
    state.move_into_place(folder, paths.RAW)
    state.write_json(paths.DATA_METRICS, _metrics(table, bad, settings))
    sources.finished(settings)
    state.discard(work)
    say(f"acquire: {len(table)} images, {_told(bad)} -> {paths.RAW}")


def _told(bad: pd.DataFrame) -> str:
    """How many images are in quarantine and why, with the diagnoses that no class is known for."""
    if not len(bad):
        return "none in quarantine"
    reasons = ", ".join(f"{count} {reason}" for reason, count in quarantine.tally(bad["reason"]).items())
    unmapped = bad[bad["reason"] == "unmapped_label"]
    names = list(quarantine.tally(unmapped["dx"].fillna("").replace("", "(none)"))) if "dx" in unmapped else []
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{len(bad)} in quarantine ({reasons}{f'; no class for: {shown}' if names else ''})"


def _join(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables below one another; those without rows only lend their columns."""
    import pandas as pd

    full = [manifest.conform(quarantine.unique_ids(table)) for table in tables if len(table)]
    return pd.concat(full, ignore_index=True) if full else tables[0]


def _apart(external: pd.DataFrame, pool: set[str], folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The external rows whose id the pool has not got, and the others for the quarantine."""
    shared = external["image_id"].isin(pool).to_numpy(dtype=bool)
    both = external[shared]
    for path in both["path"]:
        Path(path).unlink(missing_ok=True)
    columns = [name for name in ("image_id", "path", "kind", "label", "dx", "source", "role") if name in both]
    detail = [f"{name} is in the pool too" for name in both["image_id"]]
    return external[~shared], both[columns].assign(reason="duplicate_id", detail=detail, path="")


def _relocated(path: str, folder: Path) -> str:
    return (paths.RAW / Path(path).relative_to(folder)).as_posix()


def _stop_empty(settings: Acquire, bad: pd.DataFrame, work: Path) -> None:
    quarantine.check(bad, len(bad), 0.0, "acquire.max_quarantined", work / "quarantine.csv")
    raise UserError(f"acquire: the source {settings.source!r} found no image in {settings.path}.")


def _metrics(table: pd.DataFrame, bad: pd.DataFrame, settings: Acquire) -> dict[str, Any]:
    from derm_t2im.sources import labels

    def part(rows: pd.DataFrame, refused: pd.DataFrame) -> dict[str, Any]:
        return {
            "images": len(rows),
            "classes": quarantine.tally(rows["label"]),
            "quarantined": quarantine.tally(refused["reason"]),
            "quarantined_images": len(refused),
        }

    unmapped = bad[bad["reason"] == "unmapped_label"]
    roles = {
        role: part(table[table["role"] == role], bad[bad["role"] == role] if "role" in bad else bad)
        for role in ("pool", "external")
    }
    names = sorted({*table["source"].dropna(), *(bad["source"].dropna() if "source" in bad else ())})
    return {
        **part(table, bad),
        "roles": roles,
        "sources": {
            name: part(table[table["source"] == name], bad[bad["source"] == name] if "source" in bad else bad)
            for name in names
        },
        "licences": quarantine.tally(table["licence"]) if "licence" in table else {},
        "unmapped": quarantine.tally(unmapped["dx"]) if "dx" in unmapped else {},
        "labels_version": labels.table()[0],
    }
