"""Images for the classifiers: decoded once, kept as uint8, shown in batches.

Every draw belongs to a step, not to a stream: batch ``step`` of a run is the same whether the run
got there in one go or was killed and resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from derm_t2im import runtime, seeds, state
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import ImageError, read_rgb, square

if TYPE_CHECKING:
    import pandas as pd


_MEND = "run `dvc repro` or `dvc checkout`"


def read_images(table: pd.DataFrame, size: int = 0) -> np.ndarray:
    """The images of a manifest, uint8 (n, s, s, 3), in its order.

    ``size`` 0 keeps the size of the first image; others are centre-cropped and resized to it. Each file must have the
    SHA-256 of its row: a manifest says which images they are, so a stage that depends on it need not on the folder.

    Raises:
        UserError: naming the first image that cannot be read, or is another one.
    """

    def read(row: tuple[str, str, str]) -> np.ndarray:
        name, path, sha256 = row
        try:
            pixels = read_rgb(Path(path))
        except ImageError as error:
            raise UserError(f"{path} (image {name}): {error}; {_MEND}.") from None
        if state.hash_file(Path(path)) != sha256:
            raise UserError(f"{path} (image {name}) is not the file that its manifest knows; {_MEND}.")
        return pixels

    # Before the threads: an import that meets no memory in one leaves half a module to the others.
    import cv2  # noqa: F401

    rows = list(zip(table["image_id"], table["path"], table["sha256"], strict=True))
    if not rows:
        return np.empty((0, size, size, 3), np.uint8)
    side = size or min(read(rows[0]).shape[:2])
    with ThreadPoolExecutor(runtime.workers()) as pool:
        return np.stack(list(pool.map(lambda row: square(read(row), side), rows)))


def class_names(table: pd.DataFrame) -> tuple[str, ...]:
    """The classes of a manifest, in alphabetical order: the order of every network's outputs."""
    return tuple(sorted(table["label"].dropna().unique()))


def encode(labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Class indices, int64 (n,).

    Raises:
        UserError: for a label outside ``classes``.
    """
    index = {name: i for i, name in enumerate(classes)}
    unknown = sorted({str(label) for label in labels if label not in index})
    if unknown:
        raise UserError(f"labels {unknown} are not among the classes {', '.join(classes)}.")
    return np.array([index[label] for label in labels], np.int64)


def refuse_leaks(splits: pd.DataFrame) -> None:
    """Refuse a split in which a group (a lesion, near-duplicates) lies on both sides.

    Raises:
        UserError: naming the groups.
    """
    used = splits[splits["split"].isin(["train", "val", "test", "external"])].dropna(subset=["group_id"])
    sides = used.groupby("group_id")["split"].nunique()
    leaked = list(sides.index[sides > 1])
    if leaked:
        raise UserError(
            f"{len(leaked)} groups lie in more than one split (first: {', '.join(map(str, leaked[:3]))}): "
            "run the stage `split` again; a test image must share no group with training."
        )


def batch_rows(weights: np.ndarray, batch: int, step: int, seed: int) -> np.ndarray:
    """Rows of batch ``step``, int64 (batch,).

    Each pass shows row i ``weights[i]`` times in a new order; batches run on across passes, so all
    have the same size.
    """
    pool = np.repeat(np.arange(len(weights)), weights)
    first, last = step * batch, (step + 1) * batch
    passes = [
        seeds.generator(seed, "pass", p).permutation(pool)
        for p in range(first // len(pool), (last - 1) // len(pool) + 1)
    ]
    start = first - first // len(pool) * len(pool)
    return np.concatenate(passes)[start : start + batch]
