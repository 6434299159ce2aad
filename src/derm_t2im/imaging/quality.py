"""How good an image is, and what lies on it that is not skin.

Every measure is a plain number with a stated unit, made to rank images of one size; where to draw a
line is a parameter of the stage that draws it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from derm_t2im.imaging import hair, lesion, tone
from derm_t2im.vocabulary import tone_of

DETAIL_SIDE = 128  # larger images are shrunk to this for `fine_detail`

COLUMNS = (
    "sharpness",
    "fine_detail",
    "exposure",
    "colour_cast",
    "dark_corner",
    "ruler",
    "ink",
    "gel_bubble",
    "hair_fraction",
    "lesion_area",
    "lesion_count",
    "lesion_asymmetry",
    "lesion_border",
    "ita",
    "tone",
)  # fmt: skip


def measure(rgb: np.ndarray, hair_pixels: np.ndarray | None = None, bare: np.ndarray | None = None) -> dict[str, Any]:
    """All measured columns of the manifest but ``phash``, for one image.

    Args:
        rgb: uint8 (h, w, 3), sRGB whose colours nothing has changed.
        hair_pixels: bool (h, w); found here where not given.
        bare: uint8 (h, w, 3), the image without hair; made here where not given.

    Returns:
        ``sharpness`` (0..1), ``fine_detail`` (a ratio), ``exposure`` (mean lightness, 0..1), ``colour_cast`` (degrees),
        ``dark_corner``, ``ruler``, ``ink``, ``gel_bubble`` (scores, 0..1), ``hair_fraction`` (share
        of the image), ``lesion_*`` (:func:`derm_t2im.imaging.lesion.describe`), ``ita`` (degrees),
        ``tone`` (its name).
    """
    if hair_pixels is None:
        hair_pixels = hair.hair_mask(rgb)
    if bare is None:
        bare = hair.fill(rgb, hair_pixels) if hair_pixels.any() else rgb
    mask = lesion.lesion_mask(bare)
    frame = lesion.black_frame(rgb)
    skin = tone.skin(bare, mask, hair_pixels | frame)
    colour = tone.lab(bare)
    angle = tone.ita(bare, skin)
    return {
        "sharpness": sharpness(bare),
        "fine_detail": fine_detail(bare),
        "exposure": float(np.mean(colour[..., 0][~frame])) / 100 if not frame.all() else 0.0,
        "colour_cast": colour_cast(bare, frame),
        "dark_corner": dark_corner(colour, skin),
        # Before hair removal, which takes marks and thin strokes for hair.
        "ruler": ruler(rgb),
        "ink": ink(colour if bare is rgb else tone.lab(rgb), skin, frame),
        "gel_bubble": gel_bubble(bare),
        "hair_fraction": float(hair_pixels.mean()),
        **lesion.describe(mask),
        "ita": angle,
        "tone": tone_of(angle),
    }


def sharpness(rgb: np.ndarray) -> float:
    """How much detail another blur would take away, 0 (blurred) to 1 (Crete et al. 2007)."""
    import cv2

    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    scores = []
    for axis, kernel in ((1, (9, 1)), (0, (1, 9))):
        blurred = cv2.blur(grey, kernel)
        detail = np.abs(np.diff(grey, axis=axis))
        lost = np.maximum(0, detail - np.abs(np.diff(blurred, axis=axis)))
        scores.append(float(lost.sum()) / max(float(detail.sum()), 1e-6))
    return min(scores)


def fine_detail(rgb: np.ndarray) -> float:
    """Contrast of the finest detail over that of detail twice as coarse, about 0.2 (blurred) to 1.

    Root mean squares of what lies below 2 %, and between 2 and 4 % of the side. :func:`sharpness` asks how
    much of an image's steps are fine, and follows what is shown; this follows the blur (docs/curation-measured.md).
    0 for an even image.
    """
    import cv2

    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    side = min(grey.shape)
    if side > DETAIL_SIDE:
        scale = DETAIL_SIDE / side
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        side = DETAIL_SIDE
    values = grey.astype(np.float32)
    soft, softer = (cv2.GaussianBlur(values, (0, 0), share * side) for share in (0.02, 0.04))
    fine, coarse = (float(np.sqrt(np.mean(np.square(part)))) for part in (values - soft, soft - softer))
    return fine / coarse if coarse > 1e-3 else 0.0


def colour_cast(rgb: np.ndarray, frame: np.ndarray) -> float:
    """Angle in degrees between the light's colour and grey, by shades of grey (p = 6; Finlayson 2004)."""
    step = max(1, min(frame.shape) // 64)
    values, frame = rgb[::step, ::step] / 255.0, frame[::step, ::step]
    squares = (values if frame.all() else values[~frame]).reshape(-1, 3) ** 2
    light = (squares * squares * squares).mean(axis=0) ** (1 / 6)
    length = float(np.linalg.norm(light))
    if length == 0:
        return 0.0
    return float(np.degrees(np.arccos(np.clip(light.sum() / (length * np.sqrt(3)), -1, 1))))


def dark_corner(colour: np.ndarray, skin: np.ndarray) -> float:
    """How much darker the corners are than the skin: 0 (not at all) to 1 (black), mean of four corners."""
    height, width = skin.shape
    reach = max(2, round(0.05 * min(height, width)))
    lightness = colour[..., 0]
    typical = max(float(np.median(lightness[skin])), 1.0)
    rows, columns = (slice(0, reach), slice(height - reach, height)), (slice(0, reach), slice(width - reach, width))
    corners = [float(np.median(lightness[r, c])) for r in rows for c in columns]
    return float(np.mean([np.clip(1 - corner / typical, 0, 1) for corner in corners]))


def ink(colour: np.ndarray, skin: np.ndarray, frame: np.ndarray) -> float:
    """Pen marks: strokes that are violet or blue beside what is around them; 1 from 2 % of the image.

    A stroke is narrow and less yellow than both its flanks and the skin, but hardly greener: a
    blue-white veil is broad, and grey-blue. Colour patches laid beside a lesion are broad, too.

    Args:
        colour: L*a*b* float32 (h, w, 3) of the image with its hair.
        skin: bool (h, w).
        frame: bool (h, w), the black surround, which counts as no ink.
    """
    import cv2

    colour = cv2.GaussianBlur(colour, (3, 3), 0)
    red, yellow = (colour[..., k] - float(np.median(colour[..., k][skin])) for k in (1, 2))
    reach = 2 * max(1, round(0.05 * min(skin.shape))) + 1
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    stroke = cv2.morphologyEx(np.ascontiguousarray(yellow), cv2.MORPH_BLACKHAT, around) > 8
    return float(min(1.0, (stroke & (yellow < -8) & (red > -5) & ~frame).mean() / 0.02))


def gel_bubble(rgb: np.ndarray) -> float:
    """Bubbles in the gel: small bright rims and glints that stand out from what is around them.

    1 from 1.5 % of the image.
    """
    import cv2

    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    reach = 2 * max(1, round(0.02 * min(grey.shape))) + 1
    hat = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    bright = hat > max(28.0, 5 * float(np.median(hat)))
    return float(min(1.0, bright.mean() / 0.015))


def ruler(rgb: np.ndarray) -> float:
    """A scale along a side of the image: marks at even distances, dark or light; 0 to 1.

    Along each side, strips of the image are averaged across; a profile that repeats itself after one
    and two steps, and not after one and a half, belongs to a scale.
    """
    import cv2

    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    size = 256
    grey = cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA if min(grey.shape) > size else cv2.INTER_LINEAR)
    depths = []
    for side in range(4):
        margin = np.ascontiguousarray(np.rot90(grey, side)[:36])
        for dark in (margin, cv2.bitwise_not(margin)):
            depths.append(cv2.morphologyEx(dark, cv2.MORPH_BLACKHAT, np.ones((1, 9), np.uint8)))
    strips = cv2.blur(np.concatenate(depths, axis=1), (1, 6))[4:32:4].reshape(-1, len(depths), size)
    profiles = strips.reshape(-1, size).astype(np.float32)
    # The strongest sixteenth of a profile are its marks: too faint, and there are none.
    strength = np.clip((np.partition(profiles, -16, axis=1)[:, -16:].mean(axis=1) - 6) / 10, 0, 1)
    if not strength.any():
        return 0.0
    profiles, strength = np.minimum(profiles[strength > 0], 40), strength[strength > 0]
    steps = np.arange(7, 23)  # a scale's division, of 256 pixels
    waves = profiles - cv2.blur(profiles, (2 * steps[-1] + 1, 1))
    power = np.abs(np.fft.rfft(waves, 2 * size, axis=1)) ** 2
    alike = np.fft.irfft(power, axis=1)[:, : size // 2] / (1 - np.arange(size // 2) / size)
    alike /= np.maximum(alike[:, :1], 1e-3)
    once, between = alike[:, steps], np.maximum(alike[:, steps + steps // 2], 0)
    repeats = np.minimum(once, alike[:, 2 * steps]) - between
    return float(np.clip((repeats.max(axis=1) * strength).max() / 0.4, 0, 1))
