"""Copies: synthetic images that repeat an image the generator has seen.

Each image is compared with every training image, turned, mirrored and cropped too, in three spaces:
the encoder's, small pictures, and their fine detail, which finds copies that something else was
mixed into. Its score in a space is the distance to the nearest training image over the mean
distance to the next nearest ones (Carlini et al. 2023, "Extracting Training Data from Diffusion
Models"): a copy is far nearer to one image than to the others, where a plain or typical image is
near to all. What is unusually near is learnt from held-out real images, which cannot be copies:
their low quantile is the threshold. What is near is only suspected:
:mod:`derm_t2im.fidelity.detail` looks again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from derm_t2im.fidelity.blocks import row_blocks, squared_distances
from derm_t2im.fidelity.estimate import Estimate, share
from derm_t2im.fidelity.pixels import turns

NEXT = 50
NEAR = 3  # references of each query, in each space, that a second look takes in
KINDS = ("exact", "flipped", "cropped", "recompressed", "blended")


@dataclass(frozen=True)
class Nearest:
    """The nearest reference of each of n queries: row number, distance, and score (see above), each (n,).

    ``near`` (n, k) are the rows of the k nearest, that one among them.
    """

    index: np.ndarray
    distance: np.ndarray
    score: np.ndarray
    near: np.ndarray


@dataclass(frozen=True)
class Copies:
    """Which of n images are copies, of which reference, and how near they are.

    ``rank`` is the share of held-out images that score lower, in the space where that is smallest;
    ``distance`` and ``reference`` are of that space. ``near`` (n, k) are the nearest references in all spaces.
    """

    flagged: np.ndarray
    reference: np.ndarray
    distance: np.ndarray
    rank: np.ndarray
    near: np.ndarray

    @property
    def rate(self) -> Estimate:
        """Share of copies, with Wilson's interval."""
        return share(self.flagged)


def nearest(queries: np.ndarray, references: np.ndarray) -> Nearest:
    """The nearest of m references for each query.

    Args:
        queries: (n, d).
        references: (t, m, d): each reference in t views, of which the nearest counts. float32 is
            enough for rows of about equal length, float64 is safe for all.

    Raises:
        ValueError: for no references.
    """
    views, m = references.shape[:2]
    if m == 0:
        raise ValueError("there are no references")
    index = np.empty(len(queries), dtype=np.intp)
    distance, score = np.empty(len(queries)), np.empty(len(queries))
    most = min(NEAR, m)
    nearby = np.empty((len(queries), most), dtype=np.intp)
    following = min(NEXT, m - 1)
    for rows in row_blocks(len(queries), m):
        d = np.full((rows.stop - rows.start, m), np.inf)
        for view in range(views):
            np.minimum(d, squared_distances(queries[rows], references[view]), out=d)
        d = np.sqrt(d, out=d)
        index[rows] = d.argmin(axis=1)
        distance[rows] = d.min(axis=1)
        nearby[rows] = np.argpartition(d, most - 1, axis=1)[:, :most]
        if following:
            near = np.partition(d, following, axis=1)[:, : following + 1]
            rest = (near.sum(axis=1) - distance[rows]) / following
            score[rows] = distance[rows] / np.maximum(rest, 1e-12)
        else:
            score[rows] = distance[rows]
    return Nearest(index, distance, score, nearby)


class Search:
    """Finds copies of references, by what held-out images say is unusually near.

    An image is a copy if its score is below the held-out images' ``quantile`` divided by the number
    of spaces, in any space: so at most about ``quantile`` of honest images are called copies.

    Args:
        references: Space -> (t, m, d).
        null: Space -> (h, d), the same spaces: held-out real images.
        quantile: Share of honest images that may be called copies.

    Raises:
        ValueError: for no references or no held-out images.
    """

    def __init__(self, references: dict[str, np.ndarray], null: dict[str, np.ndarray], quantile: float) -> None:
        """Learn the thresholds from ``null``."""
        if not all(len(rows) for rows in null.values()):
            raise ValueError("there are no held-out images")
        self.references = references
        self._null = {space: np.sort(nearest(rows, references[space]).score) for space, rows in null.items()}
        self.thresholds = {space: np.quantile(s, quantile / len(null)) for space, s in self._null.items()}
        self.null = self.find(null)

    def find(self, queries: dict[str, np.ndarray]) -> Copies:
        """Which of the queries, space -> (n, d), are copies."""
        found = {space: nearest(queries[space], references) for space, references in self.references.items()}
        flagged = [those.score < self.thresholds[space] for space, those in found.items()]
        ranks = np.stack(
            [np.searchsorted(self._null[space], those.score) / len(self._null[space]) for space, those in found.items()]
        )
        # Clear copies all rank 0: there the lower score tells which image was copied.
        best = (ranks + 1e-9 * np.stack([those.score for those in found.values()])).argmin(axis=0)
        rows = np.arange(len(best))
        return Copies(
            flagged=np.any(flagged, axis=0),
            reference=np.stack([those.index for those in found.values()])[best, rows],
            distance=np.stack([those.distance for those in found.values()])[best, rows],
            rank=ranks[best, rows],
            near=np.concatenate([those.near for those in found.values()], axis=1),
        )


def plant(images: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Copies of images uint8 (n, h, w, 3) as a careless generator would make them, of the same shape.

    Args:
        images: What to copy.
        kind: ``exact``, ``flipped`` (turned or mirrored at random), ``cropped`` (to 90 % of each
            side, anywhere, and resized back), ``recompressed`` (JPEG of quality 50) or ``blended``
            (80 % with 20 % of the next image).
        rng: For what is random.

    Raises:
        ValueError: for another kind.
    """
    import cv2

    if kind == "exact":
        return images.copy()
    if kind == "flipped":
        ways = turns(images)
        chosen = rng.integers(1, len(ways), len(images))
        return np.stack([ways[way][i] for i, way in enumerate(chosen)]) if len(images) else images.copy()
    if kind == "blended":
        mixed = 0.8 * images.astype(np.float32) + 0.2 * np.roll(images, 1, axis=0).astype(np.float32)
        return np.rint(mixed).astype(np.uint8)
    out = np.empty_like(images)
    height, width = images.shape[1:3]
    for i, image in enumerate(images):
        if kind == "cropped":
            h, w = round(0.9 * height), round(0.9 * width)
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            crop = np.ascontiguousarray(image[top : top + h, left : left + w])
            out[i] = cv2.resize(crop, (width, height), interpolation=cv2.INTER_CUBIC)
        elif kind == "recompressed":
            coded = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
            out[i] = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[..., ::-1]
        else:
            raise ValueError(f"{kind!r} is no kind of copy; known: {', '.join(KINDS)}")
    return out
