"""Figures and contrasts of classifiers whose quality is known."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

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


def test_without_a_positive_validation_image_there_is_no_operating_point():
    p = scored(TRUTH, 2.0, 1)[None]
    found = evaluation.operating(p, TEST, p, np.zeros(400, int), [1], 0.9)
    assert all(np.isnan(found[key]) for key in ("threshold", "sensitivity", "specificity"))


@pytest.mark.parametrize("classes", [2, 4])
def test_further_metrics_agree_with_scikit_learn(classes):
    truth = np.random.default_rng(5).integers(0, classes, 300)
    test = evaluation.TestSet.draw(truth, np.arange(300), 100, 0)
    p = scored(truth, 1.5, 1, classes)
    one = evaluation.summary(evaluation.measure(p[None], test, [], 10))
    hot = np.eye(classes)[truth]
    assert one["average_precision"] == pytest.approx(sk.average_precision_score(hot, p, average="macro"))
    assert one["f1"] == pytest.approx(sk.f1_score(truth, p.argmax(axis=1), average="macro"))
    found = evaluation.summary(evaluation.measure(p[None], test, [1], 10))
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(truth == 1, p[:, 1]))
    assert found["f1"] == pytest.approx(sk.f1_score(truth == 1, p[:, 1] > 0.5))
    for key in ("average_precision", "f1", "sensitivity_at_90_specificity"):
        assert found[f"{key}_low"] < found[key] < found[f"{key}_high"]


def test_each_class_against_the_rest_agrees_with_scikit_learn():
    truth = np.random.default_rng(5).choice([0, 1, 3], 300)  # none of the third class
    test = evaluation.TestSet.draw(truth, np.arange(300), 100, 0)
    p = scored(truth, 1.5, 1, 4)
    p[:, 3] /= 100  # never chosen
    p /= p.sum(axis=1, keepdims=True)
    found = evaluation.per_class(p[None], test, ("a", "b", "c", "d"))
    chosen = p.argmax(axis=1)
    for k, name in ((0, "a"), (1, "b")):
        one = found["classes"][name]
        assert one["n"] == (truth == k).sum()
        assert one["auc"] == pytest.approx(sk.roc_auc_score(truth == k, p[:, k]))
        assert one["recall"] == pytest.approx(sk.recall_score(truth == k, chosen == k))
        assert one["precision"] == pytest.approx(sk.precision_score(truth == k, chosen == k))
        assert one["auc_low"] < one["auc"] < one["auc_high"]
    assert found["classes"]["c"]["n"] == 0 and np.isnan(found["classes"]["c"]["auc"])
    assert np.isnan(found["classes"]["d"]["precision"]) and found["classes"]["d"]["recall"] == 0
    present = [0, 1, 3]
    for key, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        expected = score(truth, chosen, labels=present, average="macro", zero_division=0)
        assert found["macro"][key] == pytest.approx(expected)


def test_seeds_widen_the_interval_only_where_they_differ():
    alike = np.stack([scored(TRUTH, 1.5, s) for s in (1, 2, 3)])
    apart = np.stack([scored(TRUTH, s, 1) for s in (0.5, 1.5, 3.0)])
    widths = []
    for p in (alike, apart):
        found = evaluation.describe(evaluation.measure(p, TEST, [1], 10), TEST)
        assert found["auc_seeds_low"] < found["auc"] < found["auc_seeds_high"] <= 1
        widths.append((found["auc_seeds_high"] - found["auc_seeds_low"]) / (found["auc_high"] - found["auc_low"]))
    assert widths[0] < 2.5 and widths[1] > 4
    assert "auc_seeds_low" not in evaluation.describe(evaluation.measure(alike[:1], TEST, [1], 10), TEST)


def test_what_follows_from_a_contrast():
    good = np.stack([scored(TRUTH, 2.5, s) for s in range(5)])
    bad = np.stack([scored(TRUTH, 1.0, s + 50) for s in range(5)])
    found = compare(good, bad)
    assert found["auc_verdict"] == found["accuracy_verdict"] == "better"
    assert compare(bad, good)["auc_verdict"] == "worse"
    assert 0 < found["auc_seeds_low"] < found["auc"] < found["auc_seeds_high"] and found["p_auc_seeds"] < 0.01
    assert found["needed_n_auc"] < 400, "what is seen so clearly needs few images"
    ratio = (found["ensemble_auc"] / found["gain"]) ** 2
    assert found["needed_n_auc_gain"] == pytest.approx(found["needed_n_auc"] * ratio, rel=0.1)
    near = np.clip(good + np.random.default_rng(0).normal(0, 0.002, (5, 400, 1)) * [-1, 1], 0.001, 0.999)
    same = compare(good, near)
    assert same["auc_verdict"] == "equivalent" and same["p_auc_within_margin"] < 0.05
    one = compare(good[:1], bad[:1])
    assert one["auc_verdict"] == "better" and "auc_seeds_low" not in one
    assert compare(good[:1], near[:1])["auc_verdict"] == "equivalent"
    noisy = [np.stack([scored(TRUTH, sharp, s) for s, sharp in enumerate(way)]) for way in ((1, 2), (2, 0.9))]
    assert compare(*noisy)["auc_verdict"] == "undecided"


def test_labels_and_kinds_that_do_not_belong_are_named():
    table = pd.DataFrame({"image_id": ["x1", "x2"], "label": ["benign", "mel"], "kind": "real"})
    with pytest.raises(UserError, match=r"1 images of the split test .* \(x2: mel\); classes: benign, malignant"):
        evaluation.check_labels({"test": table}, ("benign", "malignant"))
    with pytest.raises(UserError, match=r"x2: nan|x2: None"):
        evaluation.check_labels({"test": table.assign(label=["benign", None])}, ("benign", "malignant"))
    with pytest.raises(UserError, match=r"split val holds 2 images that are not real \(first: x1\)"):
        evaluation.check_labels({"val": table.assign(label="benign", kind="synthetic")}, ("benign",))


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
    drawn = curves.reliability(p, truth, 2, np.array([[1.0, 1, 1, 1], [0, 0, 2, 2], [4, 0, 0, 0]]))
    assert 0.5 <= drawn[0]["low"] < 0.75 < drawn[0]["high"] <= 1
    assert bins == [{"bin": 1, "confidence": pytest.approx(0.75), "accuracy": 0.75, "n": 4}]
