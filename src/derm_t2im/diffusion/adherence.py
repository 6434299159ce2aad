"""Do the images show what the prompts asked for? Measured on the images, not believed."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np

from derm_t2im.intervals import wilson
from derm_t2im.vocabulary import COUNTS, SIZES, TONES

if TYPE_CHECKING:
    import pandas as pd

#: attribute -> (column that measures it, its words in rising order of the measurement)
MEASURES = {
    "size": ("lesion_area", list(reversed(SIZES))),
    "count": ("lesion_count", list(COUNTS)),
    "tone": ("ita", list(reversed(TONES))),
}


def rank_correlation(asked: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Spearman's rank correlation with a 95 % interval (Fisher z; Bonett and Wright 2000) and its n.

    NaN where fewer than ten pairs are known or a side is constant.
    """
    from scipy.stats import spearmanr

    known = np.isfinite(asked) & np.isfinite(measured)
    n = int(known.sum())
    if n < 10 or len(np.unique(asked[known])) < 2 or len(np.unique(measured[known])) < 2:
        return {"": math.nan, "_low": math.nan, "_high": math.nan, "_n": n}
    rho = float(spearmanr(asked[known], measured[known]).statistic)
    width = 1.959964 * math.sqrt((1 + rho**2 / 2) / (n - 3))
    z = math.atanh(min(max(rho, -0.999999), 0.999999))
    return {"": rho, "_low": math.tanh(z - width), "_high": math.tanh(z + width), "_n": n}


def share(hits: np.ndarray) -> dict[str, float]:
    """A share with its Wilson 95 % interval and n."""
    n, k = len(hits), int(np.count_nonzero(hits))
    if not n:
        return {"": math.nan, "_low": math.nan, "_high": math.nan, "_n": 0}
    low, high = wilson(k, n)
    return {"": k / n, "_low": low, "_high": high, "_n": n}


def measure(made: pd.DataFrame, opinion: np.ndarray) -> dict[str, object]:
    """Metrics of a synthetic manifest.

    Args:
        made: Rows with ``label``, ``sampler``, ``attributes`` and the measured columns.
        opinion: The label that an independent classifier gives to each row, (n,).
    """
    out = _measure(made, opinion)
    out["samplers"] = {
        str(name): _measure(part, opinion[np.flatnonzero(made["sampler"] == name)])
        for name, part in made.groupby("sampler")
    }
    return out


def _measure(made: pd.DataFrame, opinion: np.ndarray) -> dict[str, object]:
    out: dict[str, object] = {"images": len(made)}
    hits = opinion == made["label"].to_numpy(dtype=str)
    out |= {f"class_agreement{key}": value for key, value in share(hits).items()}
    asked = [json.loads(text) for text in made["attributes"]]
    for name, (column, words) in MEASURES.items():
        wanted = np.array([words.index(a[name]) if name in a else math.nan for a in asked], float)
        found = made[column].to_numpy(dtype=float, na_value=math.nan)
        out |= {f"{name}_rank_correlation{key}": value for key, value in rank_correlation(wanted, found).items()}
    return out
