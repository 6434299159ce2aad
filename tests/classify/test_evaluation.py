"""Figures and contrasts of classifiers whose quality is known."""

import numpy as np
import pandas as pd
import pytest

from derm_t2im.classify import curves, evaluation, statistics
from derm_t2im.errors import UserError


def scored(truth, sharp, seed, classes=2):
    """Probabilities (n, k) of a classifier; the larger ``sharp``, the better it is."""
    logits = np.random.default_rng(seed).normal(size=(len(truth), classes)) + sharp * np.eye(classes)[truth]
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True)


TRUTH = np.random.default_rng(9).integers(0, 2, 400)
TEST = evaluation.TestSet.draw(TRUTH, np.arange(400), 500, 0, "test")


def compare(good, bad):
    values = [evaluation.measure(p, TEST, [1], 10) for p in (good, bad)]
    return evaluation.contrast(*values, (good.mean(axis=0), bad.mean(axis=0)), TEST, [1])


def test_a_better_classifier_is_found_better():
    found = compare(
        np.stack([scored(TRUTH, 2.5, s) for s in (1, 2)]), np.stack([scored(TRUTH, 1.0, s) for s in (3, 4)])
    )
    for name in ("accuracy", "auc", "sensitivity", "specificity", "balanced_accuracy"):
        assert 0 < found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert found["p"] == found["p_auc"] == pytest.approx(2 / 501), "no draw of 500 went the other way"
    assert found["ensemble_p_mcnemar"] < 0.001 and found["ensemble_p_delong"] < 0.001
    assert (
        found["ensemble_only_a_right"] - found["ensemble_only_b_right"] == round(400 * found["ensemble_accuracy"]) > 0
    )
    assert 0 < found["ensemble_auc"] < found["auc"], "noise that the mean over seeds takes out"


def test_a_classifier_does_not_differ_from_itself():
    p = np.stack([scored(TRUTH, 1.5, s) for s in (1, 2)])
    found = compare(p, p)
    assert all(found[f"{name}{end}"] == 0 for name in ("accuracy", "auc") for end in ("", "_low", "_high"))
    assert found["p"] == found["p_auc"] == 1.0


@pytest.mark.parametrize("seed", range(30))
def test_p_and_interval_tell_the_same(seed):
    a, b = (np.stack([scored(TRUTH, s, 100 * seed + k) for k in range(2)]) for s in (1.2, 1.0))
    found = compare(a, b)
    for name, p in (("accuracy", "p"), ("auc", "p_auc")):
        apart = not found[f"{name}_low"] <= 0 <= found[f"{name}_high"]
        assert apart == (found[p] < 0.05) or 0.03 < found[p] < 0.07, (name, found[p], found[f"{name}_low"])


def test_pairing_narrows_the_interval_of_similar_classifiers():
    p = scored(TRUTH, 1.5, 1)
    near = np.clip(p + np.random.default_rng(0).normal(0, 0.02, (400, 1)) * [-1, 1], 0.01, 0.99)
    paired = compare(p[None], near[None])
    single = evaluation.describe(evaluation.measure(p[None], TEST, [1], 10), TEST)
    assert paired["auc_high"] - paired["auc_low"] < 0.3 * (single["auc_high"] - single["auc_low"])


def test_between_two_equal_classifiers_the_interval_holds_zero_most_of_the_time():
    misses = 0
    for seed in range(60):
        truth = np.random.default_rng(seed).integers(0, 2, 150)
        test = evaluation.TestSet.draw(truth, np.arange(150), 200, seed)
        a, b = (evaluation.measure(scored(truth, 1.0, seed + k)[None], test, [1], 10) for k in (1000, 2000))
        difference = evaluation.summary({"auc": a["auc"] - b["auc"]})
        misses += not difference["auc_low"] <= 0 <= difference["auc_high"]
    assert misses <= 9  # 3 expected; P(more than 9) < 0.001


def test_figures_are_means_over_seeds_with_their_spread():
    p = np.stack([scored(TRUTH, s, 5) for s in (1.0, 3.0)])
    figures = evaluation.describe(evaluation.measure(p, TEST, [1], 10), TEST)
    singles = [(one.argmax(axis=1) == TRUTH).mean() for one in p]
    assert figures["accuracy"] == pytest.approx(np.mean(singles))
    assert figures["accuracy_seed_sd"] == pytest.approx(np.std(singles, ddof=1))
    assert figures["n"] == 400
    assert evaluation.describe(evaluation.measure(p[:1], TEST, [1], 10), TEST)["accuracy_seed_sd"] is None


def test_calibration_mends_an_overconfident_classifier_by_validation_alone():
    p = scored(TRUTH, 1.0, 1)
    sure = p**4 / (p**4).sum(axis=1, keepdims=True)
    val_truth = np.random.default_rng(3).integers(0, 2, 400)
    val = scored(val_truth, 1.0, 2)
    val = val**4 / (val**4).sum(axis=1, keepdims=True)
    before = evaluation.describe(evaluation.measure(sure[None], TEST, [1], 10), TEST)
    after = evaluation.calibrated(sure[None], TEST, val[None], val_truth, 10)
    assert after["temperature"] == pytest.approx(4, rel=0.25)
    assert after["ece_high"] < before["ece_low"]
    assert after["brier"] < before["brier"]


def test_the_operating_threshold_comes_from_validation():
    p, val_truth = scored(TRUTH, 2.0, 1)[None], np.random.default_rng(3).integers(0, 2, 400)
    val = scored(val_truth, 2.0, 2)[None]
    found = evaluation.operating(p, TEST, val, val_truth, [1], 0.9)
    assert found["threshold"] == statistics.threshold_for(val[0][:, 1], val_truth == 1, 0.9)
    assert found["sensitivity"] == (p[0][TRUTH == 1, 1] >= found["threshold"]).mean()
    assert found["specificity"] == (p[0][TRUTH == 0, 1] < found["threshold"]).mean()


def test_holm_runs_over_all_contrasts():
    contrasts = [{"p": 0.01, "p_auc": 0.5}, {"p": 0.04, "p_auc": float("nan")}]
    evaluation.adjust(contrasts)
    assert [c["p_holm"] for c in contrasts] == pytest.approx([0.02, 0.04])
    assert contrasts[0]["p_auc_holm"] == 0.5


def test_the_positive_finding():
    seven = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert evaluation.positive_columns(("benign", "malignant"), "malignant") == [1]
    assert evaluation.positive_columns(seven, "malignant") == [0, 1, 4]
    assert evaluation.positive_columns(seven, "") == []
    with pytest.raises(UserError, match="allowed: benign, malignant"):
        evaluation.positive_columns(("benign", "malignant"), "mel")


def test_images_without_a_group_stand_alone():
    table = pd.DataFrame({"image_id": ["a", "b"], "group_id": pd.array(["g", None], dtype="string")})
    assert evaluation.groups_of(table).tolist() == ["g", "b"]


def test_curves_of_known_predictions():
    p = np.array([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]]])
    truth = np.array([0, 0, 1, 0])
    assert curves.roc(p[0, :, 1], truth == 1) == [
        {"fpr": 0.0, "tpr": 0.0}, {"fpr": 0.0, "tpr": 1.0}, {"fpr": 1.0, "tpr": 1.0},
    ]  # fmt: skip
    assert curves.roc(p[0, :, 1], np.zeros(4, bool)) == []
    assert curves.confusion(p[0].argmax(axis=1), truth, ("b", "m")) == [
        {"actual": "b", "predicted": "b", "n": 2},
        {"actual": "b", "predicted": "m", "n": 1},
        {"actual": "m", "predicted": "b", "n": 0},
        {"actual": "m", "predicted": "m", "n": 1},
    ]
    bins = curves.reliability(p, truth, 2)
    assert bins == [{"bin": 1, "confidence": pytest.approx(0.75), "accuracy": 0.75, "n": 4}]
