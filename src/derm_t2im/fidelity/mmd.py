"""Maximum mean discrepancy (Gretton et al. 2012): how far two sets are apart, by the means of a kernel.

Unbiased: zero on average where both sets come from one distribution, so it may be negative.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from derm_t2im.fidelity.blocks import row_blocks
from derm_t2im.fidelity.estimate import Estimate, jackknife_variance, normal

#: Of rows (m, d) and (n, d): values (m, n).
Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def checked(name: str, *sets: np.ndarray) -> list[np.ndarray]:
    """The sets as float64.

    Raises:
        ValueError: for fewer than two images, or features of different widths.
    """
    for values in sets:
        if values.ndim != 2 or len(values) < 2:
            raise ValueError(f"{name} needs features (n, d) of at least two images, not {values.shape}")
    if len({values.shape[1] for values in sets}) > 1:
        raise ValueError(f"{name} needs features of one width")
    return [np.asarray(values, np.float64) for values in sets]


def _row_sums(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
    """Sums of k(x, y) over y (len(x),), and over x (len(y),)."""
    over_y, over_x = np.empty(len(x)), np.zeros(len(y))
    for rows in row_blocks(len(x), len(y)):
        block = kernel(x[rows], y)
        over_y[rows] = block.sum(axis=1)
        over_x += block.sum(axis=0)
    return over_y, over_x


def _own_sums(x: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Sums of k(x_i, x_j) over j other than i."""
    sums = np.zeros(len(x))
    for rows in row_blocks(len(x), len(x)):
        # The kernel is symmetric: what lies right of the diagonal block stands for what lies left of it, too.
        block = kernel(x[rows], x[rows.start :])
        width = rows.stop - rows.start
        block[np.arange(width), np.arange(width)] = 0.0
        sums[rows] += block.sum(axis=1)
        sums[rows.stop :] += block[:, width:].sum(axis=0)
    return sums


def mmd_interval(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> Estimate:
    """Squared MMD of two sets, (m, d) and (n, d) in float64, with a jackknife interval.

    The interval is normal, from the two-sample delete-one jackknife, which here needs no more than
    the sums of the kernel's rows.
    """
    m, n = len(x), len(y)
    own_x, own_y = _own_sums(x, kernel), _own_sums(y, kernel)
    cross_x, cross_y = _row_sums(x, y, kernel)
    total_x, total_y, total = own_x.sum(), own_y.sum(), cross_x.sum()
    mean_x, mean_y = total_x / (m * (m - 1)), total_y / (n * (n - 1))
    value = mean_x + mean_y - 2 * total / (m * n)
    variance = float("nan")
    if min(m, n) > 2:
        without_x = (total_x - 2 * own_x) / ((m - 1) * (m - 2)) + mean_y - 2 * (total - cross_x) / ((m - 1) * n)
        without_y = mean_x + (total_y - 2 * own_y) / ((n - 1) * (n - 2)) - 2 * (total - cross_y) / (m * (n - 1))
        variance = jackknife_variance(without_x) + jackknife_variance(without_y)
    return normal(float(value), variance, m)


def halves(x: np.ndarray, kernel: Kernel, splits: int, seed: int) -> Estimate:
    """What MMD says of one and the same distribution: random halves of ``x`` (n, d) against each other.

    Returns:
        The mean over ``splits`` halvings (near zero) and their 2.5 and 97.5 percentiles; ``high`` is what real images
        reach by chance, the yardstick for synthetic ones.
    """
    n, half = len(x), len(x) // 2
    rng = np.random.default_rng(seed)
    first, second = np.zeros((n, splits)), np.zeros((n, splits))
    for i in range(splits):
        order = rng.permutation(n)
        first[order[:half], i] = 1.0
        second[order[half:], i] = 1.0
    # One pass over the kernel serves all halvings: sums within and across are quadratic forms.
    k_first, k_second, diagonal = np.empty_like(first), np.empty_like(second), np.empty(n)
    for rows in row_blocks(n, n):
        block = kernel(x[rows], x)
        k_first[rows], k_second[rows] = block @ first, block @ second
        diagonal[rows] = block[np.arange(len(block)), np.arange(rows.start, rows.stop)]
    within_first = (first * k_first).sum(axis=0) - diagonal @ first
    within_second = (second * k_second).sum(axis=0) - diagonal @ second
    across = (first * k_second).sum(axis=0)
    rest = n - half
    values = within_first / (half * (half - 1)) + within_second / (rest * (rest - 1)) - 2 * across / (half * rest)
    low, high = np.percentile(values, (2.5, 97.5))
    return Estimate(float(values.mean()), float(low), float(high), n)
