"""Are two pictures one? Aligned first, then compared in their fine detail.

Centred lesions look much alike in their broad shading, so only what is finer counts: the detail is what
a blur of two pixels takes away, evened out so that a pigment network weighs as much as a sharp rim. The
rim of a dermatoscope's dark field of view is the same in every photo of a device and is left out.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from derm_t2im.errors import exhausted
from derm_t2im.imaging import hashing

SIDE = 64  # pixels of the grey copies
GLANCE = 0.5  # least correlation of the coarse detail before other orientations are tried
GATE = 0.7  # and before the costly alignment,
LEAD = 0.25  # unless one orientation is ahead of all others by so much: symmetrical look-alikes have no such one
_DARK = 60  # grey levels: the field outside a dermatoscope's circle
_MARGIN = 3  # pixels of the half-size copy that a window may be off
_FAINT = 0.02  # least mean square of evened detail: half a grey level, above the steps of 8-bit shading
_STRETCH = 1.8  # most that an alignment may enlarge or shrink


class Copy:
    """A grey copy, uint8 (64, 64); what :func:`agreement` needs of it is made when first asked for."""

    def __init__(self, grey: np.ndarray, small: np.ndarray | None = None) -> None:
        """Keep the copy, and its :func:`halved` detail where that is known."""
        self.pixels = grey
        self.grey = grey.astype(np.float32)
        self.small = halved(grey) if small is None else small

    @cached_property
    def coarse(self) -> np.ndarray:
        """What a blur of four pixels takes away, float32 (64, 64)."""
        return _coarse(self.grey)

    @cached_property
    def even(self) -> np.ndarray:
        """Evened detail for the alignment, float32 (64, 64)."""
        return evened(self.grey, 3.0)

    @cached_property
    def seen(self) -> np.ndarray:
        """Where it may be compared, bool (64, 64)."""
        return _field(self.pixels)


def halved(grey: np.ndarray) -> np.ndarray:
    """Coarse detail of a uint8 (64, 64) copy at half its size, float32 (32, 32)."""
    import cv2

    return cv2.resize(_coarse(grey.astype(np.float32)), (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)


def _coarse(grey: np.ndarray) -> np.ndarray:
    import cv2

    return grey - cv2.GaussianBlur(grey, (0, 0), 4.0)


def evened(grey: np.ndarray, sigma: float, noise: float = 9.0) -> np.ndarray:
    """Detail finer than ``sigma`` pixels, divided by its own strength nearby; ``noise`` (squared) stays small."""
    import cv2

    detail = grey - cv2.GaussianBlur(grey, (0, 0), sigma)
    return detail / np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 4.0) + noise)


def _field(grey: np.ndarray) -> np.ndarray:
    """Without the dark region that touches the border, and four pixels around it; bool (64, 64)."""
    import cv2

    dark = (grey < _DARK).astype(np.uint8)
    labels = cv2.connectedComponents(dark)[1]
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    outside = np.isin(labels, border[border > 0]).astype(np.uint8)
    return cv2.dilate(outside, np.ones((9, 9), np.uint8)) == 0


def agreement(
    first: Copy, second: Copy, window: tuple[float, float, float] = (1.0, 0.0, 0.0), orientation: int = 0
) -> float:
    """Correlation of the details of two images once they lie on one another, -1 where they cannot.

    Args:
        first: A copy.
        second: Another, of which a crop of ``first`` is thought to be a turned version.
        window: That crop: share of each side, left, top (shares of the image).
        orientation: of :func:`hashing.turn`, thought to bring ``second`` upright; the others are tried
            where this one comes near.

    An affine map is sought from there (enhanced correlation coefficient, Evangelidis and Psarakis 2008).
    """
    import cv2

    share, left, top = window
    reading = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    half = SIDE // 2
    crop = np.array([[2 * share, 0, left * SIDE + share - 0.5], [0, 2 * share, top * SIDE + share - 0.5]], np.float32)
    here = cv2.warpAffine(first.coarse, crop, (half, half), flags=reading)
    best, at = _place(here, second.small, orientation)
    if not GLANCE <= best <= 1.001:  # an image without detail gives anything
        return -1.0
    # A lesion may be its own mirror image in its broad shading: its detail tells.
    tried = sorted(((*_place(here, second.small, o), o) for o in range(hashing.ORIENTATIONS)), reverse=True)
    best, at, orientation = tried[0]
    if best < GATE and best - tried[1][0] < LEAD:
        return -1.0
    grow = 1 / share
    start = np.array(
        [
            [grow, 0, -left * SIDE * grow + 0.5 * (grow - 1) - 2 * at[0]],
            [0, grow, -top * SIDE * grow + 0.5 * (grow - 1) - 2 * at[1]],
        ],
        np.float32,
    )
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-3)
    try:
        warp = cv2.findTransformECC(
            first.even,
            _turned(second.even, orientation),
            start,
            cv2.MOTION_AFFINE,
            criteria,
            np.ones((SIDE, SIDE), np.uint8),
            3,
        )[1]
    except cv2.error as error:  # it did not converge: not the same picture
        if told := exhausted(error):
            raise told from None
        return -1.0
    stretch = np.linalg.svd(warp[:, :2], compute_uv=False)
    if not 1 / _STRETCH <= stretch[1] <= stretch[0] <= _STRETCH:
        return -1.0
    moved = cv2.warpAffine(
        _turned(second.grey, orientation), warp, (SIDE, SIDE), flags=reading, borderMode=cv2.BORDER_REPLICATE
    )
    seen = cv2.warpAffine(_turned(second.seen, orientation).astype(np.uint8), warp, (SIDE, SIDE),
                          flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)  # fmt: skip
    common = (seen > 0) & first.seen
    if common.mean() < 0.2:
        return -1.0
    mine, other = evened(first.grey, 2.0)[common], evened(moved, 2.0)[common]
    mine, other = mine - mine.mean(), other - other.mean()
    length = float(np.linalg.norm(mine) * np.linalg.norm(other))
    return float(mine @ other) / length if length > _FAINT * common.sum() else -1.0


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    return np.ascontiguousarray(hashing.turn(image[..., None], orientation)[..., 0])


def _place(here: np.ndarray, there: np.ndarray, orientation: int) -> tuple[float, tuple[int, int]]:
    """Best correlation of ``there``, turned and without its border, within ``here``; and where, in pixels."""
    import cv2

    template = _turned(there, orientation)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    _, best, _, at = cv2.minMaxLoc(cv2.matchTemplate(here, template, cv2.TM_CCOEFF_NORMED))
    return best, (at[0] - _MARGIN, at[1] - _MARGIN)
