"""CMMD: the squared MMD of a Gaussian kernel between rows of length one, times a thousand.

Jayasumana et al. 2024, "Rethinking FID", who use CLIP's embeddings and a bandwidth of 10, so wide beside rows of length
one that the kernel is all but linear. That is the default here; the median distance among real images (Gretton et al.
2012) suits features of any other encoder.
"""

from __future__ import annotations

import numpy as np

from derm_t2im.fidelity import mmd
from derm_t2im.fidelity.blocks import squared_distances
from derm_t2im.fidelity.estimate import Estimate

BANDWIDTH = 10.0
SCALE = 1000.0
_SAMPLE = 1000  # rows behind the median distance


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _gaussian(bandwidth: float) -> mmd.Kernel:
    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        k = squared_distances(a, b)
        k *= -0.5 / bandwidth**2
        return np.exp(k, out=k)

    return kernel


def bandwidth(real: np.ndarray) -> float:
    """Median distance between rows (n, d) of length one, at most a thousand of them; 1 where all are the same.

    Raises:
        ValueError: for fewer than two images.
    """
    (x,) = mmd.checked("CMMD", real)
    step = max(1, len(x) // _SAMPLE)
    x = _unit(x[::step])
    apart = np.sqrt(squared_distances(x, x)[np.triu_indices(len(x), 1)])
    return float(np.median(apart)) or 1.0


def cmmd_interval(x: np.ndarray, y: np.ndarray, bandwidth: float = BANDWIDTH) -> Estimate:
    """CMMD of two sets of features, (m, d) and (n, d), with a jackknife interval.

    Raises:
        ValueError: for fewer than two images, or features of different widths.
    """
    x, y = mmd.checked("CMMD", x, y)
    return _scaled(mmd.mmd_interval(_unit(x), _unit(y), _gaussian(bandwidth)))


def cmmd_floor(x: np.ndarray, bandwidth: float = BANDWIDTH, splits: int = 50, seed: int = 0) -> Estimate:
    """What CMMD says of halves of one set: as :func:`mmd.halves`.

    Raises:
        ValueError: for fewer than four images.
    """
    (x,) = mmd.checked("CMMD", x)
    if len(x) < 4:
        raise ValueError("the floor of CMMD needs at least four images")
    return _scaled(mmd.halves(_unit(x), _gaussian(bandwidth), splits, seed))


def _scaled(found: Estimate) -> Estimate:
    return Estimate(SCALE * found.value, SCALE * found.low, SCALE * found.high, found.n)
