"""One image on its way from raw to processed: square, hairless, measured, hashed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from derm_t2im.imaging import hair, hashing, io, quality


@dataclass(frozen=True)
class Job:
    """An image to prepare: where it is and where it goes."""

    image_id: str
    source: Path
    target: Path


def prepare(job: Job, size: int, min_side: int, max_pixels: int, method: hair.Method) -> dict[str, Any]:
    """Prepare one image and write it as PNG.

    The centre is cropped square, hair removed at the source's resolution (at most
    :data:`hair.MAX_SIDE`), and only then the image resized: a thin hair is gone before it could blur
    into the skin. Nothing here changes colours, so tone and cast are those of the source.

    Returns:
        ``image_id``, ``sha256`` of the PNG, ``phash``, ``hair_left`` (share of what was written that still looks
        like hair) and all of :data:`quality.COLUMNS`; or ``image_id``, ``reason`` and ``detail`` where the image
        cannot be used.
    """
    try:
        rgb = io.read_rgb(job.source, max_pixels, min_side)
    except io.ImageError as error:
        return {"image_id": job.image_id, "reason": error.reason, "detail": error.detail}
    small, measured = bare_and_measured(rgb, size, method)
    io.write_png(job.target, small)
    digest = hashlib.sha256(job.target.read_bytes()).hexdigest()
    return {"image_id": job.image_id, "sha256": digest, "phash": hashing.phash(small), **measured}


def bare_and_measured(rgb: np.ndarray, size: int, method: hair.Method) -> tuple[np.ndarray, dict[str, Any]]:
    """An image as it is learned from, uint8 (size, size, 3), and its measures as :func:`prepare` returns them."""
    # Far above the target there is no hair to lose, only time.
    crop = io.square(rgb, min(*rgb.shape[:2], max(hair.MAX_SIDE, size)))
    found = hair.hair_mask(crop)
    original = io.square(crop, size)
    # What is measured does not depend on what is removed.
    bare = io.square(hair.fill(crop, found), size) if found.any() else original
    small = bare if method == "directional" else io.square(hair.remove_hair(crop, method)[0], size)
    measured = quality.measure(original, io.square(found, size), bare)
    measured["hair_fraction"] = float(found.mean())
    measured["hair_left"] = float(hair.hair_mask(small).mean())
    return small, measured


def as_trained(rgb: np.ndarray, size: int, method: hair.Method) -> np.ndarray:
    """An image as it is learned from, uint8 (size, size, 3), and nothing else: what a classifier is asked about."""
    if method == "none":
        reach = max(hair.MAX_SIDE, size)  # training images pass through this size as well
        return io.square(io.square(rgb, reach) if min(rgb.shape[:2]) > reach else rgb, size)
    crop = io.square(rgb, min(*rgb.shape[:2], max(hair.MAX_SIDE, size)))
    return io.square(hair.remove_hair(crop, method)[0], size)


def code_version() -> str:
    """Digest of this package's source: work begun by other code must not be taken up again."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
