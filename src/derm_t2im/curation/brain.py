"""FiftyOne's brain on our own embeddings: nothing is downloaded, no image is read.

FiftyOne's indexes subtract the mean from the array they are given, so each gets its own copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from derm_t2im.curation.database import answering, fiftyone

_KNOWN = 3  # FiftyOne averages over the three nearest: with fewer others nothing can be said


@contextmanager
def _index(ids: Sequence[str], embeddings: np.ndarray) -> Iterator[tuple[Any, Any]]:
    """A temporary dataset of one sample per row, in that order, with a Euclidean similarity index."""
    fo = fiftyone()
    import fiftyone.brain as fob

    dataset = fo.Dataset(persistent=False)
    try:
        dataset.add_samples(
            [fo.Sample(filepath=f"/{name}.png", image_id=name) for name in ids], progress=False, dynamic=True
        )
        index = fob.compute_similarity(
            dataset,
            brain_key="near",
            backend="sklearn",
            metric="euclidean",
            embeddings=np.array(embeddings, dtype=np.float64),
        )
        yield dataset, index
    finally:
        dataset.delete()


@answering()
def uniqueness(ids: Sequence[str], embeddings: np.ndarray) -> np.ndarray:
    """How far each image is from its nearest neighbours, 1 for the farthest, float64 (n,).

    Rounded to six decimals, so that it is the same on every machine.
    """
    if len(ids) <= _KNOWN + 1 or not np.ptp(embeddings, axis=0).any():
        return np.ones(len(ids))
    with _index(ids, embeddings) as (dataset, index):
        import fiftyone.brain as fob

        fob.compute_uniqueness(dataset, similarity_index=index, progress=False)
        return np.round(np.array(dataset.values("uniqueness"), dtype=np.float64), 6)


@answering()
def near_duplicates(ids: Sequence[str], embeddings: np.ndarray, distance: float) -> dict[str, tuple[str, float]]:
    """Images to leave out so that no two of the others are within ``distance``.

    Args:
        ids: Images; of a group that looks the same the first in this order stays.
        embeddings: (n, d), rows as ``ids``.
        distance: Euclidean.

    Returns:
        For each image to leave out: the nearest one that stays, and the distance to it.
    """
    if len(ids) < 2:
        return {}
    with _index(ids, embeddings) as (dataset, index):
        index.find_duplicates(thresh=distance)
        names = dict(zip(*dataset.values(["id", "image_id"]), strict=True))
        pairs = {names[o]: names[s] for s, others in (index.neighbors_map or {}).items() for o, _ in others}
    # The brain's own distances are single precision by way of squares: no use close to zero.
    at = {name: i for i, name in enumerate(ids)}
    apart = {o: float(np.linalg.norm(embeddings[at[o]] - embeddings[at[s]])) for o, s in pairs.items()}
    return {other: (pairs[other], apart[other]) for other in sorted(pairs)}
