"""Where the lesion is, how many there are, and the shape of the largest.

No learning: skin is a smooth surface in L*a*b* that a robust fit finds, a lesion is what is darker
or of another colour than that surface. Works from 64 px and from very light to dark skin, because the
threshold follows the image's own noise and contrast.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from derm_t2im.imaging.tone import brightest, lab

WORKING_SIDE = 128  # larger images are measured at this size
MIN_SHARE = 0.002  # a lesion covers at least this share of the image ...
MIN_OF_LARGEST = 0.08  # ... and of the largest lesion
DARK = 42  # the brightest channel in a black surround stays below, grey levels
KERNEL = 7  # pixels over which that is smoothed
CORNERS = (slice(None, KERNEL // 2 + 1), slice(-(KERNEL // 2 + 1), None))


def lesion_mask(rgb: np.ndarray, exclude: np.ndarray | None = None) -> np.ndarray:
    """Lesion pixels as bool (h, w); all False where nothing stands out from the skin.

    Args:
        rgb: uint8 (h, w, 3), best without hair.
        exclude: bool (h, w), pixels that count as neither (hair); optional.
    """
    import cv2

    height, width = rgb.shape[:2]
    scale = min(1.0, WORKING_SIDE / max(height, width))
    small = rgb
    if scale < 1:
        shape = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(rgb, shape, interpolation=cv2.INTER_AREA)
        if exclude is not None:
            exclude = cv2.resize(exclude.astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST) > 0
    mask = _segment(small, exclude)
    if scale < 1:
        full = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        mask = full > 0.5
    return mask


def _segment(rgb: np.ndarray, exclude: np.ndarray | None) -> np.ndarray:
    import cv2

    height, width = rgb.shape[:2]
    side = min(height, width)
    smooth = cv2.GaussianBlur(rgb, (0, 0), max(0.6, side * 0.012))
    colour = lab(smooth)
    valid = ~black_frame(rgb)
    if exclude is not None:
        valid &= ~exclude
    if valid.sum() < 0.05 * valid.size:
        return np.zeros((height, width), dtype=bool)
    surface, noise = _skin_surface(colour, valid)
    difference = colour - surface
    # Darker counts, lighter does not (glare, scales); a change of hue counts in every direction.
    darker = np.maximum(-difference[..., 0], 0)
    hue = np.hypot(difference[..., 1], difference[..., 2])
    contrast = np.where(valid, np.hypot(darker, 0.7 * hue), 0).astype(np.float32)
    values = contrast[valid]
    top = _quantile(values, 0.995)
    if top < max(6.0, 3.0 * noise):
        return np.zeros((height, width), dtype=bool)
    # Texture of the lesion itself may have got into the noise: it never hides a strong contrast.
    floor = max(3.0, min(2.5 * noise, 0.4 * top))
    scaled = np.clip(values / top * 255, 0, 255).astype(np.uint8)
    otsu = cv2.threshold(scaled.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0] / 255 * top
    # Otsu cuts off the faint rim of a lesion with a dark core: it is capped at half the contrast.
    mask = contrast > max(floor, min(otsu, 0.5 * top))
    reach = 2 * max(1, round(side * 0.012)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    cleaned = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    cleaned = cv2.morphologyEx(cleaned, cv2.MORPH_CLOSE, kernel)
    return _keep(_fill(cleaned))


def black_frame(rgb: np.ndarray) -> np.ndarray:
    """The black surround of a round field of view, as bool (h, w): dark and connected to a corner."""
    import cv2

    # Most images have none: a smoothed corner is as bright as the darkest pixel that the kernel reaches from it.
    if all(brightest(rgb[rows, columns]).min() >= DARK for rows in CORNERS for columns in CORNERS):
        return np.zeros(rgb.shape[:2], dtype=bool)
    dark = (cv2.GaussianBlur(brightest(rgb), (KERNEL, KERNEL), 1.0) < DARK).astype(np.uint8)
    corners = [(y, x) for y in (0, -1) for x in (0, -1) if dark[y, x]]
    if not corners:
        return np.zeros(dark.shape, dtype=bool)
    labels = cv2.connectedComponents(dark, connectivity=4)[1]
    frame = np.isin(labels, [labels[corner] for corner in corners]).astype(np.uint8)
    # A dark hair that runs into the surround is none of it.
    thin = 2 * max(1, round(min(dark.shape) * 0.02)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thin, thin))
    frame = np.minimum(frame, cv2.dilate(cv2.morphologyEx(frame, cv2.MORPH_OPEN, kernel), kernel))
    # Its soft rim is neither skin nor lesion.
    reach = 2 * max(1, round(min(dark.shape) * 0.02)) + 1
    return cv2.dilate(frame, np.ones((reach, reach), np.uint8)) > 0


@lru_cache(maxsize=8)
def _basis(height: int, width: int) -> np.ndarray:
    """Terms of a quadratic surface, float32 (h, w, 6), over coordinates from -1 to 1."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)


def _skin_surface(colour: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, float]:
    """Skin as a quadratic surface in each of L*, a*, b* (h, w, 3), and its noise in L* units.

    Reweighted least squares that starts at the margin and at the lighter pixels, and lets go of what
    lies far off, so that illumination is followed and lesions are not.
    """
    height, width = valid.shape
    basis = _basis(height, width)
    step = max(1, round(min(height, width) / 32))  # a smooth surface needs no more points
    points = np.zeros_like(valid)
    points[::step, ::step] = True
    points &= valid
    a, values = basis[points].astype(np.float64), colour[points].astype(np.float64)
    margin = np.abs(a[:, 1:3]).max(axis=1)
    lightness = values[:, 0]
    rim = lightness[margin > 0.7]
    typical = _quantile(rim if rim.size >= 16 else lightness, 0.6)
    trust = np.where(margin > 0.5, 1.0, 0.3)
    weight = np.where(lightness > typical - 8, 1.0, 0.02) * trust
    spread = 8.0
    ridge = np.diag([0, 1, 1, 2, 2, 2]) * 0.01 * len(a)  # flat unless the pixels say otherwise
    for _ in range(4):  # six change the mask by nothing that counts
        weighted = a * weight[:, None]
        solution = np.linalg.solve(a.T @ weighted + ridge * weight.mean(), weighted.T @ values)
        residual = values - a @ solution
        # Dark outliers are lesions, light ones glare: neither may pull the surface.
        distance = np.sqrt(residual[:, 0] ** 2 + 0.5 * (residual[:, 1] ** 2 + residual[:, 2] ** 2))
        near = distance[weight > 0.2]
        if near.size >= 16:
            spread = min(max(1.2 * _quantile(near, 0.5), 0.7), 6.0)
        far = (distance / (2.0 * spread)) ** 2
        weight = trust / (1 + far * far)
    return (basis.reshape(-1, 6) @ solution.astype(np.float32)).reshape(colour.shape), spread


def _quantile(values: np.ndarray, share: float) -> float:
    """The value below which ``share`` of them lie; several times faster than NumPy's on a few thousand."""
    rank = round(share * (values.size - 1))
    return float(np.partition(values, rank)[rank])


def _fill(mask: np.ndarray) -> np.ndarray:
    """The mask without holes."""
    import cv2

    contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    filled = np.zeros_like(mask)
    cv2.drawContours(filled, contours, -1, 1, thickness=cv2.FILLED)
    return filled


def _keep(mask: np.ndarray) -> np.ndarray:
    """Components that are large enough; thin ones along the margin are vignette, not lesion."""
    import cv2

    count, labels, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)
    height, width = mask.shape
    kept = []
    for i in range(1, count):
        left, top, w, h, area = (int(v) for v in stats[i])
        touches = int(left == 0) + int(top == 0) + int(left + w == width) + int(top + h == height)
        cy, cx = centres[i][1] / height, centres[i][0] / width
        at_margin = max(abs(cy - 0.5), abs(cx - 0.5)) > 0.38
        if area >= MIN_SHARE * mask.size and not (touches and at_margin):
            kept.append((area, i))
    if not kept:
        return np.zeros(mask.shape, dtype=bool)
    largest = max(kept)[0]
    return np.isin(labels, [i for area, i in kept if area >= MIN_OF_LARGEST * largest])


def describe(mask: np.ndarray) -> dict[str, Any]:
    """Shape of a lesion mask, bool (h, w).

    Returns:
        ``lesion_area`` (share of the image, 0..1), ``lesion_count``, and of the largest lesion
        ``lesion_asymmetry`` (share of it that misses its mirror image, mean over both principal
        axes, 0..1) and ``lesion_border`` (irregularity, 1 - 4 pi A / P**2, 0 for a disc).
        NaN for the last two where there is no lesion.
    """
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    shape: dict[str, Any] = {
        "lesion_area": float(mask.mean()),
        "lesion_count": int(count - 1),
        "lesion_asymmetry": float("nan"),
        "lesion_border": float("nan"),
    }
    if count > 1:
        largest = (labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).astype(np.uint8)
        shape["lesion_asymmetry"] = _asymmetry(largest)
        contour = max(cv2.findContours(largest, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)
        # A contour runs through pixel centres; its own area belongs to its own length.
        area, perimeter = cv2.contourArea(contour), cv2.arcLength(contour, True)
        shape["lesion_border"] = float(np.clip(1 - 4 * np.pi * area / max(perimeter, 1e-9) ** 2, 0, 1))
    return shape


def _asymmetry(mask: np.ndarray) -> float:
    """Mean share of the mask outside its mirror image about its two principal axes."""
    import cv2

    moments = cv2.moments(mask, binaryImage=True)
    cx, cy = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    angle = 0.5 * np.arctan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"])
    height, width = mask.shape
    missed = []
    for axis in (angle, angle + np.pi / 2):
        c, s = np.cos(2 * axis), np.sin(2 * axis)
        mirror = np.array([[c, s, cx - c * cx - s * cy], [s, -c, cy - s * cx + c * cy]])
        folded = cv2.warpAffine(mask.astype(np.float32), mirror, (width, height), flags=cv2.INTER_LINEAR)
        missed.append(1 - float(folded[mask > 0].sum()) / float(mask.sum()))
    return float(np.clip(np.mean(missed), 0, 1))
