"""Small pictures of images, from which copies and shortcuts are judged."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from derm_t2im.imaging import alignment

SIDE = 32
GRAIN = 0.5  # squared grey levels of detail that count in full: a lesion's rim must not outweigh the skin around it


def thumbnails(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Images uint8 (n, h, w, 3) shrunk to uint8 (n, side, side, 3), antialiased."""
    import cv2

    out = np.empty((len(images), side, side, 3), np.uint8)
    for i, image in enumerate(images):
        out[i] = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return out


def shuffled(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise with the colours of images uint8 (n, h, w, 3): their pixels all mixed up, each kept whole."""
    flat = images.reshape(-1, images.shape[-1])
    return flat[rng.permutation(len(flat))].reshape(images.shape)


def turns(images: np.ndarray) -> list[np.ndarray]:
    """Images (n, h, w, c) as they are, turned and mirrored: eight ways, or the four that keep a non-square's shape."""
    quarter = (0, 1, 2, 3) if images.shape[1] == images.shape[2] else (0, 2)
    return [
        np.ascontiguousarray(np.rot90(base, k, axes=(1, 2))) for base in (images, images[:, :, ::-1]) for k in quarter
    ]


def crops(images: np.ndarray, share: float = 0.9) -> list[np.ndarray]:
    """Nine crops of images (n, h, w, 3) to ``share`` of each side: corners, edges and centre."""
    height, width = images.shape[1:3]
    h, w = round(share * height), round(share * width)
    places = [((height - h) * i // 2, (width - w) * j // 2) for i in range(3) for j in range(3)]
    return [np.ascontiguousarray(images[:, top : top + h, left : left + w]) for top, left in places]


def standardised(thumbs: np.ndarray, side: int = 16) -> np.ndarray:
    """Thumbnails uint8 (n, s, s, 3) as vectors float32 (n, side * side * 3) of mean 0 and length 1.

    The squared distance of two of them is 2 (1 - correlation), so that brightness and contrast do
    not hide a copy.
    """
    small = thumbnails(thumbs, side) if thumbs.shape[1:3] != (side, side) else thumbs
    values = small.reshape(len(small), -1).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def views(images: np.ndarray) -> np.ndarray:
    """Images (n, h, w, 3), whole and cropped, in every turn, as :func:`standardised` vectors (views, n, d)."""
    small = (thumbnails(crop) for crop in (images, *crops(images)))
    return np.stack([standardised(view) for crop in small for view in turns(crop)])


def detailed(thumbs: np.ndarray) -> np.ndarray:
    """Detail finer than two pixels of thumbnails uint8 (n, s, s, 3) as vectors float32 (n, s * s + 1) of length 1.

    Evened out, so that the skin counts as the lesion does. The last value is 0, and 1 for an image of one colour, which
    is then as far from all others as images that have nothing in common.
    """
    import cv2

    values = np.zeros((len(thumbs), thumbs.shape[1] * thumbs.shape[2] + 1), np.float32)
    for row, thumb in zip(values, thumbs, strict=True):
        found = alignment.evened(cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY).astype(np.float32), 2.0, GRAIN)
        found -= found.mean()
        length = float(np.linalg.norm(found))
        if length > 1e-3:
            row[:-1] = found.ravel() / length
        else:
            row[-1] = 1.0
    return values


def spaces(thumbs: np.ndarray) -> dict[str, np.ndarray]:
    """Thumbnails (n, s, s, 3) as the search for copies compares them: space -> (n, d)."""
    return {"pixels": standardised(thumbs), "detail": detailed(thumbs)}


def references(images: np.ndarray) -> dict[str, np.ndarray]:
    """Images (n, h, w, 3) as what may have been copied: space -> (views, n, d).

    Small pictures are turned and cropped. Detail, which says most of a copy that something else was mixed into, is
    turned only: of a crop it lies elsewhere.
    """
    return {"pixels": views(images), "detail": np.stack([detailed(view) for view in turns(thumbnails(images))])}


def joined(parts: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """References of several batches, space -> (views, n, d), as those of all images."""
    every = list(parts)
    return {space: np.concatenate([part[space] for part in every], axis=1) for space in every[0]}


def colours(thumbs: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of L*, a*, b*, float64 (n, 6), of thumbnails uint8 (n, s, s, 3)."""
    values = lab(thumbs).reshape(len(thumbs), -1, 3).astype(np.float64)
    return np.concatenate([values.mean(axis=1), values.std(axis=1)], axis=1)


def borders(thumbs: np.ndarray, width: int = 3) -> np.ndarray:
    """L*, a*, b* of the outermost ``width`` pixels, float64 (n, pixels * 3), of thumbnails uint8 (n, s, s, 3)."""
    ring = np.ones(thumbs.shape[1:3], dtype=bool)
    ring[width:-width, width:-width] = False
    return lab(thumbs)[:, ring].reshape(len(thumbs), -1).astype(np.float64)


def coarse(thumbs: np.ndarray, side: int = 8) -> np.ndarray:
    """L*, a*, b* at ``side`` x ``side`` pixels, float64 (n, side * side * 3): a picture without detail."""
    return lab(thumbnails(thumbs, side)).reshape(len(thumbs), -1).astype(np.float64)


def lab(images: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) as float32 (n, h, w, 3) of sRGB uint8 (n, h, w, 3)."""
    import cv2

    flat = images.reshape(1, -1, 3).astype(np.float32) / 255.0
    if not flat.size:
        return np.zeros(images.shape, np.float32)
    return cv2.cvtColor(flat, cv2.COLOR_RGB2Lab).reshape(images.shape)
