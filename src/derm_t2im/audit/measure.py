"""One image seen once: what identifies it, what lies on it, how it was made, and a thumbnail of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from derm_t2im.imaging import alignment, hair, hashing, io, quality, sketch
from derm_t2im.sources.intake import verify

if TYPE_CHECKING:
    import pandas as pd

SIDE = sketch.SIDE  # of the thumbnails that are kept, pixels
GREY_SIDE = alignment.SIDE  # of those in grey
HAIR_SIDE = 512  # shorter side at which hair is looked for, at most
MEASURED_SIDE = 224  # the same for all other measures; smaller images stay as they are

#: What is compared between classes; ``side`` (shorter side, pixels) tells sets put together from several.
MEASURES = (
    "hair_fraction", "ruler", "ink", "gel_bubble", "dark_corner", "sharpness", "exposure", "colour_cast", "ita", "side",
)  # fmt: skip


class Measured(NamedTuple):
    """All images that could be read, row by row with ``rows``; 7 kB an image.

    Attributes:
        rows: The collection's rows with ``pixels`` (digest of the decoded image), ``phash``, and :data:`MEASURES`.
        thumbs: uint8 (n, 32, 32, 3), whole images without regard to their aspect.
        grey: uint8 (n, 64, 64), the same in grey, by which near-duplicates are told.
        settings: Generation settings per image, empty where it states none.
        unreadable: ``image_id``, ``reason``, ``detail``.
    """

    rows: pd.DataFrame
    thumbs: np.ndarray
    grey: np.ndarray
    settings: list[dict[str, str]]
    unreadable: pd.DataFrame


def look(file: str) -> dict[str, Any]:
    """Measure one image; ``reason`` and ``detail`` alone where it cannot be read."""
    import cv2

    path = Path(file)
    try:
        rgb = io.read_rgb(path)
        verify(path)
    except io.ImageError as error:
        return {"reason": error.reason, "detail": error.detail}
    height, width = rgb.shape[:2]
    digest = hashlib.sha256(f"{width}x{height} ".encode() + rgb.tobytes()).hexdigest()
    found = hair.hair_mask(middle := _shrunk(rgb, HAIR_SIDE))
    bare = hair.fill(middle, found) if found.any() else middle
    small = _shrunk(bare, MEASURED_SIDE)
    pixels = found if small.shape == bare.shape else _shrunk(found.astype(np.uint8) * 255, MEASURED_SIDE) > 127
    measured = quality.measure(small, pixels)
    return {
        "pixels": digest,
        "phash": hashing.phash(rgb),
        "thumb": hashing.thumbnail(rgb, SIDE),
        "grey": cv2.cvtColor(hashing.thumbnail(rgb, GREY_SIDE), cv2.COLOR_RGB2GRAY),
        "settings": _settings(path),
        **{name: float(measured[name]) for name in MEASURES if name in measured},
        "hair_fraction": float(found.mean()),
        "side": float(min(height, width)),
    }


def gather(rows: pd.DataFrame, looked: Iterable[dict[str, Any]]) -> Measured:
    """Put together what :func:`look` said of each row's file, in the rows' order."""
    import pandas as pd

    thumbs = np.zeros((len(rows), SIDE, SIDE, 3), np.uint8)
    grey = np.zeros((len(rows), GREY_SIDE, GREY_SIDE), np.uint8)
    settings: list[dict[str, str]] = []
    values: list[dict[str, Any]] = []
    good: list[int] = []
    bad: list[tuple[str, str, str]] = []
    for at, one in enumerate(looked):
        if "reason" in one:
            bad.append((str(rows["image_id"].iloc[at]), one["reason"], one["detail"]))
            continue
        thumbs[len(good)], grey[len(good)] = one.pop("thumb"), one.pop("grey")
        settings.append(one.pop("settings"))
        values.append(one)
        good.append(at)
    kept = rows.iloc[good].reset_index(drop=True)
    measured = pd.DataFrame(values, columns=["pixels", "phash", *MEASURES])
    return Measured(
        kept.join(measured),
        thumbs[: len(good)],
        grey[: len(good)],
        settings,
        pd.DataFrame(bad, columns=["image_id", "reason", "detail"], dtype="string"),
    )


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """The image (h, w[, 3]) with a shorter side of at most ``side`` pixels, its aspect kept."""
    import cv2

    height, width = image.shape[:2]
    scale = side / min(height, width)
    if scale >= 1:
        return image
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _settings(path: Path) -> dict[str, str]:
    """Settings in a PNG's text; a text that Pillow refuses (too long, broken) counts as none."""
    from derm_t2im.diffusion import png

    try:
        return png.read(path) if path.suffix.lower() == ".png" else {}
    except (OSError, ValueError, SyntaxError):
        return {}
