"""Statistics of a classifier on a test set, and of the difference of two: pure functions.

Metrics take ``counts``, how often each image is in a sample: a vector (n,) gives one number, the
matrix (draws, n) of :func:`bootstrap_counts` gives one per bootstrap draw, all draws at once. So a
point estimate and its interval come from the same line of code. A metric that a sample does not
define (sensitivity without a positive) is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from derm_t2im.intervals import wilson

_CHUNK = 4_000_000  # elements of a (draws, n) block worked on at a time


def ones(n: int) -> np.ndarray:
    """Each of ``n`` images once: the counts of the sample itself."""
    return np.ones((n,), np.float64)


# --- metrics over counts -------------------------------------------------------------------------


def mean_over(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of ``values`` (n,) in each sample of ``counts`` (..., n)."""
    return ratio(counts @ values.astype(np.float64), counts.sum(axis=-1))


def accuracy(chosen: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Share of images whose class index ``chosen`` (n,) equals ``truth`` (n,)."""
    return mean_over(chosen == truth, counts)


def recall(chosen: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Share of the positives (``truth`` true) that are ``chosen``: the sensitivity; bool (n,)."""
    return mean_over(chosen[truth], counts[..., truth])


def balanced_accuracy(chosen: np.ndarray, truth: np.ndarray, classes: int, counts: np.ndarray) -> np.ndarray:
    """Mean recall over the classes that ``truth`` holds."""
    present = [k for k in range(classes) if (truth == k).any()]
    return np.mean([recall(chosen == k, truth == k, counts) for k in present], axis=0)


def auc(scores: np.ndarray, positive: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, ties counted half (Mann-Whitney); ``positive`` bool (n,)."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else np.zeros(0, int)
    flat = np.atleast_2d(counts)
    out = np.empty(len(flat))
    step = max(1, _CHUNK // max(1, len(scores)))
    for first in range(0, len(flat), step):
        block = flat[first : first + step, order].astype(np.float64)
        ups = np.add.reduceat(block * positive[order], starts, axis=1)
        downs = np.add.reduceat(block * ~positive[order], starts, axis=1)
        below = np.cumsum(downs, axis=1) - downs / 2
        out[first : first + step] = ratio((ups * below).sum(axis=1), ups.sum(axis=1) * downs.sum(axis=1))
    return out.reshape(counts.shape[:-1])


def class_auc(probabilities: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUC of two classes; for more the mean of one class against the rest over the classes in ``truth``."""
    classes = probabilities.shape[1]
    if classes == 2:
        return auc(probabilities[:, 1], truth == 1, counts)
    present = [k for k in range(classes) if (truth == k).any()]
    return np.mean([auc(probabilities[:, k], truth == k, counts) for k in present], axis=0)


def macro_auc(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """:func:`class_auc` of the sample itself; NaN where it holds one class only."""
    return float(class_auc(probabilities, truth, ones(len(truth))))


def bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Index (n,) of the equal-width bin of each confidence in 0..1; a bin includes its upper bound."""
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def ece(probabilities: np.ndarray, truth: np.ndarray, bins: int, counts: np.ndarray) -> np.ndarray:
    """Expected calibration error of the top label over equal-width bins (Guo et al. 2017)."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    excess = confidence - (probabilities.argmax(axis=1) == truth)
    members = bin_of(confidence, bins)[:, None] == np.arange(bins)
    return ratio(np.abs(counts @ (members * excess[:, None])).sum(axis=-1), counts.sum(axis=-1))


def brier(probabilities: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Brier score: (p - y) squared for two classes, its sum over the classes for more (as scikit-learn)."""
    errors = ((probabilities - np.eye(probabilities.shape[1])[truth]) ** 2).sum(axis=1)
    return mean_over(errors / 2 if probabilities.shape[1] == 2 else errors, counts)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below``; NaN where ``below`` is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)


# --- the bootstrap -------------------------------------------------------------------------------


class Draws(NamedTuple):
    """Bootstrap counts (draws, n), and how many draws had to be repeated for want of a class."""

    counts: np.ndarray
    redrawn: int


def bootstrap_counts(
    groups: Sequence[str] | np.ndarray, truth: np.ndarray, draws: int, rng: np.random.Generator
) -> Draws:
    """Draw whole groups (lesions, patients) with replacement.

    A draw in which a class of ``truth`` is missing defines no AUC: it is drawn again, and counted.
    Where even 100 rounds do not suffice (a class of one rare group), the last draw stands.
    """
    _, member = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    n_groups = int(member.max()) + 1 if len(member) else 0
    present = [truth == k for k in np.unique(truth)]

    def draw(count: int) -> np.ndarray:
        picks = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=count)
        return picks[:, member].astype(np.float64)

    counts, redrawn = draw(draws), 0
    for _ in range(100):
        bad = np.zeros(draws, bool)
        for mask in present:
            bad |= counts[:, mask].sum(axis=1) == 0
        if not bad.any():
            break
        counts[bad] = draw(int(bad.sum()))
        redrawn += int(bad.sum())
    return Draws(counts, redrawn)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap values; NaNs (draws that do not define it) are left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p of no difference, from bootstrap values of one: the level at which their interval just holds 0.

    Percentile inversion (Efron and Tibshirani 1993, ch. 15), at least 2 / (draws + 1); NaNs are left out.
    """
    values = differences[np.isfinite(differences)]
    if not len(values):
        return float("nan")
    beyond = min(int((values <= 0).sum()), int((values >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(values) + 1))


# --- tests ---------------------------------------------------------------------------------------


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test: p for images that only A, and only B, got right (McNemar 1947)."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


class Delong(NamedTuple):
    """AUCs of two scores on the same images, their difference's standard error, two-sided p."""

    auc_a: float
    auc_b: float
    error: float
    p: float


def delong(scores_a: np.ndarray, scores_b: np.ndarray, positive: np.ndarray) -> Delong:
    """Paired comparison of two AUCs (DeLong, DeLong, Clarke-Pearson 1988; ranks as Sun and Xu 2014).

    Treats images as independent. NaN where there are fewer than two of a class.
    """
    from scipy.stats import norm, rankdata

    m, n = int(positive.sum()), int((~positive).sum())
    if m < 2 or n < 2:
        return Delong(math.nan, math.nan, math.nan, math.nan)
    placed_up, placed_down, areas = [], [], []
    for scores in (scores_a, scores_b):
        up, down = scores[positive], scores[~positive]
        together = rankdata(np.concatenate([up, down]))
        placed_up.append((together[:m] - rankdata(up)) / n)
        placed_down.append(1 - (together[m:] - rankdata(down)) / m)
        areas.append(float(placed_up[-1].mean()))
    covariance = np.cov(placed_up) / m + np.cov(placed_down) / n
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = math.sqrt(max(variance, 0.0))
    difference = areas[0] - areas[1]
    if error < 1e-12:
        return Delong(areas[0], areas[1], 0.0, 1.0 if abs(difference) < 1e-12 else 0.0)
    return Delong(areas[0], areas[1], error, float(2 * norm.sf(abs(difference) / error)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Holm 1979), in the order given; NaN stays NaN and is not counted."""
    adjusted = [math.nan] * len(p_values)
    known = sorted((p, i) for i, p in enumerate(p_values) if math.isfinite(p))
    highest = 0.0
    for place, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - place)))
        adjusted[i] = highest
    return adjusted


def two_proportions(successes_a: int, n_a: int, successes_b: int, n_b: int) -> float:
    """Two-sided p of the pooled z test that two unpaired shares are equal."""
    pooled = (successes_a + successes_b) / (n_a + n_b)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    if error == 0:
        return 1.0
    return math.erfc(abs(successes_a / n_a - successes_b / n_b) / error / math.sqrt(2))


class Share(NamedTuple):
    """A share with its Wilson interval and its n."""

    value: float
    low: float
    high: float
    n: int


def from_confusion(tn: int, fp: int, fn: int, tp: int) -> dict[str, Share]:
    """Accuracy, sensitivity and specificity of a published confusion matrix, with Wilson intervals."""
    parts = {"accuracy": (tn + tp, tn + fp + fn + tp), "sensitivity": (tp, tp + fn), "specificity": (tn, tn + fp)}
    return {name: Share(k / n if n else math.nan, *wilson(k, n), n) for name, (k, n) in parts.items()}


def threshold_for(scores: np.ndarray, positive: np.ndarray, sensitivity: float) -> float:
    """The highest threshold t at which ``scores >= t`` finds at least this share of the positives.

    NaN where there are no positives.
    """
    found = np.sort(scores[positive])[::-1]
    if not len(found):
        return math.nan
    needed = max(1, math.ceil(round(sensitivity * len(found), 9)))
    return float(found[needed - 1])
