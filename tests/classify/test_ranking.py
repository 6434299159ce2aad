"""Metrics of order and decision against scikit-learn, for one sample and for many draws at once."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from derm_t2im.classify import ranking, statistics


def read_off(scores, positive, weights=None):
    """The highest sensitivity among the corners of the ROC curve with at least 90 % specificity."""
    fpr, tpr, _ = sk.roc_curve(positive, scores, sample_weight=weights, drop_intermediate=False)
    return tpr[fpr <= 1 - ranking.SPECIFICITY + 1e-9].max()


@given(
    hnp.arrays(np.int64, 40, elements=st.integers(0, 12)),  # many ties
    hnp.arrays(np.bool_, 40).filter(lambda y: y.any() and not y.all()),
)
def test_they_agree_with_scikit_learn(scores, positive):
    found = ranking.ranked(scores / 12, positive, statistics.ones(40))
    assert found.auc == pytest.approx(sk.roc_auc_score(positive, scores))
    assert found.average_precision == pytest.approx(sk.average_precision_score(positive, scores))
    assert found.sensitivity == pytest.approx(read_off(scores, positive))
    flagged = scores > 6
    assert ranking.f1(flagged, positive, statistics.ones(40)) == pytest.approx(sk.f1_score(positive, flagged))


def test_draws_weigh_as_scikit_learns_weights_and_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 30, 80) / 30, rng.random(80) < 0.4
    counts = statistics.bootstrap_counts(np.arange(80) // 2, positive.astype(int), 25, rng).counts
    whole = ranking.ranked(scores, positive, counts)
    for i, row in enumerate(counts):
        assert whole.auc[i] == pytest.approx(sk.roc_auc_score(positive, scores, sample_weight=row))
        expected = sk.average_precision_score(positive, scores, sample_weight=row)
        assert whole.average_precision[i] == pytest.approx(expected)
        assert whole.sensitivity[i] == pytest.approx(read_off(scores, positive, row))
        assert ranking.f1(scores > 0.5, positive, row) == pytest.approx(
            sk.f1_score(positive, scores > 0.5, sample_weight=row)
        )
        assert ranking.precision(scores > 0.5, positive, row) == pytest.approx(
            sk.precision_score(positive, scores > 0.5, sample_weight=row)
        )
    monkeypatch.setattr(ranking, "_CHUNK", 300)
    parts = ranking.ranked(scores, positive, counts)
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_what_a_single_class_does_not_define_is_nan():
    one = ranking.ranked(np.arange(5.0), np.ones(5, bool), statistics.ones(5))
    assert math.isnan(one.auc) and math.isnan(one.sensitivity) and one.average_precision == 1
    none = ranking.ranked(np.arange(5.0), np.zeros(5, bool), statistics.ones(5))
    assert all(map(math.isnan, none))
    # A draw that misses the one positive is undefined; the others are not.
    positive = np.arange(4) == 0
    draws = np.array([[1.0, 1, 1, 1], [0, 2, 1, 1]])
    assert np.isnan(ranking.ranked(np.arange(4.0), positive, draws).auc).tolist() == [False, True]
    assert all(np.isnan(v).all() for v in ranking.ranked(np.zeros(0), np.zeros(0, bool), np.ones((2, 0))))
    assert math.isnan(ranking.f1(np.zeros(3, bool), np.zeros(3, bool), statistics.ones(3)))
