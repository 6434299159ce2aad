"""Temperature scaling (Guo et al. 2017), fitted on validation images only."""

from __future__ import annotations

import numpy as np

TEMPERATURES = (0.05, 20.0)


def fit_temperature(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """The temperature with the least log loss; 1 leaves ``probabilities`` (n, k) as they are.

    Bounded by :data:`TEMPERATURES`, so that a perfectly separated validation set gives no zero.
    """
    from scipy.optimize import minimize_scalar

    if not len(truth):
        return 1.0
    logs = _log(probabilities)
    rows = np.arange(len(truth))

    def loss(log_t: float) -> float:
        scaled = logs / np.exp(log_t)
        top = scaled.max(axis=1)
        return float((np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top - scaled[rows, truth]).mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (n, k) at another temperature; their order stays."""
    scaled = _log(probabilities) / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.clip(probabilities.astype(np.float64), 1e-12, 1.0))
