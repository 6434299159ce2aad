"""Numbers with their uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from derm_t2im.intervals import wilson

Z95 = 1.959963984540054


class Estimate(NamedTuple):
    """A value, its 95 % interval, and the number of images behind it."""

    value: float
    low: float
    high: float
    n: int

    def keys(self, name: str) -> dict[str, float]:
        """As metrics: ``name``, ``name_low``, ``name_high``."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


NONE = Estimate(float("nan"), float("nan"), float("nan"), 0)


def share(hits: np.ndarray) -> Estimate:
    """Share of true values in a bool array (n,), with Wilson's score interval (Wilson 1927)."""
    n = len(hits)
    if n == 0:
        return NONE
    k = int(np.count_nonzero(hits))
    return Estimate(k / n, *wilson(k, n), n)


def mean(values: np.ndarray) -> Estimate:
    """Mean of (n,) values with its normal interval."""
    n = len(values)
    if n == 0:
        return NONE
    middle = float(np.mean(values))
    half = Z95 * float(np.std(values, ddof=1)) / np.sqrt(n) if n > 1 else float("nan")
    return Estimate(middle, middle - half, middle + half, n)


def normal(value: float, variance: float, n: int) -> Estimate:
    """A value with the normal interval of a known variance."""
    half = Z95 * float(np.sqrt(variance))
    return Estimate(value, value - half, value + half, n)


def jackknife_variance(without: np.ndarray) -> float:
    """Variance of an estimate from its values without each of g equal parts (Tukey 1958)."""
    g = len(without)
    return float((g - 1) / g * np.sum((without - np.mean(without)) ** 2)) if g > 1 else float("nan")


def percentile(draw: Callable[[np.random.Generator], float], value: float, n: int, times: int, seed: int) -> Estimate:
    """``value`` with the percentile interval of ``times`` bootstrap draws."""
    rng = np.random.default_rng(seed)
    drawn = np.array([draw(rng) for _ in range(times)])
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return Estimate(value, float(low), float(high), n)


def parts(n: int, groups: int, seed: int) -> np.ndarray:
    """Number of the part, 0..groups-1, to which each of n rows belongs: parts of equal size, at random."""
    return np.random.default_rng(seed).permutation(np.arange(n) % max(1, min(groups, n)))
