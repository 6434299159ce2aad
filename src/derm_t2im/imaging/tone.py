"""Skin tone: the individual typology angle of the skin around the lesion.

ITA = arctan((L* - 50) / b*) in degrees (Chardon et al. 1991; classes by Del Bino et al. 2006), from
CIE L*a*b* of sRGB under D65. Measured on images whose colours nothing has changed.
"""

from __future__ import annotations

import numpy as np


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) as float32 (h, w, 3) of sRGB uint8 (h, w, 3): L* in 0..100."""
    import cv2

    return cv2.cvtColor(rgb.astype(np.float32) / 255.0, cv2.COLOR_RGB2Lab)


def brightest(rgb: np.ndarray) -> np.ndarray:
    """The largest of the three channels, (h, w); many times faster than ``rgb.max(axis=2)``."""
    return np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])


def skin(rgb: np.ndarray, lesion: np.ndarray, exclude: np.ndarray | None = None) -> np.ndarray:
    """Pixels that are skin, as bool (h, w): off the lesion and its halo, not black, not glare.

    Args:
        rgb: uint8 (h, w, 3).
        lesion: bool (h, w).
        exclude: bool (h, w), further pixels to leave out (hair).

    Falls back to weaker demands where too little is left, so that the answer is never empty.
    """
    import cv2

    side = min(rgb.shape[:2])
    reach = 2 * max(1, round(side * 0.03)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    off = cv2.dilate(lesion.astype(np.uint8), kernel) == 0
    darkest = np.minimum(np.minimum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])
    usable = (brightest(rgb) > 20) & (darkest < 250)
    clear = off & usable if exclude is None else off & usable & ~exclude
    enough = max(16, round(0.02 * off.size))
    for candidate in (clear, off & usable, ~lesion & usable, ~lesion):
        if candidate.sum() >= enough:
            return candidate
    return np.ones(lesion.shape, dtype=bool)


def ita(rgb: np.ndarray, mask: np.ndarray) -> float:
    """Individual typology angle, degrees, of the pixels in ``mask``.

    From the means of L* and b* after a robust trim (pixels within the 20th to the 80th percentile
    of L*), which leaves out hair, glare and vignette. NaN where the mask is empty.

    Args:
        rgb: uint8 (h, w, 3), sRGB.
        mask: bool (h, w): the skin to measure, see :func:`skin`.
    """
    if not mask.any():
        return float("nan")
    values = lab(rgb)[mask]
    low, high = np.percentile(values[:, 0], (20, 80))
    core = values[(values[:, 0] >= low) & (values[:, 0] <= high)]
    lightness, yellow = float(core[:, 0].mean()), float(core[:, 2].mean())
    # Pink skin under polarised light can have b* at or under zero: atan2 with b* kept positive
    # holds the angle within -90..90, where its classes are defined.
    return float(np.degrees(np.arctan2(lightness - 50.0, max(yellow, 1e-3))))
