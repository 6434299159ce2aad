"""What the order of scores and the decisions on them say, for all bootstrap draws at once.

``counts`` as in :mod:`derm_t2im.classify.statistics`: (n,) for one sample, (draws, n) for many.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from derm_t2im.classify.statistics import ratio

SPECIFICITY = 0.9  # at which the ROC curve is read
_CHUNK = 4_000_000  # elements of a (draws, n) block worked on at a time


class Ranking(NamedTuple):
    """Per draw: area under the ROC curve, average precision, sensitivity at :data:`SPECIFICITY`."""

    auc: np.ndarray
    average_precision: np.ndarray
    sensitivity: np.ndarray


def ranked(scores: np.ndarray, positive: np.ndarray, counts: np.ndarray) -> Ranking:
    """Read ``scores`` (n,) against ``positive`` (bool, n) from one sort and two running sums.

    AUC counts ties half (Mann-Whitney); average precision is the sum of precision times the step in
    recall, without interpolation (as scikit-learn); the sensitivity is the highest one among the
    points of the ROC curve with at least that specificity, again without interpolation. NaN where a
    draw holds no positive, or (AUC, sensitivity) no negative.
    """
    order = np.argsort(-scores, kind="stable")
    down = scores[order]
    starts = np.flatnonzero(np.r_[True, down[1:] != down[:-1]]) if len(down) else np.zeros(0, int)
    flat, up = np.atleast_2d(counts), positive[order]
    out = np.full((3, len(flat)), np.nan)
    step = max(1, _CHUNK // max(1, len(scores)))
    for first in range(0, len(flat), step) if len(scores) else ():
        block = flat[first : first + step, order].astype(np.float64)
        found = np.add.reduceat(block * up, starts, axis=1)
        false = np.add.reduceat(block * ~up, starts, axis=1)
        hits, alarms = np.cumsum(found, axis=1), np.cumsum(false, axis=1)
        ups, downs = hits[:, -1], alarms[:, -1]
        pairs = (found * (downs[:, None] - alarms + false / 2)).sum(axis=1)
        precision = np.divide(hits, hits + alarms, out=np.zeros_like(hits), where=hits + alarms > 0)
        allowed = alarms <= (1 - SPECIFICITY) * downs[:, None] + 1e-9
        out[0, first : first + step] = ratio(pairs, ups * downs)
        out[1, first : first + step] = ratio((found * precision).sum(axis=1), ups)
        out[2, first : first + step] = ratio((found * allowed).sum(axis=1), ups * (downs > 0))
    return Ranking(*(values.reshape(counts.shape[:-1]) for values in out))


def f1(flagged: np.ndarray, positive: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall, both bool (n,); NaN where nothing is flagged or positive."""
    hits = counts @ (flagged & positive).astype(np.float64)
    return ratio(2 * hits, counts @ flagged.astype(np.float64) + counts @ positive.astype(np.float64))


def precision(flagged: np.ndarray, positive: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Share of what is ``flagged`` that is ``positive``, both bool (n,); NaN where nothing is flagged."""
    hits = counts @ (flagged & positive).astype(np.float64)
    return ratio(hits, counts @ flagged.astype(np.float64))
