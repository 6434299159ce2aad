"""What one reader, or several of the same images, can do: pure functions on arrays.

``counts`` as in :mod:`derm_t2im.classify.statistics`. "Positive" is synthetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from derm_t2im.classify import statistics
from derm_t2im.intervals import wilson


@dataclass(frozen=True)
class Answers:
    """One reader's first answers over the n images of a study.

    ``called``: 1 synthetic, 0 real, NaN none; ``rating``: signed confidence -5..-1 (real) or 1..5 (synthetic),
    NaN none; ``diagnosed``: 1 right (the source's label, the prompt's label), 0 wrong, NaN none.
    """

    called: np.ndarray
    rating: np.ndarray
    diagnosed: np.ndarray


class Estimate(NamedTuple):
    """A value with its interval; NaN where the answers do not define it."""

    value: float
    low: float
    high: float


class Pooled(NamedTuple):
    """The readers' mean: interval, standard error, degrees of freedom, variance between readers' values."""

    estimate: Estimate
    error: float
    df: float
    readers_sd: float


Metric = Callable[[Answers, np.ndarray, np.ndarray], np.ndarray]


def accuracy(answers: Answers, synthetic: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Share of images whose source was named rightly."""
    there = np.isfinite(answers.called)
    return statistics.mean_over((answers.called == synthetic)[there], counts[..., there])


def sensitivity(answers: Answers, synthetic: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Share of the synthetic images that were called synthetic."""
    here = np.isfinite(answers.called) & synthetic
    return statistics.mean_over(answers.called[here], counts[..., here])


def specificity(answers: Answers, synthetic: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Share of the real images that were called real."""
    here = np.isfinite(answers.called) & ~synthetic
    return statistics.mean_over(1 - answers.called[here], counts[..., here])


def auc(answers: Answers, synthetic: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of the signed confidence."""
    there = np.isfinite(answers.rating)
    return statistics.auc(answers.rating[there], synthetic[there], counts[..., there])


def _rates(answers: Answers, synthetic: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores of hit and false alarm rate, each with the log-linear correction (Hautus 1995)."""
    from scipy.stats import norm

    said, there = answers.called == 1, np.isfinite(answers.called)
    hits, signals = counts @ (said & synthetic), counts @ (there & synthetic)
    alarms, noises = counts @ (said & ~synthetic), counts @ (there & ~synthetic)
    return norm.ppf((hits + 0.5) / (signals + 1)), norm.ppf((alarms + 0.5) / (noises + 1))


def d_prime(answers: Answers, synthetic: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sensitivity index d' of signal detection theory; 0 is chance."""
    hit, alarm = _rates(answers, synthetic, counts)
    return hit - alarm


def criterion(answers: Answers, synthetic: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Response criterion c: below 0 leans to "synthetic", above 0 to "real"."""
    hit, alarm = _rates(answers, synthetic, counts)
    return -(hit + alarm) / 2


def diagnosis_real(answers: Answers, synthetic: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Share of the real images that were diagnosed as their source does."""
    here = np.isfinite(answers.diagnosed) & ~synthetic
    return statistics.mean_over(answers.diagnosed[here], counts[..., here])


def diagnosis_synthetic(answers: Answers, synthetic: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Share of the synthetic images that were diagnosed as prompted."""
    here = np.isfinite(answers.diagnosed) & synthetic
    return statistics.mean_over(answers.diagnosed[here], counts[..., here])


def diagnosis_difference(answers: Answers, synthetic: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The latter less the former."""
    return diagnosis_synthetic(answers, synthetic, counts) - diagnosis_real(answers, synthetic, counts)


METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "auc": auc,
    "d_prime": d_prime,
    "criterion": criterion,
    "diagnosis_real": diagnosis_real,
    "diagnosis_synthetic": diagnosis_synthetic,
    "diagnosis_difference": diagnosis_difference,
}
#: What is a share, and so never leaves 0..1.
SHARES = ("accuracy", "sensitivity", "specificity", "auc", "diagnosis_real", "diagnosis_synthetic")


def draw(strata: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap counts (draws, n): each stratum (n,) keeps its number of images, as the study's design does."""
    counts = np.zeros((draws, len(strata)))
    for stratum in np.unique(strata):
        here = np.flatnonzero(strata == stratum)
        counts[:, here] = rng.multinomial(len(here), np.full(len(here), 1 / len(here)), size=draws)
    return counts


def exact(correct: int, n: int) -> tuple[Estimate, float]:
    """Share with its Clopper-Pearson interval, and the two-sided exact binomial p against 0.5."""
    from scipy.stats import binomtest

    if not n:
        return Estimate(math.nan, math.nan, math.nan), math.nan
    test = binomtest(correct, n)
    low, high = test.proportion_ci(method="exact")
    return Estimate(correct / n, float(low), float(high)), float(test.pvalue)


def share(hits: int, n: int) -> Estimate:
    """Share with its Wilson interval."""
    return Estimate(hits / n if n else math.nan, *(wilson(hits, n) if n else (math.nan, math.nan)))


def newcombe(first: Estimate, second: Estimate) -> Estimate:
    """Difference of two independent shares from their Wilson intervals (Newcombe 1998, method 10)."""
    a, b = first, second
    low = a.value - b.value - math.hypot(a.value - a.low, b.high - b.value)
    high = a.value - b.value + math.hypot(a.high - a.value, b.value - b.low)
    return Estimate(a.value - b.value, low, high)


def pool(values: np.ndarray, drawn: np.ndarray, own: list[Estimate], bounded: bool = False) -> Pooled:
    """Mean over readers with an interval for other readers and other images (Obuchowski and Rockette 1995).

    Readers are random and see the same images, so their errors are correlated: the variance of the mean is
    MS(readers) / R + the mean covariance of two readers, here from a bootstrap of the images; t with the degrees
    of freedom of Hillis (2007). With one reader the interval is that reader's own, for other images only.

    Args:
        values: The readers' values (R,).
        drawn: The same for bootstrap draws of the images, (draws, R).
        own: The readers' own intervals; their hull stands in where no variance is to be seen.
        bounded: The value is a share: the interval is cut to 0..1.
    """
    from scipy.stats import t

    there = np.isfinite(values)
    values, drawn = values[there], drawn[:, there]
    own = [one for one, use in zip(own, there, strict=True) if use]
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    r = len(values)
    if r == 0:
        return Pooled(Estimate(math.nan, math.nan, math.nan), math.nan, math.nan, math.nan)
    mean = float(values.mean())
    if r == 1:
        return Pooled(own[0], math.nan, math.nan, math.nan)
    between = float(values.var(ddof=1))
    covariance = np.cov(drawn.T) if len(drawn) > 1 else np.zeros((r, r))
    shared = max(float((covariance.sum() - np.trace(covariance)) / (r * (r - 1))), 0.0)
    variance = between / r + shared
    if variance <= 1e-12:  # all answered alike, without an error: no variance to estimate one from
        hull = Estimate(mean, min(one.low for one in own), max(one.high for one in own))
        return Pooled(hull, 0.0, math.nan, 0.0)
    df = math.inf if between <= 1e-12 else (between + r * shared) ** 2 / (between**2 / (r - 1))
    reach = float(t.ppf(0.975, df)) * math.sqrt(variance)
    low, high = mean - reach, mean + reach
    if bounded:
        low, high = max(low, 0.0), min(high, 1.0)
    return Pooled(Estimate(mean, low, high), math.sqrt(variance), df, math.sqrt(between))


def p_value(pooled: Pooled, null: float) -> float:
    """Two-sided p of the pooled value being ``null``; NaN where no variance is known."""
    from scipy.stats import t

    if not pooled.error > 0:
        return math.nan
    return float(2 * t.sf(abs(pooled.estimate.value - null) / pooled.error, pooled.df))


def detectable(pooled: Pooled, power: float = 0.8) -> float:
    """The deviation that a study with this standard error finds with ``power`` at a level of 0.05 (two-sided)."""
    from scipy.stats import t

    if not pooled.error > 0:
        return math.nan
    return float((t.ppf(0.975, pooled.df) + t.ppf(power, pooled.df)) * pooled.error)
