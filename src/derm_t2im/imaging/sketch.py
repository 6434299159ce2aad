"""Sketches: an image's broad colours as few numbers, in which flips, quarter turns and crops are cheap.

A sketch holds the low-frequency cosine coefficients of brightness and two colour differences, without
their means and scaled to length 1, so that the product of two sketches is a correlation. That of a
window of an image is a linear map of a 32 x 32 copy, and that of a flipped or turned image has the same
coefficients with other signs and places (see :mod:`derm_t2im.imaging.hashing`).
"""

from __future__ import annotations

import numpy as np

SIDE = 32  # of the colour copy
ORDER = 6  # cosines per direction
_DEGREE = np.add.outer(np.arange(ORDER), np.arange(ORDER))
_USED = (_DEGREE > 0) & (_DEGREE <= ORDER)
_OPPONENT = np.array([[0.299, 1, 0], [0.587, -1, 1], [0.114, 0, -1]], np.float32)  # luma, R - G, G - B

#: Windows (share of each side, left, top) that are compared with whole images: all of it, and 93 %, 86 %
#: and 80 % of each side in two or three places per direction; a crop lies near enough to one of them.
WINDOWS = (
    (1.0, 0.0, 0.0),
    *(
        (share, left * (1 - share), top * (1 - share))
        for share, places in ((0.93, (0, 1)), (0.86, (0, 0.5, 1)), (0.8, (0, 0.5, 1)))
        for left in places
        for top in places
    ),
)


def sketches(colour: np.ndarray, window: tuple[float, float, float] = WINDOWS[0]) -> np.ndarray:
    """Sketches of a window of images uint8 (n, 32, 32, 3), as float32 (n, 3, 6, 6) of length 1 (or 0, if even)."""
    share, left, top = window
    across, down = _reading(share, left), _reading(share, top)
    out = np.empty((len(colour), 3, ORDER, ORDER), np.float32)
    for start in range(0, len(colour), 1024):
        channels = colour[start : start + 1024].astype(np.float32) @ _OPPONENT
        out[start : start + 1024] = (down @ channels.transpose(0, 3, 1, 2)) @ across.T
    out *= _USED
    length = np.sqrt(np.square(out).sum(axis=(1, 2, 3), keepdims=True))
    return out / np.maximum(length, 1e-3)


def _reading(share: float, start: float) -> np.ndarray:
    """Cosine coefficients of a stretch of 32 pixels as a linear map, float32 (6, 32)."""
    place = (np.arange(SIDE) + 0.5) / SIDE
    cosines = np.cos(np.pi * np.arange(ORDER)[:, None] * place)
    edges = (start + share * np.arange(SIDE + 1) / SIDE) * SIDE
    pixel = np.arange(SIDE)
    shares = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    shares = np.maximum(shares, 0)
    return (cosines @ (shares / shares.sum(axis=1, keepdims=True))).astype(np.float32)


def orient(sketch: np.ndarray, orientation: int) -> np.ndarray:
    """Sketches (n, 3, 6, 6) of the same images turned as :func:`hashing.turn` turns them."""
    signs = (-1.0) ** np.arange(ORDER, dtype=np.float32)
    if orientation & 4:
        sketch = sketch.swapaxes(-1, -2)
    if orientation & 2:
        sketch = sketch * signs[:, None]
    if orientation & 1:
        sketch = sketch * signs
    return sketch


def invariants(sketch: np.ndarray) -> np.ndarray:
    """Numbers of sketches (n, 3, 6, 6) that are equal in all eight orientations, float32 (n, 108).

    Magnitudes of the odd coefficients, sums and differences of those that a transpose swaps. Two
    images are never farther apart in these than their sketches are in the best orientation.
    """
    odd = np.arange(ORDER) % 2
    folded = np.where(odd[:, None] | odd, np.abs(sketch), sketch)
    swapped = folded.swapaxes(-1, -2)
    upper = np.triu_indices(ORDER, 1)
    total = (folded + swapped)[..., upper[0], upper[1]] / np.sqrt(2)
    apart = np.abs(folded - swapped)[..., upper[0], upper[1]] / np.sqrt(2)
    straight = folded[..., np.arange(ORDER), np.arange(ORDER)]
    return np.concatenate([total, apart, straight], axis=-1).reshape(len(sketch), -1).astype(np.float32)


def flat(sketch: np.ndarray) -> np.ndarray:
    """The coefficients in use, float32 (n, 78): their product is the sketches' correlation."""
    return np.ascontiguousarray(sketch[:, :, _USED].reshape(len(sketch), -1))
