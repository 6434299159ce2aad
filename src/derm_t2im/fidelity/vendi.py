"""Vendi score: the effective number of different images in a set.

Friedman and Dieng 2023: the exponential of the entropy of the eigenvalues of K / n, K the cosine
similarities. K's eigenvalues are those of the d x d matrix of second moments, so no n x n matrix is
needed. It grows with n: compare sets of one size.
"""

from __future__ import annotations

import numpy as np

from derm_t2im.fidelity.estimate import Estimate, jackknife_variance, normal, parts


def _score(moments: np.ndarray, n: float) -> float:
    values = np.linalg.eigvalsh(moments / n)
    values = values[values > 1e-12]
    return float(np.exp(-np.sum(values * np.log(values))))


def vendi_interval(x: np.ndarray, groups: int = 10, seed: int = 0) -> Estimate:
    """Vendi score, between 1 and n, of features (n, d), with an interval.

    The interval is normal, from the jackknife over ``groups`` random parts. Rows of zeros, which
    have no direction, count as one more kind of image.

    Raises:
        ValueError: for no images.
    """
    if x.ndim != 2 or not len(x):
        raise ValueError(f"the Vendi score needs features (n, d), not {x.shape}")
    x = np.asarray(x, np.float64)
    empty = ~x.any(axis=1)
    unit = np.column_stack([x, empty])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    n, d = unit.shape
    # The smaller of the two Gram matrices has all the non-zero eigenvalues.
    gram = unit @ unit.T if n < d else None

    def score(keep: np.ndarray) -> float:
        inner = unit[keep].T @ unit[keep] if gram is None else gram[np.ix_(keep, keep)]
        return _score(inner, float(np.count_nonzero(keep)))

    value = score(np.ones(n, dtype=bool))
    group = parts(n, groups, seed)
    used = int(group.max()) + 1
    if used < 2:
        return Estimate(value, float("nan"), float("nan"), n)
    return normal(value, jackknife_variance(np.array([score(group != g) for g in range(used)])), n)


def vendi(x: np.ndarray) -> float:
    """Vendi score of features (n, d).

    Raises:
        ValueError: for no images.
    """
    return vendi_interval(x, groups=1).value
