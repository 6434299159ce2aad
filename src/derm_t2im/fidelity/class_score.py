"""Inception score (Salimans et al. 2016) of any classifier: images that are clear each, and varied together.

exp of the mean divergence KL(p(y | x) || p(y)): from 1, where every image gets the same opinion, to the number of
classes, where each image is surely of one class and all classes come equally often. It knows nothing of real images, so
it stands beside theirs.
"""

from __future__ import annotations

import numpy as np

from derm_t2im.fidelity.estimate import NONE, Estimate, jackknife_variance, normal


def inception_score(probabilities: np.ndarray) -> Estimate:
    """Score of class probabilities (n, k) with a normal interval, from the delete-one jackknife.

    Raises:
        ValueError: for rows that are no probabilities.
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or (p < 0).any() or not np.allclose(p.sum(axis=1), 1, atol=1e-3):
        raise ValueError(f"the Inception score needs class probabilities (n, k) that add up to 1, not {p.shape}")
    n = len(p)
    if n == 0:
        return NONE
    p = p / p.sum(axis=1, keepdims=True)
    own = np.sum(p * _log(p), axis=1)  # minus each image's entropy
    total = p.sum(axis=0)

    def score(inner: np.ndarray, marginal: np.ndarray) -> np.ndarray:
        return np.exp(inner - np.sum(marginal * _log(marginal), axis=-1))

    value = float(score(own.mean(), total / n))
    if n < 3:
        return Estimate(value, float("nan"), float("nan"), n)
    without = score((own.sum() - own) / (n - 1), (total - p) / (n - 1))
    return normal(value, jackknife_variance(without), n)


def _log(p: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(p, 1e-300))
