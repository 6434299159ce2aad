"""What a study of a given size can and cannot find: deviations from chance that it detects."""

from __future__ import annotations

from typing import Any

LEVEL, POWER = 0.05, 0.8


def rejects_from(n: int, level: float = LEVEL) -> int:
    """The fewest correct answers of ``n`` at which the two-sided exact binomial test against 0.5 rejects.

    ``n + 1`` where no number of correct answers does.
    """
    from scipy.stats import binom

    # Symmetric at 0.5, so two-sided p = 2 P(X >= k).
    return next((k for k in range(n // 2 + 1, n + 1) if 2 * binom.sf(k - 1, n, 0.5) <= level), n + 1)


def detectable(n: int, level: float = LEVEL, power: float = POWER) -> float:
    """The accuracy above 0.5 at which that test on ``n`` independent answers rejects with ``power``; NaN if none."""
    from scipy.optimize import brentq
    from scipy.stats import binom

    k = rejects_from(n, level)
    if k > n:
        return float("nan")
    return float(brentq(lambda p: binom.sf(k - 1, n, p) - power, 0.5, 1.0))


def table(n: int, readers: tuple[int, ...] = (3, 5, 10)) -> dict[str, Any]:
    """Detectable accuracy for one reader of ``n`` images, and its bounds for the mean of several.

    Readers of the same images are right and wrong together to an unknown degree. The best case is that
    their answers are independent, as if one reader had read ``n`` times as many images; the worst that
    they always agree, and each further reader adds nothing.
    """
    one = round(detectable(n), 4)
    return {
        "level": LEVEL,
        "power": POWER,
        "one_reader": one,
        "mean_of_readers": {str(r): {"best": round(detectable(n * r), 4), "worst": one} for r in readers},
    }
