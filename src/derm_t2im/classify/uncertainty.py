"""Uncertain cases: a classifier that abstains, and one that answers with a set of classes.

Abstention: the images are ranked by the probability of their predicted class, and the least certain
left to a reader. Selective risk and the area below its curve (AURC) as Geifman and El-Yaniv (2017).

Prediction sets: split conformal prediction (Vovk et al. 2005) with the score 1 - p of the true class
(LAC: Sadinle, Lei and Wasserman 2019). A set holds the true class with at least the wanted
probability if validation and test images are exchangeable. Images of another clinic are not, so
coverage is measured there and not promised; nor is it promised for each class by itself. The
validation images also chose the network's step, which makes their scores a little too good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im.classify import statistics

if TYPE_CHECKING:
    from derm_t2im.classify.evaluation import TestSet

COVERAGES = tuple(round(0.05 * k, 2) for k in range(2, 21))  # of the abstention curve
SHOWN = (0.8, 0.9)  # whose accuracy is a metric


def selective(p: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Abstention of one classifier (n, k): accuracy (len(COVERAGES), draws) and AURC (draws,).

    At a coverage c the most certain share c of the images is answered. Images of equal certainty are
    answered in part, each by the same share.
    """
    confidence, right = p.max(axis=1), p.argmax(axis=1) == truth
    order = np.argsort(-confidence, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(confidence[order]) != 0])
    block = np.atleast_2d(counts)[:, order]
    images = np.add.reduceat(block, starts, axis=1)
    hits = np.add.reduceat(block * right[order], starts, axis=1)
    answered, total = np.cumsum(images, axis=1), images.sum(axis=1)
    risk = 1 - statistics.ratio(np.cumsum(hits, axis=1), answered)
    aurc = statistics.ratio(np.where(images > 0, images * risk, 0.0).sum(axis=1), total)
    share = statistics.ratio(hits, images)
    accuracy = []
    for coverage in COVERAGES:
        wanted = (coverage * total)[:, None]
        taken = np.clip(wanted - (answered - images), 0, images)
        accuracy.append(np.where(taken > 0, taken * share, 0.0).sum(axis=1) / wanted[:, 0])
    return np.stack(accuracy), aurc


def abstention(probabilities: np.ndarray, test: TestSet) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures and curve of ``probabilities`` (seeds, n, k): means over seeds with intervals.

    Figures: ``aurc``, ``accuracy_at_80``, ``accuracy_at_90``. Curve: records of ``coverage, accuracy, low, high, n``,
    n being the images answered.
    """
    found = [selective(p, test.truth, test.counts) for p in probabilities]
    accuracy = np.mean([a for a, _ in found], axis=0)
    aurc = np.mean([r for _, r in found], axis=0)
    figures = _estimate("aurc", aurc)
    curve = []
    for coverage, values in zip(COVERAGES, accuracy, strict=True):
        low, high = statistics.interval(values[1:])
        answered = round(coverage * len(test.truth))
        curve.append({"coverage": coverage, "accuracy": float(values[0]), "low": low, "high": high, "n": answered})
        if coverage in SHOWN:
            figures |= _estimate(f"accuracy_at_{100 * coverage:.0f}", values)
    return figures, curve


def calibrate(p: np.ndarray, truth: np.ndarray, coverage: float) -> float:
    """The least probability of a class that stays in the set, from validation images (n, k).

    Minus infinity, so that every class stays, where there are too few images to promise ``coverage``.
    """
    scores = np.sort(1 - p[np.arange(len(truth)), truth])
    rank = math.ceil(round((len(truth) + 1) * coverage, 9))
    return -math.inf if rank > len(truth) else float(1 - scores[rank - 1])


def conformal(
    probabilities: np.ndarray,
    test: TestSet,
    val_probabilities: np.ndarray,
    val_truth: np.ndarray,
    classes: Sequence[str],
    coverage: float,
) -> dict[str, Any]:
    """Prediction sets, calibrated per seed on validation images: what they cover and how large they are.

    ``coverage`` (measured, and for each class below ``classes``), mean ``set_size``, and the shares of ``empty``,
    ``single`` and ``double`` (two or more) sets; means over seeds with intervals over test images.
    """
    parts: dict[str, list[np.ndarray]] = {}
    inside: dict[str, list[np.ndarray]] = {name: [] for name in classes}
    for p, v in zip(probabilities, val_probabilities, strict=True):
        # A probability that equals the bound up to rounding is in.
        members = p >= calibrate(v, val_truth, coverage) - 1e-12
        held, size = members[np.arange(len(p)), test.truth], members.sum(axis=1)
        for name, values in (
            ("coverage", held), ("set_size", size), ("empty", size == 0), ("single", size == 1), ("double", size > 1),
        ):  # fmt: skip
            parts.setdefault(name, []).append(statistics.mean_over(values, test.counts))
        for k, name in enumerate(classes):
            inside[name].append(statistics.recall(held, test.truth == k, test.counts))
    figures: dict[str, Any] = {"wanted": coverage, "val_n": len(val_truth)}
    for name, draws in parts.items():
        figures |= _estimate(name, np.mean(draws, axis=0))
    figures["classes"] = {
        name: _estimate("coverage", np.mean(draws, axis=0)) | {"n": int((test.truth == k).sum())}
        for k, (name, draws) in enumerate(inside.items())
    }
    return figures


def _estimate(name: str, values: np.ndarray) -> dict[str, float]:
    low, high = statistics.interval(values[1:])
    return {name: float(values[0]), f"{name}_low": low, f"{name}_high": high}
