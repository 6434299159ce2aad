"""Images for the classifiers: decoded once, kept as uint8, augmented by the batch.

Every draw belongs to a step, not to a stream: batch ``step`` of a run is the same whether the run
got there in one go or was killed and resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from derm_t2im import runtime, seeds
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import ImageError, read_rgb, square

if TYPE_CHECKING:
    import pandas as pd
    import torch

Augmentation = Literal["none", "standard"]

# Largest shift, as a share of the side; brightness, contrast and channel gains as a share of 1.
SHIFT, BRIGHTNESS, CONTRAST, GAIN = 1 / 12, 0.12, 0.12, 0.05


def read_images(table: pd.DataFrame, size: int = 0) -> np.ndarray:
    """The images of a manifest, uint8 (n, s, s, 3), in its order.

    ``size`` 0 keeps the size of the first image; others are centre-cropped and resized to it.

    Raises:
        UserError: naming the first image that cannot be read.
    """

    def read(row: tuple[str, str]) -> np.ndarray:
        try:
            return read_rgb(Path(row[1]))
        except ImageError as error:
            raise UserError(f"{row[1]} (image {row[0]}): {error}; run `dvc repro` or `dvc checkout`.") from None

    rows = list(zip(table["image_id"], table["path"], strict=True))
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


def augment(
    images: torch.Tensor, rows: torch.Tensor, generator: torch.Generator, kind: Augmentation = "standard"
) -> torch.Tensor:
    """A batch, float32 (b, s, s, 3) in 0..255, of rows of a uint8 pool (n, s, s, 3).

    ``standard`` draws for each image a flip, a quarter turn, a shift of up to s / 12 (mirrored at
    the border), brightness, contrast and channel gains. All geometry is one gather. ``generator``
    lives on the CPU, so the draws are the same on any device.
    """
    import torch

    if kind == "none":
        return images[rows].to(torch.float32)
    count, side, device = len(rows), images.shape[1], images.device
    reach = max(1, round(side * SHIFT))
    shift = torch.randint(-reach, reach + 1, (2, count, 1), generator=generator).to(device)
    flip, turn, both = torch.randint(0, 2, (3, count, 1, 1), generator=generator).to(device).bool()
    colour = torch.rand((5, count), generator=generator).to(device) * 2 - 1

    line = torch.arange(side, device=device)
    y, x = (_mirror(line + s, side) for s in shift)  # (b, s)
    y, x = torch.where(flip[..., 0], side - 1 - y, y), torch.where(both[..., 0], side - 1 - x, x)
    across = y[:, :, None] * side + x[:, None, :]
    down = x[:, :, None] + y[:, None, :] * side  # the same, transposed; with the flips all eight poses
    index = torch.where(turn, down, across).view(count, -1)
    batch = images.view(len(images), side * side, 3)[rows[:, None], index].to(torch.float32)

    gain = (1 + GAIN * colour[:3].T)[:, None, :] * (1 + BRIGHTNESS * colour[3])[:, None, None]
    contrast = (1 + CONTRAST * colour[4])[:, None, None]
    middle = batch.mean(dim=1, keepdim=True)
    batch = ((batch - middle) * contrast + middle) * gain
    return batch.clamp_(0, 255).view(count, side, side, 3)


def _mirror(index: torch.Tensor, side: int) -> torch.Tensor:
    index = index.abs()
    return (side - 1) - ((side - 1) - index).abs()
