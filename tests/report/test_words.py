from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derm_t2im.report import verdict, words
from derm_t2im.report.words import Contrast


def contrast(low: float | None, high: float | None, arch: str = "vit", b: str = "real") -> Contrast:
    value = None if low is None or high is None else (low + high) / 2
    return Contrast(arch, "in_domain", "hybrid", b, 500, {"auc": value, "auc_low": low, "auc_high": high})


@pytest.mark.parametrize(
    ("value", "form", "said"),
    [
        (0.8736, "percent", "87.4 %"),
        (0.8736, "plain", "0.874"),
        (0.0123, "points", "+1.2"),
        (-0.0123, "points", "−1.2"),
        (-0.00001, "difference", "0.000"),
        (-0.0312, "difference", "−0.031"),
        (-0.5, "plain", "−0.500"),
        (None, "percent", "–"),
        (math.nan, "plain", "–"),
        (True, "plain", "–"),
    ],
)
def test_numbers(value: object, form: words.Form, said: str) -> None:
    assert words.number(value, form) == said


def test_bounds_need_both_ends() -> None:
    assert words.bounds({"a_low": 0.1, "a_high": 0.25}, "a", "percent") == f"[10.0,{words.NBSP}25.0]"
    assert words.bounds({"a_low": 0.1, "a_high": None}, "a") == ""


@pytest.mark.parametrize(("p", "said"), [(0.0004, "< 0.001"), (0.0312, "0.031"), (0.4, "0.40"), (None, "–")])
def test_p_values(p: float | None, said: str) -> None:
    assert words.p_value(p) == said


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_an_outcome_is_claimed_only_where_the_interval_excludes_zero(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    outcome = contrast(low, high).outcome("auc")
    assert (outcome == "improvement") == (low > 0)
    assert (outcome == "deterioration") == (high < 0)
    assert (outcome == "no improvement shown") == (low <= 0 <= high)


@pytest.mark.parametrize(
    ("ends", "answer", "tone"),
    [
        ([(0.01, 0.02), (0.01, 0.03)], "Improvement shown in 2 of 2 comparisons.", "improvement"),
        ([(0.01, 0.02), (-0.01, 0.03)], "Improvement shown in 1 of 2 comparisons.", "none"),
        ([(-0.02, 0.02)], "No improvement shown in 1 comparison.", "none"),
        ([(-0.03, -0.02), (-0.01, 0.1)], "Deterioration shown in 1 of 2 comparisons.", "deterioration"),
        ([(-0.03, -0.02), (0.01, 0.1)], "Improvement in 1, deterioration in 1 of 2 comparisons.", "none"),
        ([(None, None)], "Not measured.", "none"),
        ([(0.0, 0.02)], "No improvement shown in 1 comparison.", "none"),
    ],
)
def test_verdicts(ends: list[tuple[float | None, float | None]], answer: str, tone: str) -> None:
    (found,) = verdict.verdicts([contrast(low, high) for low, high in ends])
    assert (found.answer, found.tone) == (answer, tone)


def test_a_comparison_that_the_figure_cannot_show_is_named_below_it() -> None:
    lone = {"accuracy": 0.02, "accuracy_low": 0.01, "accuracy_high": 0.03, "auc": None}  # of one class: no AUC
    (found,) = verdict.verdicts([contrast(-0.1, 0.2), Contrast("vit", "external", "hybrid", "real", 5, lone)])
    assert found.answer == "Improvement shown in 1 of 2 comparisons." and found.forest is not None
    assert len(found.forest.lines) == 1 and "1 comparison without an AUC, judged by accuracy" in found.forest.caption


def test_a_verdict_per_control_and_only_for_hybrid() -> None:
    other = Contrast("vit", "in_domain", "oversampled", "real", 5, {"auc": 1.0, "auc_low": 0.5, "auc_high": 1.5})
    found = verdict.verdicts([contrast(0.1, 0.2), contrast(-0.1, 0.2, b="oversampled"), other])
    assert [v.question for v in found] == ["Hybrid against real images alone", "Hybrid against repeated real images"]


def test_contrasts_take_n_from_the_classifier_where_they_have_none() -> None:
    metrics = {
        "vit": {"hybrid": {"external": {"n": 227}}},
        "contrasts": {"vit": {"external": {"hybrid-real": {"auc": 0.1}}}},
    }
    (found,) = words.contrasts(metrics)
    assert (found.a, found.b, found.n) == ("hybrid", "real", 227)


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (
            [(0.01, 0.03)],
            "Yes, on these test images: AUC is higher for ViT on the in-domain test (+0.020 [+0.010, +0.030]).",
        ),
        (
            [(0.01, 0.03), (-0.01, 0.03)],
            "In part: AUC is higher for ViT on the in-domain test (+0.020 [+0.010, +0.030]); "
            "no improvement is shown in the other comparison.",
        ),
        (
            [(0.01, 0.03), (0.1, 0.3), (0.05, 0.07)],
            "Yes, on these test images: AUC is higher in 3 of 3 comparisons: least for ViT on the in-domain test "
            "(+0.020 [+0.010, +0.030]), most for ViT on the in-domain test (+0.200 [+0.100, +0.300]).",
        ),
        (
            [(-0.01, 0.03), (-0.05, 0.01)],
            "Not shown: in all 2 comparisons the 95 % interval of the difference contains zero; the largest is "
            "for ViT on the in-domain test (−0.020 [−0.050, +0.010]).",
        ),
        (
            [(-0.01, 0.03)],
            "Not shown: the 95 % interval of the difference contains zero for ViT on the in-domain test "
            "(+0.010 [−0.010, +0.030]).",
        ),
        (
            [(-0.03, -0.01)],
            "No, worse: AUC is lower for ViT on the in-domain test (−0.020 [−0.030, −0.010]).",
        ),
        ([(None, None)], "Not measured: no difference has an interval."),
    ],
)
def test_the_answer_says_no_more_than_the_intervals(ends: list[tuple[float | None, float | None]], said: str) -> None:
    found = verdict.answer([contrast(low, high) for low, high in ends])
    assert found is not None
    assert " ".join(f"{found.lead}: {found.sentence}".split()) == said
    assert found.not_shown == []


@pytest.mark.parametrize(
    ("verdicts", "open_"),
    [
        (["undecided", "undecided"], "classifiers trained anew would differ"),
        (["better", "undecided"], "all of this holds for classifiers trained anew"),
        (["better", "better"], ""),
    ],
)
def test_what_new_training_runs_do_not_show_is_said(verdicts: list[str], open_: str) -> None:
    seeds = {"auc_seeds_low": -0.1, "auc_seeds_high": 0.2}
    found = verdict.answer(
        [
            Contrast(
                "vit",
                test,
                "hybrid",
                "real",
                5,
                {"auc": 0.1, "auc_low": 0.05, "auc_high": 0.2, "auc_verdict": v, **seeds},
            )
            for test, v in zip(("in_domain", "external"), verdicts, strict=True)
        ]
    )
    assert found is not None
    assert open_ in " ".join(found.not_shown) and bool(found.not_shown) == bool(open_)
