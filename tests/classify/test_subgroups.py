"""Results per group: which columns divide, what is compared, and what a gap means."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from derm_t2im.classify import evaluation, subgroups


def world(n=600, weak=None, seed=0):
    """Probabilities (1, n, 2), a test set and groups a, b, c; the group ``weak`` is guessed."""
    rng = np.random.default_rng(seed)
    truth, group = rng.integers(0, 2, n), rng.choice(list("abc"), n)
    sharp = np.where(group == weak, 0.0, 2.0)
    score = 1 / (1 + np.exp(-(rng.normal(size=n) + sharp * (truth - 0.5))))
    test = evaluation.TestSet.draw(truth, np.arange(n), 300, seed)
    return np.stack([1 - score, score], axis=1)[None], test, subgroups.Attribute("site", group)


def compare(p, test, attribute, least=30, positive=(1,), threshold=0.4):
    return subgroups.compare(
        p, test, np.full(len(p), threshold), attribute, list(positive), least, np.random.default_rng(0)
    )


def test_groups_come_from_the_columns_that_there_are():
    table = pd.DataFrame(
        {
            "image_id": list("abcd"),
            "ita": [60.0, 30.0, np.nan, -50.0],
            "age": [29.0, 30.0, 85.0, np.nan],
            "sex": ["female", "Male", "unknown", None],
            "site": ["head/neck", "head and neck", "back", "tail"],
        }
    )
    found = {a.name: a.group.tolist() for a in subgroups.attributes(table)}
    assert found == {
        "tone": ["very light", "intermediate", "", "dark"],
        "age": ["0 to 29", "30 to 49", "70+", ""],
        "sex": ["female", "male", "", ""],
        "site": ["head and neck", "head and neck", "back", "tail"],
    }
    assert subgroups.attributes(table[["image_id"]]) == []
    assert subgroups.attributes(table.assign(ita=np.nan, age=40.0, sex="unknown", site="back")) == []


def test_figures_of_a_group_are_those_of_its_images():
    p, test, attribute = world()
    _, records = compare(p, test, attribute)
    for record in records:
        mask = attribute.group == record["group"]
        truth, score = test.truth[mask], p[0, mask, 1]
        assert record["n"] == mask.sum() and record["positives"] == truth.sum()
        assert record["auc"] == pytest.approx(roc_auc_score(truth, score))
        assert record["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, score > 0.5))
        assert record["sensitivity"] == pytest.approx((score[truth == 1] >= 0.4).mean())
        assert record["auc_low"] < record["auc"] < record["auc_high"]


def test_a_group_that_is_guessed_is_the_worst_and_chance_does_not_explain_it():
    summary, _ = compare(*world(weak="b"))
    assert summary["worst"] == summary["sensitivity_worst"] == "b"
    assert summary["gap"] > 0.2 > summary["gap_by_chance"] and summary["gap_p"] < 0.02
    assert summary["gap_low"] < summary["gap"] < summary["gap_high"]
    assert summary["worst_auc"] == pytest.approx(0.5, abs=0.1)


def test_equal_groups_still_show_a_gap_that_chance_explains():
    found = [compare(*world(n=240, seed=seed))[0] for seed in range(25)]
    assert all(one["gap"] > 0 for one in found)
    assert np.mean([one["gap"] for one in found]) == pytest.approx(
        np.mean([one["gap_by_chance"] for one in found]), rel=0.35
    )
    assert np.mean([one["gap_p"] < 0.05 for one in found]) <= 0.25


def test_a_gap_lies_in_the_middle_of_its_interval():
    for measure in ("", "sensitivity_"):
        found = [compare(*world(n=240, seed=seed))[0] for seed in range(12)]
        low, gap, high = (np.array([one[f"{measure}gap{end}"] for one in found]) for end in ("_low", "", "_high"))
        assert np.mean((gap - low) / (high - low)) == pytest.approx(0.5, abs=0.12), "not at its lower end"


def test_small_groups_are_listed_with_their_n_only():
    p, test, attribute = world()
    group = attribute.group.astype("<U9")
    group[:29], group[29:60] = "rare", ""
    summary, records = compare(p, test, subgroups.Attribute("site", group))
    rare = next(r for r in records if r["group"] == "rare")
    assert set(rare) == {"group", "n", "positives"} and rare["n"] == 29
    assert summary["too_small"] == 1 and summary["groups"] == 3
    assert sum(r["n"] for r in records) == 600 - 31, "images of unknown group belong to none"


def test_a_group_with_one_class_has_no_auc_but_a_balanced_accuracy():
    p, test, attribute = world()
    truth = test.truth.copy()
    truth[attribute.group == "a"] = 0
    test = evaluation.TestSet.draw(truth, np.arange(600), 100, 0)
    summary, records = compare(p, test, attribute)
    alone = next(r for r in records if r["group"] == "a")
    assert math.isnan(alone["auc"]) and math.isnan(alone["sensitivity"]) and 0 < alone["balanced_accuracy"] < 1
    assert summary["measure"] == "auc" and summary["groups"] == 2
    truth[attribute.group == "b"] = 0
    test = evaluation.TestSet.draw(truth, np.arange(600), 100, 0)
    summary, _ = compare(p, test, attribute)
    assert summary["measure"] == "balanced_accuracy" and summary["groups"] == 3 and "gap_p" not in summary


def test_draws_that_miss_a_class_of_a_group_are_left_out():
    p, test, _ = world(n=60)
    truth, group = np.zeros(60, int), np.repeat(["x", "y"], 30)
    truth[[0, 30]] = 1  # one positive each: missing from a third of all draws
    test = evaluation.TestSet.draw(truth, np.arange(60), 300, 0)
    summary, records = compare(p, test, subgroups.Attribute("site", group))
    assert all(np.isfinite([r["auc_low"], r["auc_high"]]).all() for r in records)
    assert np.isfinite([summary["gap_low"], summary["gap_high"]]).all()
    assert "sensitivity_gap" not in summary, "too few positives to compare"


def test_without_a_positive_finding_groups_have_balanced_accuracy():
    p, test, attribute = world()
    summary, records = compare(p, test, attribute, positive=(), threshold=np.nan)
    assert summary["measure"] == "balanced_accuracy"
    assert all("auc" not in r and "sensitivity" not in r for r in records)
