"""A base model's training set from manifests of one's own images: only what may be learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import manifest, progress, seeds
from derm_t2im.diffusion import prompts, sample
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import ImageError, read_rgb, square

if TYPE_CHECKING:
    import pandas as pd

LEAST = 64  # images
TESTED = ("val", "test", "external")
VARIANTS = 8  # captions of an image
# How often a caption leaves a word out, so that prompts may, too; as for phantoms (sources/broad.py).
LEAVE_OUT = {"label": 0.1, "size": 0.15, "count": 0.25, "tone": 0.2, "site": 0.6}


@dataclass(frozen=True)
class Collection:
    """What a base model learns from.

    ``images`` are uint8 (n, side, side, 3), ``captions`` n tuples of sentences; ``heldout`` are images (m, side, side,
    3) of the validation split, on which the result is judged. ``sources`` counts images by (source, licence).
    """

    images: np.ndarray
    captions: list[tuple[str, ...]]
    heldout: np.ndarray
    sources: dict[tuple[str, str], int]


def collect(manifests: Sequence[Path], splits: Sequence[str], everything: bool, side: int, seed: int) -> Collection:
    """Read the images of manifests that may be learned from, with captions of what was measured on them.

    Args:
        manifests: Tables of real images, as the stages write them.
        splits: Which splits to learn from.
        everything: Learn from all images, whatever their split.
        side: Of the images in pixels; larger ones are cropped square and shrunk.
        seed: Of the words that captions leave out.

    Raises:
        UserError: for a manifest without splits, too few images, an image that is missing, broken or too small.
    """
    import pandas as pd

    chosen, tested = [], []
    for path in manifests:
        table = manifest.read(path)
        table = table[table["kind"] == "real"]
        if "split" not in table and not everything:
            raise UserError(
                f"{path} has no column `split`: take data/splits/manifest.parquet, or say --all to learn from all of "
                "its images (none is left to test on)."
            )
        chosen.append(table if everything else table[table["split"].isin(splits)])
        if not everything:
            tested.append(table[table["split"].isin(TESTED)])
    rows = _once(pd.concat(chosen))
    judged = _once(pd.concat(tested)) if tested else rows.iloc[:0]
    # What one manifest learns from may be another's test.
    for column in ("path", "sha256"):
        if column in rows and column in judged:
            rows = rows[~rows[column].isin(judged[column].dropna())]
    if len(rows) < LEAST:
        of = "" if everything else f" of split {' or '.join(splits)}"
        raise UserError(
            f"{', '.join(map(str, manifests))}: {len(rows)} real images{of}, at least {LEAST} are needed; "
            "raise split.train, or add manifests."
        )
    names = [
        rows[c].fillna("unknown").tolist() if c in rows else ["unknown"] * len(rows) for c in ("source", "licence")
    ]
    sources: dict[tuple[str, str], int] = {}
    for key in zip(*names, strict=True):
        sources[key] = sources.get(key, 0) + 1
    captions = [_captions(_said(row), seed, str(row.image_id)) for row in rows.itertuples()]
    heldout = judged[judged["split"] == "val"] if tested else judged
    return Collection(_read(rows["path"], side), captions, _read(heldout["path"], side), sources)


def _once(rows: pd.DataFrame) -> pd.DataFrame:
    """Each file once, though several manifests may name it."""
    return rows.drop_duplicates("path").reset_index(drop=True)


def _said(row: Any) -> dict[str, str]:
    said = sample.said_of(row)
    return said if isinstance(row.label, str) and row.label else {k: v for k, v in said.items() if k != "label"}


def _captions(said: Mapping[str, str], seed: int, image_id: str) -> tuple[str, ...]:
    rng = seeds.generator(seed, "captions", image_id)
    return tuple(
        prompts.compose({key: value for key, value in said.items() if rng.random() >= LEAVE_OUT[key]})
        for _ in range(VARIANTS)
    )


def _read(paths: pd.Series, side: int) -> np.ndarray:
    images = np.empty((len(paths), side, side, 3), np.uint8)
    for i, path in enumerate(progress.track(paths.tolist(), "base: read")):
        try:
            rgb = read_rgb(Path(str(path)))
        except ImageError as error:
            raise UserError(f"{path}: {error.detail}; run `dvc checkout`, or mend the manifest.") from None
        if min(rgb.shape[:2]) < side:
            raise UserError(
                f"{path} has {rgb.shape[1]} x {rgb.shape[0]} pixels, the base draws {side}: set preprocess.size to "
                f"{side} and run `dvc repro split`, or give a smaller `image` with --config."
            )
        images[i] = square(rgb, side)
    return images
