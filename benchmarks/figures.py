"""What the image benchmarks share: the machine, and figures with their intervals."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np

from derm_t2im.classify.statistics import auc as weighted_auc
from derm_t2im.intervals import wilson

DATA = Path(os.environ.get("DERM_T2IM_DATA", Path(__file__).parents[1] / "../shared/data"))
DRAWS = 2000


def machine() -> str:
    """Processor, cores, load and versions: what a timing depends on."""
    import cv2

    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    load = ", ".join(f"{v:.1f}" for v in os.getloadavg())
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, load {load} before the start; "
        f"Python {platform.python_version()}, numpy {np.__version__}, OpenCV {cv2.__version__}"
    )


def mean_and_interval(values: np.ndarray, digits: int) -> str:
    """Mean and the 95 % interval of a bootstrap over images."""
    rng = np.random.default_rng(0)
    means = np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(DRAWS)])
    low, high = np.percentile(means, (2.5, 97.5))
    return f"{values.mean():.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def share(successes: int, n: int) -> str:
    """A share with its Wilson interval."""
    low, high = wilson(successes, n)
    return f"{successes / n:.3f} ({low:.3f}..{high:.3f})"


def auc(scores: np.ndarray, positive: np.ndarray) -> str:
    """AUC with the 95 % interval of a bootstrap within the classes."""
    return _line(weighted_auc(scores, positive, _counts(positive)))


def pair(a: np.ndarray, b: np.ndarray, positive: np.ndarray) -> str:
    """Difference of two AUCs on the same images, with its 95 % interval."""
    counts = _counts(positive)
    return _line(weighted_auc(a, positive, counts) - weighted_auc(b, positive, counts))


def correlation(a: np.ndarray, b: np.ndarray) -> str:
    """Spearman's rank correlation with the 95 % interval of a bootstrap over images."""
    from scipy.stats import rankdata

    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    rng = np.random.default_rng(0)
    samples = [np.arange(len(a)), *(rng.integers(0, len(a), len(a)) for _ in range(500))]
    return _line(np.array([np.corrcoef(rankdata(a[i]), rankdata(b[i]))[0, 1] for i in samples]))


def _counts(positive: np.ndarray) -> np.ndarray:
    """The sample itself, then draws of a bootstrap that keeps the number of each class."""
    rng, n = np.random.default_rng(0), len(positive)
    counts = np.zeros((DRAWS + 1, n))
    counts[0] = 1
    for which in (np.flatnonzero(positive), np.flatnonzero(~positive)):
        drawn = rng.integers(0, len(which), (DRAWS, len(which)))
        for k in range(DRAWS):
            counts[k + 1, which] = np.bincount(drawn[k], minlength=len(which))
    return counts


def _line(values: np.ndarray) -> str:
    """The first value, and the 95 % interval of the others."""
    low, high = np.nanpercentile(values[1:], (2.5, 97.5))
    return f"{values[0]:.3f} ({low:.3f}..{high:.3f})"
