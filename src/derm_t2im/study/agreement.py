"""Agreement beyond chance: pure functions on category indices.

``counts`` says how often each image is in a sample, (n,) or (draws, n), as in
:mod:`derm_t2im.classify.statistics`: a point and its bootstrap come from the same line.
"""

from __future__ import annotations

import numpy as np


def cohen(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Cohen's kappa of two readers (Cohen 1960); category indices int (n,).

    NaN where both give one and the same category throughout: chance alone would agree as well.
    """
    k = int(max(first.max(initial=0), second.max(initial=0))) + 1
    total = counts.sum(axis=-1)
    observed = _ratio(counts @ (first == second).astype(float), total)
    shares = [_ratio(counts @ np.eye(k)[codes], total[..., None]) for codes in (first, second)]
    return _beyond(observed, (shares[0] * shares[1]).sum(axis=-1))


def fleiss(ratings: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Fleiss' kappa (Fleiss 1971) of m >= 2 readers.

    Args:
        ratings: How many of the m readers gave each image each category, int (n, categories).
        counts: See the module.

    NaN where one category is given throughout.
    """
    m = ratings.sum(axis=1)[0]
    per_image = ((ratings.astype(float) ** 2).sum(axis=1) - m) / (m * (m - 1))
    total = counts.sum(axis=-1)
    observed = _ratio(counts @ per_image, total)
    shares = _ratio(counts @ (ratings / m), total[..., None])
    return _beyond(observed, (shares**2).sum(axis=-1))


def rated(codes: np.ndarray, categories: int) -> np.ndarray:
    """Counts (n, categories) for :func:`fleiss` from category indices (readers, n)."""
    return np.eye(categories, dtype=int)[codes].sum(axis=0)


def _beyond(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return np.where(expected < 1 - 1e-12, _ratio(observed - expected, 1 - expected), np.nan)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below != 0, above / below, np.nan)
