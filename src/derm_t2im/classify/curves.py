"""Records behind the plots: ROC, reliability, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from derm_t2im.classify import statistics

Records = list[dict[str, Any]]


def roc(scores: np.ndarray, positive: np.ndarray) -> Records:
    """Corners of the ROC curve as ``fpr``, ``tpr``; nothing where there is one class only."""
    from sklearn.metrics import roc_curve

    if positive.all() or not positive.any():
        return []
    fpr, tpr, _ = roc_curve(positive, scores)
    return [{"fpr": float(x), "tpr": float(y)} for x, y in zip(fpr, tpr, strict=True)]


def reliability(probabilities: np.ndarray, truth: np.ndarray, bins: int, counts: np.ndarray | None = None) -> Records:
    """Mean ``confidence``, ``accuracy`` and ``n`` of each bin that holds predictions.

    ``probabilities`` (seeds, n, k); the predictions of all seeds are pooled, so ``n`` counts
    predictions. With ``counts`` (draws, n), bootstrap draws of the images, ``low`` and ``high`` are the
    95 % interval of the accuracy.
    """
    p, y = probabilities.reshape(-1, probabilities.shape[-1]), np.tile(truth, len(probabilities))
    confidence, right = p.max(axis=1).astype(np.float64), p.argmax(axis=1) == y
    member = statistics.bin_of(confidence, bins)
    records: Records = []
    for k in np.unique(member):
        inside = member == k
        record = {
            "bin": int(k),
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(right[inside].mean()),
            "n": int(inside.sum()),
        }
        if counts is not None:
            # Of each image, how many seeds' predictions lie in the bin, and how many of those are right.
            there, hit = (x.reshape(len(probabilities), -1).sum(axis=0) for x in (inside, inside & right))
            drawn = statistics.ratio(counts @ hit.astype(float), counts @ there.astype(float))
            record["low"], record["high"] = statistics.interval(drawn)
        records.append(record)
    return records


def confusion(chosen: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> Records:
    """``n`` images of each ``actual`` and ``predicted`` class, zeros included."""
    return [
        {"actual": actual, "predicted": predicted, "n": int(((truth == i) & (chosen == j)).sum())}
        for i, actual in enumerate(classes)
        for j, predicted in enumerate(classes)
    ]
