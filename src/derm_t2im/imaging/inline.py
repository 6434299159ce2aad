"""Images inside a page, so that it needs no other file and no network."""

from __future__ import annotations

import base64

import numpy as np

SIDE = 160  # largest side of an embedded image, pixels
QUALITY = 92


def data_uri(rgb: np.ndarray, most: int = SIDE) -> str:
    """A JPEG data URI of an image uint8 (h, w, 3), shrunk where a side is longer than ``most`` pixels."""
    import cv2

    height, width = rgb.shape[:2]
    scale = most / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    # Colour at full resolution: halved, it blurs what a 64-pixel lesion is made of.
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    encoded = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), options)[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
