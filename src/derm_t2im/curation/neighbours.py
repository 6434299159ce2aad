"""Distances between images in feature space (Euclidean), and a flat map of them."""

from __future__ import annotations

import numpy as np

#: Significant digits of stored distances: rounding hides the last bits, which differ between machines.
_DIGITS = 6

_MOST_ROWS = 2000  # two million pairs, 16 MB
_FEWEST_PAIRS = 20


def _rounded(values: np.ndarray) -> np.ndarray:
    """To :data:`_DIGITS` significant digits, float64."""
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (_DIGITS - 1 - np.floor(np.log10(np.abs(values))))
        return np.where((values == 0) | ~np.isfinite(values), values, np.round(values * scale) / scale)


def nearest(query: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest row of ``reference`` for each row of ``query``.

    Args:
        query: (n, d).
        reference: (m, d), m >= 1.

    Returns:
        Row numbers, int (n,), and distances, float64 (n,).
    """
    from sklearn.neighbors import NearestNeighbors

    if not len(query):
        return np.empty(0, np.intp), np.empty(0)
    index = NearestNeighbors(n_neighbors=1).fit(reference.astype(np.float64))
    distance, at = index.kneighbors(query.astype(np.float64))
    return at[:, 0], _rounded(distance[:, 0])


def nearest_other(points: np.ndarray, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The nearest other row for each row, of another group where groups are given.

    Args:
        points: (n, d).
        groups: Group of each row, (n,); rows of one group (images of one lesion) are not compared.

    Returns:
        Row numbers, int (n,), -1 where there is no other; distances, float64 (n,), NaN there.
    """
    from sklearn.neighbors import NearestNeighbors

    n = len(points)
    groups = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    at, distances = np.full(n, -1, np.intp), np.full(n, np.nan)
    if n < 2:
        return at, distances
    index = NearestNeighbors().fit(points.astype(np.float64))
    open_ = np.arange(n)
    k = 2
    while len(open_):
        k = min(k, n)
        distance, neighbour = index.kneighbors(points[open_].astype(np.float64), n_neighbors=k)
        other = groups[neighbour] != groups[open_][:, None]
        found = other.any(axis=1)
        first = other.argmax(axis=1)
        rows = np.flatnonzero(found)
        at[open_[rows]] = neighbour[rows, first[rows]]
        distances[open_[rows]] = distance[rows, first[rows]]
        if k == n:
            break
        open_ = open_[~found]
        k *= 4
    return at, _rounded(distances)


def close_distance(points: np.ndarray, groups: np.ndarray, share: float) -> float:
    """The distance within which a ``share`` of all pairs of different groups lies.

    A share smaller than one pair is reached by extrapolation: near zero the share of pairs within t
    grows as t to the power of the data's dimension, whose maximum-likelihood estimate from the
    closest pairs is Takens' (1985). Two images of one distribution come closer the more are drawn,
    so what counts as close must go by shares of pairs and not by the nearest neighbours of a sample
    of another size.

    Args:
        points: (n, d); of more than 2,000, evenly spaced ones are used.
        groups: Group of each row; pairs within a group (images of one lesion) do not count.
        share: In (0, 1).

    Returns:
        The distance; NaN where there is no pair of two groups, 0 where the pairs are all at zero.
    """
    from scipy.spatial.distance import pdist

    rows = np.unique(np.linspace(0, len(points) - 1, min(len(points), _MOST_ROWS)).astype(int))
    group = np.unique(groups, return_inverse=True)[1][rows]
    first, second = np.triu_indices(len(rows), 1)
    distances = np.sort(pdist(points[rows].astype(np.float64))[group[first] != group[second]])
    n = len(distances)
    if not n:
        return float("nan")
    if share * n >= 1:
        return float(_rounded(np.quantile(distances, share)))
    closest = distances[distances > 0][: max(_FEWEST_PAIRS, n // 100)]
    if not len(closest):
        return 0.0
    spread = float(np.mean(np.log(closest[-1] / closest)))  # one over the dimension
    return float(_rounded(closest[-1] * (share * n / len(closest)) ** spread))


def pairs_within(points: np.ndarray, distance: float) -> np.ndarray:
    """Pairs of rows of ``points`` (n, d) at most ``distance`` apart, int (m, 2), first < second, sorted."""
    from sklearn.neighbors import NearestNeighbors

    if len(points) < 2:
        return np.empty((0, 2), np.intp)
    near = NearestNeighbors(radius=distance).fit(points).radius_neighbors_graph(points).tocoo()
    pairs = np.stack([near.row, near.col], axis=1)[near.row < near.col].astype(np.intp)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def flat_map(points: np.ndarray) -> np.ndarray:
    """First two principal components, float64 (n, 2), rounded to four decimals; zeros where there are none.

    The sign of each is fixed by scikit-learn's rule, so the map does not flip from run to run.
    """
    from sklearn.decomposition import PCA

    out = np.zeros((len(points), 2))
    k = min(2, len(points), points.shape[1])
    if k and np.ptp(points, axis=0).any():
        out[:, :k] = PCA(k, svd_solver="full").fit_transform(points.astype(np.float64))
    return np.round(out, 4) + 0.0  # + 0.0 turns -0.0 into 0.0
