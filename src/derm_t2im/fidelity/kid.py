"""Kernel Inception Distance: the unbiased MMD² of a cubic polynomial kernel.

Binkowski et al. 2018, "Demystifying MMD GANs". k(a, b) = (a.b / d + 1)^3. Unlike FID it has no bias
from small sets: zero on average where both sets come from one distribution, so it may be negative.
"""

from __future__ import annotations

import numpy as np

from derm_t2im.fidelity import mmd
from derm_t2im.fidelity.estimate import Estimate


def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Values (m, n) for rows (m, d) and (n, d)."""
    k = a @ b.T
    k /= a.shape[1]
    k += 1.0
    square = k * k
    square *= k
    return square


def kid_interval(x: np.ndarray, y: np.ndarray) -> Estimate:
    """KID of two sets of features, (m, d) and (n, d), with a jackknife interval.

    The interval is that of :func:`mmd.mmd_interval`. It is too wide where both distributions are the same, and too
    narrow for features with heavy tails (80 instead of 95 % for 80 Gaussian numbers, cubed).

    Raises:
        ValueError: for fewer than two images, or features of different widths.
    """
    x, y = mmd.checked("KID", x, y)
    return mmd.mmd_interval(x, y, kernel)


def kid(x: np.ndarray, y: np.ndarray) -> float:
    """KID of two sets of features, (m, d) and (n, d): the whole sets, no random subsets.

    Raises:
        ValueError: for fewer than two images, or features of different widths.
    """
    return kid_interval(x, y).value


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of ``x`` (n, d) scaled to length sqrt(d), as float64.

    For encoders trained here: how long their features are depends on how they were trained, and a
    cubic kernel lets a few long ones decide. With rows of equal length KID lies between 0 and 16.
    Features of published encoders stay as they are, so that numbers compare with other work.
    """
    x = np.asarray(x, np.float64)
    return x * (np.sqrt(x.shape[1]) / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def kid_floor(x: np.ndarray, splits: int = 50, seed: int = 0) -> Estimate:
    """What KID says of one and the same distribution: random halves of ``x`` (n, d) against each other.

    Returns:
        The mean over ``splits`` halvings (near zero) and their 2.5 and 97.5 percentiles; ``high``
        is the KID that real images reach by chance, the yardstick for synthetic ones.

    Raises:
        ValueError: for fewer than four images.
    """
    (x,) = mmd.checked("KID", x)
    if len(x) < 4:
        raise ValueError("the floor of KID needs at least four images")
    return mmd.halves(x, kernel, splits, seed)
