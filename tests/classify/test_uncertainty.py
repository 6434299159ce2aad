"""Abstention and prediction sets against their definitions, by example and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derm_t2im.classify import evaluation, uncertainty
from derm_t2im.classify.statistics import ones


def scored(n, seed, sharp=1.5, classes=2):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + sharp * np.eye(classes)[truth]
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), truth


def the_set(truth, draws=100):
    return evaluation.TestSet.draw(truth, np.arange(len(truth)), draws, 0)


def at(values, coverage):
    return values[uncertainty.COVERAGES.index(coverage)]


def test_abstention_of_a_worked_example():
    # Ten images from the surest to the least sure; wrong are the fourth, eighth and ninth.
    confidence = np.linspace(0.95, 0.55, 10)
    p = np.column_stack([confidence, 1 - confidence])
    truth = np.zeros(10, int)
    truth[[3, 7, 8]] = 1
    accuracy, aurc = uncertainty.selective(p, truth, ones(10)[None])
    assert at(accuracy, 1.0)[0] == pytest.approx(0.7)
    assert at(accuracy, 0.5)[0] == pytest.approx(4 / 5)
    assert at(accuracy, 0.3)[0] == pytest.approx(1.0)
    errors = np.cumsum([0, 0, 0, 1, 0, 0, 0, 1, 1, 0]) / np.arange(1, 11)
    assert aurc[0] == pytest.approx(errors.mean())


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_a_draw_is_the_same_as_its_images_repeated(seed):
    p, truth = scored(30, seed)
    counts = np.random.default_rng(seed).multinomial(30, np.full(30, 1 / 30), 2).astype(float)
    accuracy, aurc = uncertainty.selective(p, truth, counts)
    for i, row in enumerate(counts):
        again = np.repeat(np.arange(30), row.astype(int))
        one, risk = uncertainty.selective(p[again], truth[again], ones(30)[None])
        assert accuracy[:, i] == pytest.approx(one[:, 0])
        assert aurc[i] == pytest.approx(risk[0])


def test_equal_certainty_is_answered_in_equal_shares_whatever_the_order():
    p = np.tile([[0.8, 0.2]], (8, 1))
    for truth in (np.array([0, 0, 0, 0, 0, 0, 1, 1]), np.array([1, 1, 0, 0, 0, 0, 0, 0])):
        accuracy, aurc = uncertainty.selective(p, truth, ones(8)[None])
        assert accuracy[:, 0] == pytest.approx(0.75)
        assert aurc[0] == pytest.approx(0.25)


def test_the_curve_ends_at_the_accuracy_and_has_n_and_intervals():
    p, truth = scored(200, 1)
    figures, curve = uncertainty.abstention(p[None], the_set(truth))
    assert curve[-1]["coverage"] == 1 and curve[-1]["n"] == 200
    assert curve[-1]["accuracy"] == pytest.approx((p.argmax(axis=1) == truth).mean())
    assert figures["accuracy_at_80"] == next(r["accuracy"] for r in curve if r["coverage"] == 0.8)
    assert figures["accuracy_at_80"] > curve[-1]["accuracy"], "certainty says something here"
    assert all(r["low"] <= r["accuracy"] <= r["high"] for r in curve)
    assert figures["aurc_low"] < figures["aurc"] < figures["aurc_high"]


@pytest.mark.parametrize("classes", [2, 5])
def test_sets_hold_the_true_class_as_often_as_promised(classes):
    """Over many calibrations the mean coverage lies in [c, c + 1 / (n + 1)] (Vovk et al. 2005)."""
    held = []
    for seed in range(150):
        val, val_truth = scored(99, seed, classes=classes)
        p, truth = scored(300, 10_000 + seed, classes=classes)
        found = uncertainty.conformal(
            p[None], the_set(truth, 2), val[None], val_truth, [str(k) for k in range(classes)], 0.9
        )
        held.append(found["coverage"])
    assert np.mean(held) == pytest.approx(0.905, abs=0.012)  # about 4 standard errors


def test_the_bound_is_the_quantile_by_hand():
    # Scores 0.1 .. 0.9 (nine images): ceil(10 * 0.8) = 8th smallest, 0.8: classes of probability 0.2 and more stay.
    own = 1 - np.arange(1, 10) / 10
    p = np.column_stack([own, 1 - own])
    assert uncertainty.calibrate(p, np.zeros(9, int), 0.8) == pytest.approx(0.2)
    assert uncertainty.calibrate(p, np.zeros(9, int), 0.9) == pytest.approx(0.1)
    assert uncertainty.calibrate(p, np.zeros(9, int), 0.95) == -math.inf
    assert uncertainty.calibrate(np.zeros((0, 2)), np.zeros(0, int), 0.9) == -math.inf


def test_sizes_and_classes_add_up():
    val, val_truth = scored(200, 1, sharp=3)
    p, truth = scored(300, 2, sharp=3)
    test = the_set(truth)
    found = uncertainty.conformal(np.stack([p, p]), test, np.stack([val, val]), val_truth, ("a", "b"), 0.8)
    assert found["empty"] + found["single"] + found["double"] == pytest.approx(1)
    assert found["set_size"] == pytest.approx(found["single"] + 2 * found["double"])
    inside = found["classes"]
    total = sum(inside[k]["coverage"] * inside[k]["n"] for k in inside)
    assert total / 300 == pytest.approx(found["coverage"])
    assert found["coverage_low"] < found["coverage"] < found["coverage_high"]
    assert found["val_n"] == 200


def test_another_kind_of_images_is_not_covered_and_that_shows():
    val, val_truth = scored(300, 1, sharp=3)
    p, truth = scored(300, 2, sharp=-1)  # what the classifier learnt is wrong here
    found = uncertainty.conformal(p[None], the_set(truth), val[None], val_truth, ("a", "b"), 0.9)
    assert found["coverage_high"] < 0.8


def test_a_class_without_test_images_has_no_coverage():
    p, truth = scored(50, 1)
    test = the_set(np.zeros(50, int))
    found = uncertainty.conformal(p[None], test, p[None], truth, ("a", "b"), 0.9)
    assert found["classes"]["b"]["n"] == 0 and math.isnan(found["classes"]["b"]["coverage"])
