"""Fréchet Inception Distance: the Fréchet distance of two Gaussians fitted to features.

Heusel et al. 2017. Biased upwards for small sets: compare it with its own floor at the same n, or
use KID.
"""

from __future__ import annotations

import numpy as np

from derm_t2im.fidelity.estimate import Estimate, jackknife_variance, normal, parts


def _moments(x: np.ndarray, group: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = np.array([np.count_nonzero(group == g) for g in range(groups)], dtype=np.float64)
    sums = np.stack([x[group == g].sum(axis=0) for g in range(groups)])
    products = np.stack([x[group == g].T @ x[group == g] for g in range(groups)])
    return counts, sums, products


def _gaussian(n: float, total: np.ndarray, products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = total / n
    return mean, (products - n * np.outer(mean, mean)) / (n - 1)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _frechet(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], root_a: np.ndarray) -> float:
    # tr (A B)^1/2 = tr (A^1/2 B A^1/2)^1/2: symmetric, so its eigenvalues are real and stable.
    inner = np.maximum(np.linalg.eigvalsh(root_a @ b[1] @ root_a), 0.0)
    gap = a[0] - b[0]
    return float(gap @ gap + np.trace(a[1]) + np.trace(b[1]) - 2 * np.sqrt(inner).sum())


def fid_interval(x: np.ndarray, y: np.ndarray, groups: int = 10, seed: int = 0) -> Estimate:
    """FID of two sets of features, (m, d) and (n, d), with a jackknife interval.

    The interval is normal, from the two-sample jackknife over ``groups`` random parts of each set
    (delete-one would need a matrix root per image). It speaks of the spread, not of the bias.

    Raises:
        ValueError: for fewer than three images, or features of different widths.
    """
    if min(len(x), len(y)) < 3 or x.shape[1:] != y.shape[1:]:
        raise ValueError(f"FID needs at least three images each and one width, not {x.shape} and {y.shape}")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    centre = x.mean(axis=0)  # FID does not change with a shift, its rounding error does
    both = []
    for values, name in ((x - centre, 0), (y - centre, 1)):
        g = max(2, min(groups, len(values) // 2))
        both.append(_moments(values, parts(len(values), g, seed + name), g))
    whole = [_gaussian(c.sum(), s.sum(axis=0), p.sum(axis=0)) for c, s, p in both]
    roots = [_root(covariance) for _, covariance in whole]
    value = _frechet(whole[0], whole[1], roots[0])
    variance = 0.0
    for side, (c, s, p) in enumerate(both):
        other = 1 - side
        without = [
            _frechet(whole[other], _gaussian(c.sum() - c[g], s.sum(axis=0) - s[g], p.sum(axis=0) - p[g]), roots[other])
            if c.sum() - c[g] > 1
            else np.nan
            for g in range(len(c))
        ]
        variance += jackknife_variance(np.array(without))
    spread = normal(value, variance, len(x))
    return spread._replace(low=max(spread.low, 0.0))


def fid(x: np.ndarray, y: np.ndarray) -> float:
    """FID of two sets of features, (m, d) and (n, d).

    Raises:
        ValueError: for fewer than three images, or features of different widths.
    """
    return fid_interval(x, y, groups=2).value
