"""Precision, recall, density and coverage by k-nearest-neighbour manifolds.

Kynkäänniemi et al. 2019 (improved precision and recall), Naeem et al. 2020 (density and coverage).
A set's manifold is the union of balls around its images, each reaching to the k-th nearest other
image of the set.
"""

from __future__ import annotations

import numpy as np

from derm_t2im.fidelity.blocks import row_blocks, squared_distances
from derm_t2im.fidelity.estimate import Estimate, mean, share

PRDC = ("precision", "recall", "density", "coverage")


def radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance (n,) from each row of ``x`` (n, d) to its k-th nearest other row.

    Raises:
        ValueError: if there are not more than k rows.
    """
    if len(x) <= k:
        raise ValueError(f"{k} neighbours need more than {k} images, not {len(x)}")
    out = np.empty(len(x), x.dtype)
    for rows in row_blocks(len(x), len(x)):
        d2 = squared_distances(x[rows], x)
        d2[np.arange(len(d2)), np.arange(rows.start, rows.stop)] = np.inf
        out[rows] = np.partition(d2, k - 1, axis=1)[:, k - 1]
    return out


def prdc(real: np.ndarray, synthetic: np.ndarray, k: int = 5) -> dict[str, Estimate]:
    """Precision, recall, density and coverage of ``synthetic`` (n, d) against ``real`` (m, d).

    Precision: share of synthetic images inside the real manifold. Recall: share of real images
    inside the synthetic manifold. Density: mean number of real balls around a synthetic image, over
    k. Coverage: share of real balls with a synthetic image inside. Each interval is over the images
    whose share or mean it is, with the other set's manifold as it stands.

    Sets in float32 are compared in float32, all others in float64.

    Raises:
        ValueError: if a set has not more than k images.
    """
    kind = np.float32 if np.result_type(real, synthetic) == np.float32 else np.float64
    # Single precision is enough about the centre: squares of what all images share would eat up its digits.
    centre = np.mean(real, axis=0, dtype=np.float64)
    real, synthetic = (real - centre).astype(kind), (synthetic - centre).astype(kind)
    real_radii, synthetic_radii = radii(real, k), radii(synthetic, k)
    balls = np.zeros(len(synthetic), dtype=np.int64)  # real balls around each synthetic image
    recalled = np.empty(len(real), dtype=bool)
    covered = np.empty(len(real), dtype=bool)
    for rows in row_blocks(len(real), len(synthetic)):
        d2 = squared_distances(real[rows], synthetic)
        inside = d2 < real_radii[rows, None]
        balls += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = (d2 < synthetic_radii[None, :]).any(axis=1)
    return {
        "precision": share(balls > 0),
        "recall": share(recalled),
        "density": mean(balls / k),
        "coverage": share(covered),
    }
