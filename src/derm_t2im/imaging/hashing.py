"""Perceptual hashes whose flips and quarter turns follow from the hash itself.

A bit is the sign of one low-frequency coefficient of a discrete cosine transform (after Zauner 2010).
Mirroring an image changes the sign of its odd coefficients and transposing it transposes them, so
the hashes of all eight orientations are known without the image.
"""

from __future__ import annotations

import numpy as np

SIDE = 8  # coefficients per direction: 64 bits, of which the first (the mean) is always 0
ORIENTATIONS = 8


def phash(rgb: np.ndarray) -> str:
    """64-bit perceptual hash of uint8 (h, w, 3) as 16 hex digits."""
    import cv2

    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    bits = cv2.dct(small)[:SIDE, :SIDE] > 0
    bits[0, 0] = False
    return np.packbits(bits.ravel()).tobytes().hex()


def thumbnail(rgb: np.ndarray, size: int) -> np.ndarray:
    """A small copy of uint8 (h, w[, 3]), antialiased."""
    import cv2

    return cv2.resize(rgb, (size, size), interpolation=cv2.INTER_AREA)


def bits(hashes: list[str]) -> np.ndarray:
    """Hashes as uint8 (n, 64) of zeros and ones.

    Raises:
        ValueError: for a hash that is not 16 hex digits.
    """
    if any(len(text) != 16 for text in hashes):
        raise ValueError("a perceptual hash has 16 hex digits")
    raw = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), 8)
    return np.unpackbits(raw, axis=1)


def orient(hash_bits: np.ndarray, orientation: int) -> np.ndarray:
    """Hash bits (n, 64) of the same images turned as :func:`turn` turns them."""
    square = hash_bits.reshape(-1, SIDE, SIDE)
    odd = np.arange(SIDE) % 2
    if orientation & 4:
        square = square.transpose(0, 2, 1)
    if orientation & 2:
        square = square ^ odd[:, None].astype(np.uint8)
    if orientation & 1:
        square = square ^ odd[None, :].astype(np.uint8)
    return square.reshape(-1, SIDE * SIDE)


def turn(images: np.ndarray, orientation: int) -> np.ndarray:
    """One of the eight orientations (0 to 7) of images (..., h, w, c): 4 transposes, then 2 mirrors
    top to bottom, 1 left to right.
    """  # fmt: skip
    if orientation & 4:
        images = images.swapaxes(-3, -2)
    if orientation & 2:
        images = images[..., ::-1, :, :]
    if orientation & 1:
        images = images[..., :, ::-1, :]
    return images
