"""Hair: found by its direction, removed by inpainting.

``directional``: a hair is narrow across and long along. A grey closing by a short line fills it
where the line lies across it and leaves it where the line lies along it; the difference over angles
answers to hairs and hardly to dots, globules and edges, which look the same from all sides. Two
scales, dark and light hair, hysteresis, and a filter on length and elongation follow; structure that
lies within the lesion must be far longer to count as hair.

``blackhat``: the common snippet after DullRazor (Lee et al. 1997), kept to compare with: grey
black-hat, a fixed threshold, Telea inpainting.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

Method = Literal["none", "blackhat", "directional"]

ANGLES = 8
ACROSS = (0.024, 0.05)  # reach of the closings, shares of the image's side: finer and coarser hair
RUNS = (0.03, 0.08)  # a hair runs straight for so much of the side everywhere, and somewhere
STRONG, WEAK = 12.0, 8.0  # depth of a hair's straight part and of all of it, grey levels
NOISE = 1.3  # ... and at least so many times the mean depth around it
LIGHT = 1.4  # light hair has to stand out by so much more: glare is light too
LONG, LONG_INSIDE = 0.12, 0.3  # least length, shares of the side; of what lies within the lesion
MAX_SIDE = 1024  # hair is looked for, and filled, at this size at most


def remove_hair(
    rgb: np.ndarray, method: Method = "directional", lesion: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Remove hair from an image.

    Args:
        rgb: uint8 (h, w, 3).
        method: ``none``, ``blackhat`` or ``directional``.
        lesion: bool (h, w): where structure is to be protected; found here where not given.

    Returns:
        The image without hair (the same object where there was none), and the hair as bool (h, w).
    """
    import cv2

    if method == "none":
        return rgb, np.zeros(rgb.shape[:2], dtype=bool)
    if method == "blackhat":
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        hat = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, cv2.getStructuringElement(cv2.MORPH_RECT, (9, 9)))
        found = hat > 10
        return (cv2.inpaint(rgb, found.astype(np.uint8), 6, cv2.INPAINT_TELEA) if found.any() else rgb), found
    if method != "directional":
        raise ValueError(f"hair method is {method!r}: none, blackhat or directional")
    found = hair_mask(rgb, lesion)
    return (fill(rgb, found) if found.any() else rgb), found


def hair_mask(rgb: np.ndarray, lesion: np.ndarray | None = None) -> np.ndarray:
    """Hair pixels by directional closings, as bool (h, w).

    Args:
        rgb: uint8 (h, w, 3).
        lesion: bool (h, w): where structure is to be protected; found here where not given.
    """
    import cv2

    height, width = rgb.shape[:2]
    if max(height, width) > MAX_SIDE:
        scale = MAX_SIDE / max(height, width)
        shape = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(rgb, shape, interpolation=cv2.INTER_AREA)
        inside = None if lesion is None else cv2.resize(lesion.astype(np.uint8), shape) > 0
        shrunk = hair_mask(small, inside).astype(np.uint8)
        return cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    side = min(height, width)
    # Many archives' images carry a thin line around: a groove lies between it and a dark corner.
    rim = max(1, round(0.008 * side))
    grey = cv2.copyMakeBorder(grey[rim:-rim, rim:-rim], rim, rim, rim, rim, cv2.BORDER_REPLICATE)
    candidates: np.ndarray = _candidates(grey, side, 1.0)
    # Skin between dark hairs looks like light hair.
    beside = cv2.dilate(candidates.astype(np.uint8), np.ones((2 * rim + 5, 2 * rim + 5), np.uint8)) > 0
    candidates |= _candidates(255 - grey, side, LIGHT) & ~beside
    if not candidates.any():
        return candidates
    from derm_t2im.imaging.lesion import black_frame, lesion_mask

    if lesion is None:
        lesion = lesion_mask(rgb, candidates, working_side=64)  # its rough place is enough
    # A lesion's dark rim is its own: what lies along the edge counts as inside.
    reach = 2 * round(0.045 * side) + 1
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    lesion = cv2.dilate(lesion.astype(np.uint8), around) > 0
    found = _long_and_thin(candidates & ~black_frame(rgb), lesion, side)
    if found.any():
        # The soft rim of a hair is hair too.
        found = cv2.dilate(found.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return found


@lru_cache(maxsize=64)
def _line(length: int, angle: int) -> np.ndarray:
    """A line of ``length`` pixels at ``angle`` / ANGLES of a half turn, as a structuring element."""
    half = length // 2
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.uint8)
    theta = np.pi * angle / ANGLES
    along = np.linspace(-half, half, 4 * half + 1)
    rows = np.rint(half + along * np.sin(theta)).astype(int)
    columns = np.rint(half + along * np.cos(theta)).astype(int)
    kernel[rows, columns] = 1
    return kernel


def _candidates(grey: np.ndarray, side: int, strictness: float) -> np.ndarray:
    """Dark grooves that are narrow across and run straight for a while, as bool (h, w).

    Per direction: what a closing across fills and a closing along does not. What of it survives an
    opening along the direction is a seed; grooves that hang together with a seed are candidates.
    """
    import cv2

    # No line closes more than a square around it: too few deep pixels, and there is no hair to find.
    reach = max(5, 2 * round(max(ACROSS) * side / 2) + 1)
    deep = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, np.ones((reach, reach), np.uint8)) > strictness * WEAK
    if deep.sum() < LONG * side:
        return np.zeros(grey.shape, dtype=bool)
    soft = np.zeros_like(grey)
    firm = np.zeros_like(grey)
    short, long = (max(5, 2 * round(run * side / 2) + 1) for run in RUNS)
    for share in ACROSS:
        across = max(5, 2 * round(share * side / 2) + 1)
        pad = long + across
        padded = cv2.copyMakeBorder(grey, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        closed = [cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _line(across, angle)) for angle in range(ANGLES)]
        for angle in range(ANGLES):
            groove = cv2.subtract(closed[(angle + ANGLES // 2) % ANGLES], closed[angle])
            groove = cv2.morphologyEx(groove, cv2.MORPH_OPEN, _line(short, angle))
            soft = cv2.max(soft, groove[pad:-pad, pad:-pad])
            groove = cv2.erode(groove, _line(long, angle))
            firm = cv2.max(firm, groove[pad:-pad, pad:-pad])
        if across == 5:
            break  # the second scale would be the first
    # Texture has grooves everywhere, a hair has skin beside it.
    reach = 2 * round(0.08 * side / 2) + 1
    level = cv2.boxFilter(soft, cv2.CV_32F, (reach, reach), borderType=cv2.BORDER_REFLECT)
    contrast = soft - NOISE * level
    labels = cv2.connectedComponents(((soft > strictness * WEAK) & (contrast > 0)).astype(np.uint8), connectivity=8)[1]
    keep = np.zeros(labels.max() + 1, dtype=bool)
    keep[np.unique(labels[firm > strictness * STRONG])] = True
    keep[0] = False
    return keep[labels]


def _long_and_thin(candidates: np.ndarray, lesion: np.ndarray, side: int) -> np.ndarray:
    """Components that are long and elongated; within the lesion, far longer."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(candidates.astype(np.uint8), connectivity=8)
    area = np.maximum(stats[:, cv2.CC_STAT_AREA].astype(np.float64), 1)
    length = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    depth = cv2.distanceTransform(candidates.astype(np.uint8), cv2.DIST_L2, 3)
    width = 4 * np.bincount(labels.ravel(), depth.ravel(), minlength=count) / area - 1
    inside = np.bincount(labels[lesion], minlength=count) / area
    elongation = length / np.maximum(width, 1)
    within = inside > 0.5
    keep = (length >= np.where(within, LONG_INSIDE, LONG) * side) & (elongation >= np.where(within, 10.0, 5.0))
    keep[0] = False
    return keep[labels]


def fill(rgb: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Inpaint with a small radius (Telea 2004), on the boxes that hold hair only."""
    import cv2

    radius = 3
    count, _, stats, _ = cv2.connectedComponentsWithStats(found.astype(np.uint8), connectivity=8)
    boxes = stats[1:count, :4]
    covered = int((boxes[:, 2].astype(int) * boxes[:, 3]).sum())
    mask = found.astype(np.uint8)
    if covered >= 0.5 * found.size:
        return cv2.inpaint(rgb, mask, radius, cv2.INPAINT_TELEA)
    out = rgb.copy()
    pad = 2 * radius
    for left, top, width, height in boxes:
        rows = slice(max(0, top - pad), top + height + pad)
        columns = slice(max(0, left - pad), left + width + pad)
        patch, hole = out[rows, columns], mask[rows, columns]
        filled = cv2.inpaint(np.ascontiguousarray(patch), np.ascontiguousarray(hole), radius, cv2.INPAINT_TELEA)
        patch[hole > 0] = filled[hole > 0]
    return out
