"""Figures of classifiers on one test set, and contrasts between two of them.

Every figure is the mean over the seeds of a classifier. Its interval is a 95 % percentile
bootstrap over groups (lesions): the same drawn groups for all seeds and all classifiers, so that
differences are paired. It covers the choice of test images, not that of the seeds, whose standard
deviation stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import seeds
from derm_t2im.classify import calibration, statistics
from derm_t2im.errors import UserError
from derm_t2im.vocabulary import MALIGNANT

if TYPE_CHECKING:
    import pandas as pd

# (a, b): how much better a is than b.
CONTRASTS = (
    ("hybrid", "real"),
    ("hybrid", "oversampled"),
    ("oversampled", "real"),
    ("synthetic", "real"),
    ("hybrid", "unfiltered"),
    ("hybrid", "augmented"),
    ("augmented", "real"),
    ("unfiltered", "real"),
)


def positive_columns(classes: Sequence[str], positive: str) -> list[int]:
    """Columns whose probabilities add up to that of the positive finding.

    That is the class ``positive``; for ``malignant`` among diagnoses, the malignant ones; none for
    an empty ``positive``, where sensitivity and specificity are means over the classes.

    Raises:
        UserError: if there is no such class.
    """
    if not positive:
        return []
    names = [positive] if positive in classes else [c for c in classes if positive == "malignant" and c in MALIGNANT]
    if not names:
        raise UserError(
            f"evaluate.positive is {positive!r}; allowed: {', '.join(classes)}, or '' for the mean over the classes."
        )
    return [list(classes).index(name) for name in names]


def groups_of(table: pd.DataFrame) -> np.ndarray:
    """The group of each image, its own id where it has none."""
    ids = table["image_id"]
    return (table["group_id"].fillna(ids) if "group_id" in table else ids).to_numpy(str)


@dataclass(frozen=True)
class TestSet:
    """Truth (n,) of a test set, and counts (1 + draws, n): the sample itself, then bootstrap draws of it."""

    __test__ = False  # pytest: not a test

    truth: np.ndarray
    counts: np.ndarray
    redrawn: int
    groups: int

    @staticmethod
    def draw(truth: np.ndarray, groups: np.ndarray, draws: int, *seed: int | str) -> TestSet:
        """Draw the bootstrap of a test set once, for all that is measured on it."""
        drawn = statistics.bootstrap_counts(groups, truth, draws, seeds.generator(*seed, "bootstrap"))
        counts = np.vstack([statistics.ones(len(truth)), drawn.counts])
        return TestSet(truth, counts, drawn.redrawn, len(np.unique(groups)))


Values = dict[str, np.ndarray]  # metric -> (seeds, 1 + draws)


def measure(probabilities: np.ndarray, test: TestSet, positive: list[int], bins: int) -> Values:
    """All metrics of ``probabilities`` (seeds, n, k), each as (seeds, 1 + draws)."""
    rows = [_measure_one(p, test, positive, bins) for p in probabilities]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _measure_one(p: np.ndarray, test: TestSet, positive: list[int], bins: int) -> Values:
    truth, counts, classes = test.truth, test.counts, p.shape[1]
    chosen = p.argmax(axis=1)
    balanced = statistics.balanced_accuracy(chosen, truth, classes, counts)
    if positive:
        score, true = p[:, positive].sum(axis=1), np.isin(truth, positive)
        sensitivity = statistics.recall(score > 0.5, true, counts)
        specificity = statistics.recall(score <= 0.5, ~true, counts)
    else:
        sensitivity = balanced
        others = [statistics.recall(chosen != k, truth != k, counts) for k in np.unique(truth)]
        specificity = np.mean(others, axis=0)
    return {
        "accuracy": statistics.accuracy(chosen, truth, counts),
        "auc": statistics.class_auc(p, truth, counts),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": balanced,
        "ece": statistics.ece(p, truth, bins, counts),
        "brier": statistics.brier(p, truth, counts),
    }


def summary(values: Values) -> dict[str, Any]:
    """``x``, ``x_low``, ``x_high`` for each metric x: the mean over seeds with its interval."""
    figures: dict[str, Any] = {}
    for name, value in values.items():
        mean = value.mean(axis=0)
        figures[name] = float(mean[0])
        figures[f"{name}_low"], figures[f"{name}_high"] = statistics.interval(mean[1:])
    return figures


def describe(values: Values, test: TestSet) -> dict[str, Any]:
    """The figures of one classifier on one test set."""
    figures = summary(values) | {"n": len(test.truth), "groups": test.groups, "redrawn": test.redrawn}
    for name in ("accuracy", "auc"):
        points = values[name][:, 0]
        figures[f"{name}_seed_sd"] = float(points.std(ddof=1)) if len(points) > 1 else None
    return figures | {"seeds": len(values["accuracy"])}


def calibrated(
    probabilities: np.ndarray, test: TestSet, val_probabilities: np.ndarray, val_truth: np.ndarray, bins: int
) -> dict[str, Any]:
    """ECE and Brier score after a temperature fitted on validation images, per seed."""
    temperatures = [calibration.fit_temperature(p, val_truth) for p in val_probabilities]
    scaled = [calibration.apply_temperature(p, t) for p, t in zip(probabilities, temperatures, strict=True)]
    values = {
        "ece": np.stack([statistics.ece(p, test.truth, bins, test.counts) for p in scaled]),
        "brier": np.stack([statistics.brier(p, test.truth, test.counts) for p in scaled]),
    }
    return summary(values) | {"temperature": float(np.mean(temperatures))}


def operating(
    probabilities: np.ndarray,
    test: TestSet,
    val_probabilities: np.ndarray,
    val_truth: np.ndarray,
    positive: list[int],
    sensitivity: float,
) -> dict[str, Any]:
    """Sensitivity and specificity at the threshold that reaches ``sensitivity`` on validation images, per seed."""
    true, val_true = np.isin(test.truth, positive), np.isin(val_truth, positive)
    thresholds, found, spared = [], [], []
    for p, v in zip(probabilities, val_probabilities, strict=True):
        threshold = statistics.threshold_for(v[:, positive].sum(axis=1), val_true, sensitivity)
        flagged = p[:, positive].sum(axis=1) >= threshold
        thresholds.append(threshold)
        found.append(statistics.recall(flagged, true, test.counts))
        spared.append(statistics.recall(~flagged, ~true, test.counts))
    figures = summary({"sensitivity": np.stack(found), "specificity": np.stack(spared)})
    return figures | {"threshold": float(np.mean(thresholds)), "val_sensitivity": sensitivity}


def contrast(
    a: Values, b: Values, ensembles: tuple[np.ndarray, np.ndarray], test: TestSet, positive: list[int]
) -> dict[str, Any]:
    """How much better ``a`` is than ``b`` on the same images.

    Differences of the means over seeds with paired, clustered bootstrap intervals; ``p`` (accuracy) and
    ``p_auc`` are two-sided, from the same draws. What begins with ``ensemble_`` is another estimate, that of
    the seeds' mean probabilities (n, k): differences, images that only one got right, the exact McNemar test, and
    DeLong's for the positive finding (none for means over classes). Both take images as independent.
    """
    differences = {name: a[name].mean(axis=0, keepdims=True) - b[name].mean(axis=0, keepdims=True) for name in a}
    figures = summary(differences)
    right_a, right_b = (e.argmax(axis=1) == test.truth for e in ensembles)
    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    auc, p_delong = float("nan"), float("nan")
    if positive:
        score_a, score_b = (e[:, positive].sum(axis=1) for e in ensembles)
        found = statistics.delong(score_a, score_b, np.isin(test.truth, positive))
        auc, p_delong = found.auc_a - found.auc_b, found.p
    return figures | {
        "n": len(test.truth),
        "p": statistics.bootstrap_p(differences["accuracy"][0, 1:]),
        "p_auc": statistics.bootstrap_p(differences["auc"][0, 1:]),
        "ensemble_accuracy": float(right_a.mean() - right_b.mean()),
        "ensemble_only_a_right": only_a,
        "ensemble_only_b_right": only_b,
        "ensemble_p_mcnemar": statistics.mcnemar(only_a, only_b),
        "ensemble_auc": auc,
        "ensemble_p_delong": p_delong,
    }


def adjust(contrasts: list[dict[str, Any]]) -> None:
    """Add ``p_holm`` and ``p_auc_holm``: Holm's adjustment over all contrasts of the study."""
    for name, adjusted in (("p", "p_holm"), ("p_auc", "p_auc_holm")):
        for figures, value in zip(contrasts, statistics.holm([c[name] for c in contrasts]), strict=True):
            figures[adjusted] = value
