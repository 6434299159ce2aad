"""Pairwise work in blocks of rows, so that no n x n matrix is ever held."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Most numbers in one block of a pairwise matrix: 16 MB of float64.
BLOCK = 2_000_000


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices over ``rows`` such that each block of (slice, columns) has at most :data:`BLOCK` numbers."""
    step = max(1, BLOCK // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (len(x), len(y)) of float64 rows, never negative."""
    d2 = -2.0 * (x @ y.T)
    d2 += np.einsum("ij,ij->i", x, x)[:, None]
    d2 += np.einsum("ij,ij->i", y, y)[None, :]
    return np.maximum(d2, 0.0, out=d2)
