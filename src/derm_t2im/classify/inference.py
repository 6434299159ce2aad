"""What a difference between two classifiers allows to say: over seeds, within a margin, with how many images."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

POWER, LEVEL = 0.8, 0.05

Verdict = Literal["better", "worse", "equivalent", "better, within the margin", "worse, within the margin", "undecided"]


class Crossed(NamedTuple):
    """A mean over seeds, its standard error for new seeds and new images, and the degrees of freedom of that."""

    mean: float
    error: float
    freedom: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval by Student's t."""
        from scipy.stats import norm, t

        share = (1 + level) / 2
        quantile = norm.ppf(share) if math.isinf(self.freedom) else t.ppf(share, self.freedom)
        return float(self.mean - quantile * self.error), float(self.mean + quantile * self.error)

    def p(self) -> float:
        """Two-sided p that the mean is zero."""
        return math.nan if math.isnan(self.error) else min(1.0, 2 * self._above(abs(self.mean)))

    def tost(self, margin: float) -> float:
        """The larger p of two one-sided tests that the mean lies within ``margin`` (Schuirmann 1987)."""
        if math.isnan(self.error):
            return math.nan
        return max(self._above(self.mean + margin), self._above(margin - self.mean))

    def _above(self, distance: float) -> float:
        from scipy.stats import norm, t

        if self.error == 0:
            return 0.5 if distance == 0 else float(distance < 0)
        z = distance / self.error
        return float(norm.sf(z) if math.isinf(self.freedom) else t.sf(z, self.freedom))


def crossed(values: np.ndarray, covariance: np.ndarray) -> Crossed:
    """Mean of one value per seed, all on the same images, for a new draw of seeds and of images.

    The design of reader studies, with trained networks as readers and images as cases (Obuchowski
    and Rockette 1995; degrees of freedom by Hillis 2007): with S seeds, spread s2 of ``values``
    (S,), and c the mean covariance over images between two seeds, the variance is s2 / S + max(c, 0).
    ``values`` may be paired differences of two training sets. ``covariance`` (S, S) is that over
    images, from a bootstrap. s2 holds at least the noise of images that seeds do not share, so that
    two seeds that agree by chance promise no more than the images alone. NaN for fewer than two seeds.
    """
    seeds = len(values)
    if seeds < 2 or not np.isfinite(values).all() or not np.isfinite(covariance).all():
        return Crossed(float(np.mean(values)), math.nan, math.nan)
    own = float(np.trace(covariance)) / seeds
    shared = (float(covariance.sum()) - own * seeds) / (seeds * (seeds - 1))
    spread = max(float(np.var(values, ddof=1)), own - max(shared, 0.0), 0.0) / seeds
    variance = spread + max(shared, 0.0)
    freedom = variance**2 / (spread**2 / (seeds - 1)) if spread > 0 else math.inf
    return Crossed(float(np.mean(values)), math.sqrt(variance), freedom)


def over_seeds(values: np.ndarray) -> Crossed:
    """:func:`crossed` of ``values`` (seeds, 1 + draws): the sample itself, then bootstrap draws of images."""
    draws = values[:, 1:][:, np.isfinite(values[:, 1:]).all(axis=0)]
    if len(values) < 2 or draws.shape[1] < 2:
        return Crossed(float(np.mean(values[:, 0])), math.nan, math.nan)
    return crossed(values[:, 0], np.cov(draws))


def tost_of_draws(differences: np.ndarray, margin: float) -> float:
    """The larger p of two one-sided tests within ``margin``, from bootstrap ``differences`` (draws,)."""
    known = differences[np.isfinite(differences)]
    if not len(known):
        return math.nan
    outside = max(int((known <= -margin).sum()), int((known >= margin).sum()))
    return (outside + 1) / (len(known) + 1)


def verdict(low: float, high: float, within: bool) -> Verdict | None:
    """What the 95 % interval of a difference, and whether its 90 % interval lies ``within`` the margin, say.

    A difference can be shown and still be within the margin: too small to matter. None where there is no interval.
    """
    if math.isnan(low) or math.isnan(high):
        return None
    if low > 0:
        return "better, within the margin" if within else "better"
    if high < 0:
        return "worse, within the margin" if within else "worse"
    return "equivalent" if within else "undecided"


def _normal() -> tuple[float, float]:
    from scipy.stats import norm

    return float(norm.ppf(1 - LEVEL / 2)), float(norm.ppf(POWER))


def _whole(images: float) -> float:
    return images if math.isnan(images) else float(math.ceil(images))


def images_for_auc(error: float, n: int, gain: float) -> float:
    """Test images at which a difference ``gain`` in AUC is found with 80 % power, two-sided 5 %.

    ``error`` is the standard error (DeLong) of the difference on ``n`` images; its square falls with
    1 / n at the same share of positives. NaN where nothing is to be found, or nothing is known.
    """
    alpha, beta = _normal()
    return _whole(n * ((alpha + beta) * error / gain) ** 2) if gain else math.nan


def images_for_accuracy(discordant: float, gain: float) -> float:
    """Test images at which McNemar's test finds a difference ``gain`` in accuracy with 80 % power, two-sided 5 %.

    By Connor (1987), without correction for continuity. ``discordant`` is the share of images that only one of two
    classifiers gets right; it is at least the difference. NaN where nothing is to be found.
    """
    if not gain or math.isnan(gain):
        return math.nan
    alpha, beta = _normal()
    share = max(discordant, abs(gain))
    return _whole(((alpha * math.sqrt(share) + beta * math.sqrt(share - gain**2)) / gain) ** 2)


def images_unpaired(share_a: float, share_b: float) -> float:
    """Images on each side at which two unpaired shares are told apart with 80 % power, two-sided 5 %.

    Fleiss, Levin and Paik (2003), section 4.2, without correction for continuity; NaN for equal shares.
    """
    if share_a == share_b:
        return math.nan
    alpha, beta = _normal()
    mean = (share_a + share_b) / 2
    apart = share_a * (1 - share_a) + share_b * (1 - share_b)
    return _whole(((alpha * math.sqrt(2 * mean * (1 - mean)) + beta * math.sqrt(apart)) / (share_a - share_b)) ** 2)
