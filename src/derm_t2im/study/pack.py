"""The folder of a study: blinded images, the page for the readers, the key, the plan.

An image file betrays nothing but its pixels: every file has the same size in bytes, the same header,
no text, the same date. PNG without compression is what makes the sizes equal, since a smooth image
compresses better than a noisy one.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import paths, seeds, state
from derm_t2im.errors import UserError
from derm_t2im.study import page, power
from derm_t2im.study.design import PRACTICE, READING, Chosen, Plan

if TYPE_CHECKING:
    import pandas as pd

KEY, PLAN, PAGE, IMAGES = "key.csv", "plan.json", "read.html", "images"
KEY_COLUMNS = ("name", "phase", "shows", "kind", "label", "image_id", "sha256", "source_sha256")
DATE = 946684800  # of every blinded file: 2000-01-01


def encode(rgb: np.ndarray) -> bytes:
    """An image uint8 (h, w, 3) as a PNG whose length depends on h and w alone."""
    import cv2

    return bytes(cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 0])[1])


def read_square(table: pd.DataFrame, size: int = 0) -> tuple[list[np.ndarray], dict[str, int]]:
    """The images uint8 (size, size, 3), cropped square; and how many of each kind had to be resized.

    Args:
        table: Rows with ``path``, ``sha256``, ``kind``, ``image_id``.
        size: Side in pixels; 0: the smallest side of all of them.

    Raises:
        UserError: where a file is missing, unreadable or not the one that the manifest speaks of, or
            ``size`` would enlarge images more than twofold.
    """
    from derm_t2im.imaging.io import ImageError, read_rgb, square

    images = []
    for row in table.itertuples():
        path = Path(str(row.path))
        try:
            rgb = read_rgb(path)
        except ImageError as error:
            raise UserError(f"{path}: {error.detail}; run `dvc checkout` or `dvc repro`.") from None
        if isinstance(row.sha256, str) and row.sha256 and state.hash_file(path) != row.sha256:
            raise UserError(f"{path} has changed since its manifest was written: run `dvc checkout` or `dvc repro`.")
        images.append(rgb)
    smallest = min(min(rgb.shape[:2]) for rgb in images)
    if size > 2 * smallest:
        raise UserError(
            f"--size {size} is more than twice the {smallest} px of the smallest image: files would grow and show "
            "nothing new. The page enlarges images for reading anyway."
        )
    size = size or smallest
    resized = {kind: 0 for kind in ("real", "synthetic")}
    for rgb, kind in zip(images, table["kind"], strict=True):
        resized[str(kind)] += min(rgb.shape[:2]) != size
    return [square(rgb, size) for rgb in images], resized


def write(folder: Path, chosen: Chosen, plan: Plan, size: int = 0) -> dict[str, Any]:
    """Write a study whole or not at all; returns its plan.

    Raises:
        UserError: where the folder is there already, or an image cannot be used.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already, and a study stays as it was made: choose another --out.")
    work = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    try:
        made = _write(work, chosen, plan, size, folder.name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return made


def _write(work: Path, chosen: Chosen, plan: Plan, size: int, name: str) -> dict[str, Any]:
    (work / IMAGES).mkdir(parents=True)
    pixels, resized = read_square(chosen.table, size)
    pngs = [encode(rgb) for rgb in pixels]
    shows = _shows(chosen.table, plan)
    key, shown = [], []
    digits = len(str(len(shows)))
    numbers = {READING: 0, PRACTICE: 0}
    for row, repeated in shows:
        about = chosen.table.iloc[row]
        phase = str(about["phase"])
        numbers[phase] += 1
        item = f"{'image' if phase == READING else 'practice'}-{numbers[phase]:0{digits}d}"
        (work / IMAGES / f"{item}.png").write_bytes(pngs[row])
        key.append({
            "name": item, "phase": phase, "shows": row, "kind": about["kind"], "label": about["label"],
            "image_id": about["image_id"], "sha256": hashlib.sha256(pngs[row]).hexdigest(),
            "source_sha256": about["sha256"],
        })  # fmt: skip
        shown.append(page.Shown(item, phase, row if repeated else None, pngs[row]))
    for file in sorted((work / IMAGES).iterdir()):
        os.utime(file, (DATE, DATE))
    os.utime(work / IMAGES, (DATE, DATE))
    text = io.StringIO()
    table = csv.DictWriter(text, KEY_COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(key)
    state.write_atomic(work / KEY, text.getvalue())
    key_hash = state.hash_file(work / KEY)
    study = hashlib.sha256(f"study {key_hash}".encode()).hexdigest()[:12]
    labels = sorted(set(chosen.table["label"]))
    side = pixels[0].shape[0]
    state.write_atomic(work / PAGE, page.render(study, labels, shown, side))
    reading = chosen.table[chosen.table["phase"] == READING]
    counts = {
        kind: {label: int(((reading["kind"] == kind) & (reading["label"] == label)).sum()) for label in labels}
        for kind in ("real", "synthetic")
    }
    made = {
        "name": name, "study": study, "seed": plan.seed, "git_commit": _commit(), "classes": labels,
        "images": len(reading), "counts": counts, "repeats": plan.repeats,
        "practice": int((chosen.table["phase"] == PRACTICE).sum()), "shown": len(shows),
        "size": side, "resized": resized, "pools": chosen.pools, "left_out_as_near_duplicates": chosen.left_out,
        "sha256": {
            KEY: key_hash, PAGE: state.hash_file(work / PAGE), IMAGES: state.hash_tree(work / IMAGES),
            paths.SPLITS_MANIFEST.as_posix(): state.hash_file(paths.SPLITS_MANIFEST),
            paths.CURATED_MANIFEST.as_posix(): state.hash_file(paths.CURATED_MANIFEST),
        },
        "detectable_accuracy": power.table(len(reading)),
    }  # fmt: skip
    state.write_json(work / PLAN, made)
    return made


def _shows(table: pd.DataFrame, plan: Plan) -> list[tuple[int, bool]]:
    """(row of the table, is it shown twice) for everything that is shown, by chance.

    Repeats are spread over kinds and classes: by chance in turn from each.
    """
    rng = seeds.generator(plan.seed, "study", "order")
    rows = np.flatnonzero(table["phase"] == READING)
    cells: dict[tuple[str, str], list[int]] = {}
    for row in rng.permutation(rows):
        cells.setdefault((str(table["kind"].iat[row]), str(table["label"].iat[row])), []).append(int(row))
    # By class first: with fewer repeats than cells both kinds still get the same number.
    names = sorted(cells, key=lambda cell: (cell[1], cell[0]))
    turns = [cells[name][i] for i in range(max(map(len, cells.values()))) for name in names if i < len(cells[name])]
    again = turns[: plan.repeats]
    shows = [(int(row), int(row) in again) for row in np.concatenate([np.arange(len(table)), again]).astype(int)]
    return [shows[i] for i in rng.permutation(len(shows))]


def _commit() -> str | None:
    """The commit that the study was made at, with ``+changes`` where tracked files differ; None outside Git."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip() if not done.returncode else ""

    try:
        commit = git("rev-parse", "HEAD")
        return (commit + ("+changes" if git("status", "--porcelain", "-uno") else "")) or None
    except (OSError, subprocess.TimeoutExpired):
        return None
