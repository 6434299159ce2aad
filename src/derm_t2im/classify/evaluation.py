"""Figures of classifiers on one test set, and contrasts between two of them.

Every figure is the mean over the seeds of a classifier. Its interval is a 95 % percentile
bootstrap over groups (lesions): the same drawn groups for all seeds and all classifiers, so that
differences are paired. It covers the choice of test images, not that of the seeds. What ends in
``_seeds_low`` and ``_seeds_high`` covers both (see :func:`derm_t2im.classify.inference.crossed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import seeds
from derm_t2im.classify import calibration, inference, ranking, statistics
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


def check_labels(tables: Mapping[str, pd.DataFrame], classes: Sequence[str]) -> None:
    """Refuse what a wrong line of a label file would do to a result.

    Raises:
        UserError: naming the first images of a split (the keys of ``tables``) that carry no label or one that
            no training image has, or that are not real.
    """
    for split, table in tables.items():
        wrong = table[~table["label"].isin(list(classes))]
        if len(wrong):
            first = ", ".join(f"{row.image_id}: {row.label}" for row in wrong.head(3).itertuples())
            raise UserError(
                f"{len(wrong)} images of the split {split} have a label that no training image has ({first}); classes: "
                f"{', '.join(classes)}. Correct the label file, or take them out, and run `dvc repro`."
            )
        drawn = table[table["kind"] != "real"]
        if len(drawn):
            raise UserError(
                f"the split {split} holds {len(drawn)} images that are not real (first: {drawn['image_id'].iloc[0]}): "
                "validation and test images must be; run the stage `split` again."
            )


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
    present = list(np.unique(truth))
    balanced = statistics.balanced_accuracy(chosen, truth, classes, counts)
    if positive:
        score, true = p[:, positive].sum(axis=1), np.isin(truth, positive)
        sensitivity = statistics.recall(score > 0.5, true, counts)
        specificity = statistics.recall(score <= 0.5, ~true, counts)
        order = ranking.ranked(score, true, counts)
        precision, reached = order.average_precision, order.sensitivity
        f1 = ranking.f1(score > 0.5, true, counts)
    else:
        sensitivity = balanced
        others = [statistics.recall(chosen != k, truth != k, counts) for k in present]
        specificity = np.mean(others, axis=0)
        orders = [ranking.ranked(p[:, k], truth == k, counts) for k in present]
        precision = np.mean([o.average_precision for o in orders], axis=0)
        reached = np.mean([o.sensitivity for o in orders], axis=0)
        f1 = np.mean([ranking.f1(chosen == k, truth == k, counts) for k in present], axis=0)
    return {
        "accuracy": statistics.accuracy(chosen, truth, counts),
        "auc": order.auc if positive and classes == 2 else statistics.class_auc(p, truth, counts),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": balanced,
        "average_precision": precision,
        "sensitivity_at_90_specificity": reached,
        "f1": f1,
        "ece": statistics.ece(p, truth, bins, counts),
        "brier": statistics.brier(p, truth, counts),
    }


def per_class(probabilities: np.ndarray, test: TestSet, classes: Sequence[str]) -> dict[str, Any]:
    """Each class against the rest, and the means over the classes that the test set holds.

    ``probabilities`` (seeds, n, k). AUC, recall, precision, F1; precision is undefined where no image
    is given the class, and counts as 0 in the mean (as in scikit-learn).
    """
    found: dict[str, Any] = {}
    present: list[Values] = []
    for k, name in enumerate(classes):
        true = test.truth == k
        rows: list[Values] = []
        for p in probabilities:
            chosen = p.argmax(axis=1) == k
            order = ranking.ranked(p[:, k], true, test.counts)
            rows.append(
                {
                    "auc": order.auc,
                    "average_precision": order.average_precision,
                    "recall": statistics.recall(chosen, true, test.counts),
                    "precision": ranking.precision(chosen, true, test.counts),
                    "f1": ranking.f1(chosen, true, test.counts),
                }
            )
        values = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        found[name] = summary(values) | {"n": int(true.sum())}
        if true.any():
            present.append(values | {"precision": np.nan_to_num(values["precision"])})
    macro = {key: np.mean([values[key] for values in present], axis=0) for key in present[0]}
    return {"classes": found, "macro": summary(macro)}


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
        if len(points) > 1:
            low, high = inference.over_seeds(values[name]).interval()
            figures[f"{name}_seeds_low"], figures[f"{name}_seeds_high"] = max(low, 0.0), min(high, 1.0)
    return figures | {"seeds": len(values["accuracy"])}


def scale(
    probabilities: np.ndarray, val_probabilities: np.ndarray, val_truth: np.ndarray
) -> tuple[np.ndarray, list[float]]:
    """Probabilities (seeds, n, k) after a temperature per seed fitted on validation images, and the temperatures."""
    temperatures = [calibration.fit_temperature(p, val_truth) for p in val_probabilities]
    scaled = [calibration.apply_temperature(p, t) for p, t in zip(probabilities, temperatures, strict=True)]
    return np.stack(scaled), temperatures


def calibrated(
    probabilities: np.ndarray, test: TestSet, val_probabilities: np.ndarray, val_truth: np.ndarray, bins: int
) -> dict[str, Any]:
    """ECE and Brier score after a temperature fitted on validation images, per seed."""
    scaled, temperatures = scale(probabilities, val_probabilities, val_truth)
    values = {
        "ece": np.stack([statistics.ece(p, test.truth, bins, test.counts) for p in scaled]),
        "brier": np.stack([statistics.brier(p, test.truth, test.counts) for p in scaled]),
    }
    return summary(values) | {"temperature": float(np.mean(temperatures))}


def thresholds(
    val_probabilities: np.ndarray, val_truth: np.ndarray, positive: list[int], sensitivity: float
) -> np.ndarray:
    """The threshold (seeds,) that reaches ``sensitivity`` on validation images; NaN without a positive one."""
    true = np.isin(val_truth, positive)
    return np.array(
        [statistics.threshold_for(v[:, positive].sum(axis=1), true, sensitivity) for v in val_probabilities]
    )


def operating(
    probabilities: np.ndarray,
    test: TestSet,
    val_probabilities: np.ndarray,
    val_truth: np.ndarray,
    positive: list[int],
    sensitivity: float,
) -> dict[str, Any]:
    """Sensitivity and specificity at the threshold that reaches ``sensitivity`` on validation images, per seed.

    Undefined where validation holds no positive image.
    """
    bounds = thresholds(val_probabilities, val_truth, positive, sensitivity)
    true = np.isin(test.truth, positive)
    found, spared = [], []
    for p, threshold in zip(probabilities, bounds, strict=True):
        flagged = p[:, positive].sum(axis=1) >= threshold
        known = 1.0 if np.isfinite(threshold) else np.nan
        found.append(known * statistics.recall(flagged, true, test.counts))
        spared.append(known * statistics.recall(~flagged, ~true, test.counts))
    figures = summary({"sensitivity": np.stack(found), "specificity": np.stack(spared)})
    return figures | {"threshold": float(np.mean(bounds)), "val_sensitivity": sensitivity}


def contrast(
    a: Values,
    b: Values,
    ensembles: tuple[np.ndarray, np.ndarray],
    test: TestSet,
    positive: list[int],
    margin: float = 0.02,
    gain: float = 0.0228,
) -> dict[str, Any]:
    """How much better ``a`` is than ``b`` on the same images.

    Differences of the means over seeds with paired, clustered bootstrap intervals; ``p`` (accuracy) and
    ``p_auc`` are two-sided, from the same draws. What begins with ``ensemble_`` is another estimate, that of
    the seeds' mean probabilities (n, k): differences, images that only one got right, the exact McNemar test, and
    DeLong's for the positive finding (none for means over classes). Both take images as independent.

    For accuracy and AUC ``_seeds_low``, ``_seeds_high`` and ``p_..seeds`` take new seeds into account as well; the
    ``_verdict`` goes by that interval, or without several seeds by the bootstrap's, and by two one-sided tests at 5 %
    (the 90 % interval) that the difference lies within ``margin``. ``needed_n_*`` are the test images at which the
    observed difference, and one of ``gain``, would be found with 80 % power; more images do not make seeds agree.
    """
    differences = {name: a[name].mean(axis=0, keepdims=True) - b[name].mean(axis=0, keepdims=True) for name in a}
    figures = summary(differences)
    right_a, right_b = (e.argmax(axis=1) == test.truth for e in ensembles)
    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    auc, p_delong, error = float("nan"), float("nan"), float("nan")
    if positive:
        score_a, score_b = (e[:, positive].sum(axis=1) for e in ensembles)
        found = statistics.delong(score_a, score_b, np.isin(test.truth, positive))
        auc, p_delong, error = found.auc_a - found.auc_b, found.p, found.error
    n, discordant = len(test.truth), (only_a + only_b) / len(test.truth)
    for name, p in (("accuracy", "p"), ("auc", "p_auc")):
        figures |= _judged(name, p, a[name] - b[name], figures, margin)
    return figures | {
        "needed_n_accuracy": inference.images_for_accuracy(discordant, float(right_a.mean() - right_b.mean())),
        "needed_n_accuracy_gain": inference.images_for_accuracy(discordant, gain),
        "needed_n_auc": inference.images_for_auc(error, n, auc),
        "needed_n_auc_gain": inference.images_for_auc(error, n, gain),
        "margin": margin,
        "gain": gain,
        "n": n,
        "p": statistics.bootstrap_p(differences["accuracy"][0, 1:]),
        "p_auc": statistics.bootstrap_p(differences["auc"][0, 1:]),
        "ensemble_accuracy": float(right_a.mean() - right_b.mean()),
        "ensemble_only_a_right": only_a,
        "ensemble_only_b_right": only_b,
        "ensemble_p_mcnemar": statistics.mcnemar(only_a, only_b),
        "ensemble_auc": auc,
        "ensemble_p_delong": p_delong,
    }


def _judged(name: str, p: str, differences: np.ndarray, figures: Mapping[str, Any], margin: float) -> dict[str, Any]:
    """What :func:`contrast` says of one measure over seeds and within the margin; of (seeds, 1 + draws)."""
    found: dict[str, Any] = {}
    both = inference.over_seeds(differences)
    if len(differences) > 1 and not np.isnan(both.error):
        low, high = both.interval()
        within = both.tost(margin)
        found |= {f"{name}_seeds_low": max(low, -1.0), f"{name}_seeds_high": min(high, 1.0), f"{p}_seeds": both.p()}
    else:
        low, high = figures[f"{name}_low"], figures[f"{name}_high"]
        within = inference.tost_of_draws(differences.mean(axis=0)[1:], margin)
    verdict = inference.verdict(low, high, within < inference.LEVEL)
    return found | {f"{p}_within_margin": within, f"{name}_verdict": verdict}


def adjust(contrasts: list[dict[str, Any]]) -> None:
    """Add ``p_holm``, ``p_auc_holm`` and the like for seeds: Holm's adjustment over all contrasts of the study."""
    for name in ("p", "p_auc", "p_seeds", "p_auc_seeds"):
        known = [figures for figures in contrasts if name in figures]
        for figures, value in zip(known, statistics.holm([c[name] for c in known]), strict=True):
            figures[f"{name}_holm"] = value
