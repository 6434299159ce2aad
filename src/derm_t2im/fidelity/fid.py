"""Fréchet Inception Distance: the Fréchet distance of two Gaussians fitted to features.

Heusel et al. 2017. Biased upwards for small sets, by a term in 1 / n: compare it with its own floor at the same n, or
use FID-infinity (Chong and Forsyth 2020), which takes that term out, or KID.
"""

from __future__ import annotations

import numpy as np

from derm_t2im.fidelity.estimate import Z95, Estimate, jackknife_variance, normal, parts


def _check(x: np.ndarray, y: np.ndarray) -> None:
    if min(len(x), len(y)) < 3 or x.shape[1:] != y.shape[1:]:
        raise ValueError(f"FID needs at least three images each and one width, not {x.shape} and {y.shape}")


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
    _check(x, y)
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
    _check(x, y)
    centre = np.asarray(x, np.float64).mean(axis=0)
    first, second = (_plain(np.asarray(values, np.float64) - centre) for values in (x, y))
    return _frechet(first, second, _root(first[1]))


def fid_infinity(
    x: np.ndarray,
    y: np.ndarray,
    sizes: int = 8,
    least: float = 0.4,
    draws: int = 4,
    bootstrap: int = 200,
    seed: int = 0,
) -> Estimate:
    """FID as it would be of endlessly many images: FID of random parts against 1 / size, drawn out to nought.

    Both sets are thinned to the same share, so that both biases go. The interval is that of the line's end over
    bootstrap draws of the random parts, shifted to the value: it speaks of the parts, and widens with FID's own
    jackknife interval, whose variance is added.

    Args:
        x: Features (m, d).
        y: Features (n, d).
        sizes: Different shares, evenly spaced in 1 / share.
        least: The smallest share.
        draws: Random parts of each share.
        bootstrap: Draws behind the interval.
        seed: Of parts and draws.

    Raises:
        ValueError: for fewer than 20 images on a side, or features of different widths.
    """
    if min(len(x), len(y)) < 20 or x.shape[1:] != y.shape[1:]:
        raise ValueError(f"FID-infinity needs at least 20 images each and one width, not {x.shape} and {y.shape}")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    centre = x.mean(axis=0)
    x, y = x - centre, y - centre
    rng = np.random.default_rng(seed)
    inverse = np.linspace(1.0, 1.0 / least, sizes)
    values = np.empty((sizes, draws))
    for i, ratio in enumerate(inverse):
        for j in range(draws):
            a = x[rng.permutation(len(x))[: round(len(x) / ratio)]]
            b = y[rng.permutation(len(y))[: round(len(y) / ratio)]]
            first, second = _plain(a), _plain(b)
            values[i, j] = _frechet(first, second, _root(first[1]))

    def end(found: np.ndarray) -> float:
        _, start = np.polyfit(np.repeat(inverse, draws), found.ravel(), 1)
        return float(start)

    value = end(values)
    rows = np.arange(sizes)[:, None]
    ends = [end(values[rows, rng.integers(0, draws, (sizes, draws))]) for _ in range(bootstrap)]
    own = fid_interval(x, y, seed=seed)
    spread = (own.high - own.value) / Z95
    return normal(value, float(np.var(ends)) + spread**2, len(x))


def _plain(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _gaussian(float(len(x)), x.sum(axis=0), x.T @ x)
