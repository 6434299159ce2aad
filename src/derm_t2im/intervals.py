"""The interval of a share, which many figures need."""

from __future__ import annotations

from derm_t2im.errors import UserError


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of the share ``successes / n`` (Wilson 1927); (0, 1) for n = 0.

    Raises:
        UserError: unless 0 <= successes <= n.
    """
    from scipy.stats import binomtest

    if not 0 <= successes <= n:
        raise UserError(f"{successes} of {n} is no share: give 0 <= successes <= n.")
    if n == 0:
        return 0.0, 1.0
    low, high = binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    return float(low), float(high)
