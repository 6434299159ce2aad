from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derm_t2im.curation import rules
from derm_t2im.params.curate import Curate

BOUNDS = rules.limits(Curate(min_uniqueness=0.1), np.zeros(101), np.linspace(0.5, 1, 101), np.linspace(1, 3, 101), 0.1)
GOOD = {
    "label": "benign",
    "hair_fraction": 0.004,
    "ruler": 0.0,
    "ink": 0.0,
    "fine_detail": 0.8,
    "copy_of": None,
    "nearest_real_id": "real-1",
    "nearest_real_distance": 2.0,
    "label_probability": 0.9,
    "probe_label": "benign",
    "uniqueness": 0.5,
}
BAD = {
    "hair": {"hair_fraction": 0.0051},
    "ruler": {"ruler": 0.51},
    "ink": {"ink": 0.51},
    "blur": {"fine_detail": 0.504},
    "off_manifold": {"nearest_real_distance": 2.99},
    "copy": {"copy_of": "real-7"},
    "label_disagreement": {"label_probability": 0.29},
    "low_uniqueness": {"uniqueness": 0.09},
    "unmeasured": {"fine_detail": np.nan},
}


def judge(*rows: dict) -> rules.Findings:
    return rules.judge(pd.DataFrame([GOOD | row for row in rows]), BOUNDS)


def test_limits_are_quantiles_of_the_real_images():
    assert (BOUNDS.detail, BOUNDS.off_manifold) == (pytest.approx(0.505), pytest.approx(2.98))


def test_hair_may_cover_what_it_covers_of_real_images():
    hair = np.linspace(0, 0.1, 101)
    wide, narrow = (rules.limits(Curate(hair_quantile=q), hair, np.ones(9), np.ones(9), 0.1).hair for q in (0.9, 0))
    assert (wide, narrow, BOUNDS.hair) == (pytest.approx(0.09), 0.005, 0.005)


@pytest.mark.parametrize("reason", BAD)
def test_each_rule_rejects_with_its_reason_and_a_sentence(reason):
    found = judge(BAD[reason], {})
    assert list(found.reason) == [reason, None]
    assert found.explanation[0].endswith(".") and found.explanation[1] is None
    assert list(found.passed) == [False, True]


def test_an_image_exactly_at_a_limit_stays():
    at = {"hair_fraction": BOUNDS.hair, "ruler": BOUNDS.ruler, "fine_detail": BOUNDS.detail}
    assert judge(at, {"nearest_real_distance": BOUNDS.off_manifold}).passed.all()


def test_the_first_reason_in_the_order_of_the_table_counts():
    order = [reason for reason in rules.REASONS if reason in BAD]
    for earlier, later in itertools.pairwise(order):
        both = BAD[later] | BAD[earlier]
        assert judge(both).reason[0] == earlier


def test_the_explanation_names_what_was_measured_and_what_is_allowed():
    assert judge(BAD["copy"]).explanation[0] == (
        "Suspected copy of the real training image real-7, maybe turned or cropped: only 1.00% of held-out real images "
        "stand so much nearer to one than to the next ones."
    )
    assert judge(BAD["unmeasured"]).explanation[0] == "Not measured: fine_detail."


def test_missing_values_of_nullable_columns_count_as_unmeasured():
    table = pd.DataFrame([GOOD]).convert_dtypes()
    table.loc[0, "ink"] = pd.NA
    assert rules.judge(table, BOUNDS).explanation[0] == "Not measured: ink."


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_limits_need_real_images(empty):
    arrays = [np.ones(3), np.ones(3), np.ones(3)]
    arrays[empty] = np.array([])
    with pytest.raises(ValueError, match="real images"):
        rules.limits(Curate(), *arrays, 0.1)


POOL = st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), min_size=1, max_size=60)


def balanced(pool, keep, seed=0):
    labels, passed, wanted = zip(*pool, strict=False)
    ids = [f"i{n}" for n in range(len(pool))]
    first = np.array(wanted) & np.array(passed)
    return (
        rules.balance(ids, list(labels), np.array(passed), first, ["a", "b", "c"], keep, seed),
        np.array(labels),
        first,
    )


@given(POOL, st.integers(3, 60))
@settings(max_examples=60, deadline=None)
def test_classes_are_kept_equal_and_within_the_target(pool, keep):
    result, labels, first = balanced(pool, keep)
    counts = [int((result.kept & (labels == name)).sum()) for name in "abc"]
    assert counts == [result.per_class] * 3
    assert sum(counts) <= keep
    passed = np.array([p for _, p, _ in pool])
    assert not (result.kept & ~passed).any()
    assert result.per_class == min(keep // 3, *result.available.values())
    for name in "abc":  # nobody is kept before all that a reviewer wants of the class
        of_class = labels == name
        if (first & of_class & ~result.kept).any():
            assert not (result.kept & of_class & ~first).any()


@given(POOL, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_draw_does_not_depend_on_the_order_of_the_images(pool, random):
    labels, passed, _ = zip(*pool, strict=False)
    ids = [f"i{n}" for n in range(len(pool))]
    order = list(range(len(pool)))
    random.shuffle(order)
    no = np.zeros(len(pool), dtype=bool)
    a = rules.balance(ids, list(labels), np.array(passed), no, ["a", "b", "c"], 30, 1).kept
    b = rules.balance(
        [ids[i] for i in order], [labels[i] for i in order], np.array(passed)[order], no, ["a", "b", "c"], 30, 1
    ).kept
    assert {ids[i] for i in np.flatnonzero(a)} == {ids[order[i]] for i in np.flatnonzero(b)}


def test_the_draw_follows_the_seed():
    pool = [("a", True, False), ("b", True, False), ("c", True, False)] * 20
    kept = [tuple(balanced(pool, 30, seed)[0].kept) for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]


def test_a_short_class_says_how_many_images_would_do():
    pool = [("a", i < 40, False) for i in range(50)] + [("b", i < 10, False) for i in range(50)]
    labels, passed, _ = zip(*pool, strict=False)
    no = np.zeros(100, dtype=bool)
    result = rules.balance([f"i{n}" for n in range(100)], list(labels), np.array(passed), no, ["a", "b"], 60, 0)
    assert (result.per_class, result.target) == (10, 30)
    # 30 wanted of b, of which at least 11.24 % pass (Wilson, 10 of 50): 267 drawn of each class.
    assert result.needed == 2 * 267


def test_no_size_of_pool_helps_a_class_that_keeps_nothing():
    result, _, _ = balanced([("a", True, False), ("b", True, False), ("c", False, False)], 6)
    assert (result.per_class, result.needed) == (0, 0)


def test_proportion_agrees_with_the_worked_example():
    # Wilson's interval for 10 of 100 (Brown, Cai & DasGupta 2001)
    assert rules.proportion(10, 100) == pytest.approx((0.1, 0.0552, 0.1744), abs=5e-5)
    assert np.isnan(rules.proportion(0, 0)).all()


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["light", "tan", "dark", ""]), st.booleans(), st.booleans())
    ),
    st.integers(2, 30),
)
def test_tones_are_as_even_as_what_passed_allows(images, keep):
    ids = [f"i{n}" for n in range(len(images))]
    labels, tones, passed, first = ([image[k] for image in images] for k in range(4))
    ok = np.array(passed, dtype=bool)
    wanted = np.array(first, dtype=bool)
    plain = rules.balance(ids, labels, ok, wanted, ["a", "b"], keep, 0)
    even = rules.balance(ids, labels, ok, wanted, ["a", "b"], keep, 0, tones)
    assert (even.per_class, even.available, even.needed) == (plain.per_class, plain.available, plain.needed)
    for name in "ab":
        own = [i for i in range(len(ids)) if labels[i] == name and passed[i]]
        kept = [i for i in own if even.kept[i]]
        assert len(kept) == even.per_class
        left_out = {tones[i] for i in own if not even.kept[i] and not first[i]}
        drawn = {t: sum(tones[i] == t for i in kept) for t in set(tones)}
        # a tone that has more could give its place to one that has images left over, unless a person wants them
        for tone in left_out:
            for other, count in drawn.items():
                free = [i for i in kept if tones[i] == other and not first[i]]
                assert count - drawn[tone] <= 1 or not free
        if any(first[i] for i in own if not even.kept[i]):
            assert all(first[i] for i in kept), "a reviewer's image comes before any other"
