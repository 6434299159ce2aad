"""Agreement and reader statistics against published examples and against other software."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import fleiss_kappa

from derm_t2im.study import agreement, power, readings

# Fleiss 1971, table 1: 30 patients, 6 psychiatrists, 5 diagnoses.
FLEISS_1971 = np.array([
    [0, 0, 0, 6, 0], [0, 3, 0, 0, 3], [0, 1, 4, 0, 1], [0, 0, 0, 0, 6], [0, 3, 0, 3, 0], [2, 0, 4, 0, 0],
    [0, 0, 4, 0, 2], [2, 0, 3, 1, 0], [2, 0, 0, 4, 0], [0, 0, 0, 0, 6], [1, 0, 0, 5, 0], [1, 1, 0, 4, 0],
    [0, 3, 3, 0, 0], [1, 0, 0, 5, 0], [0, 2, 0, 3, 1], [0, 0, 5, 0, 1], [3, 0, 0, 1, 2], [5, 1, 0, 0, 0],
    [0, 2, 0, 4, 0], [1, 0, 2, 0, 3], [0, 0, 0, 0, 6], [0, 1, 0, 5, 0], [0, 2, 0, 1, 3], [2, 0, 0, 4, 0],
    [1, 0, 0, 4, 1], [0, 5, 0, 1, 0], [4, 0, 0, 0, 2], [0, 2, 0, 4, 0], [1, 0, 5, 0, 0], [0, 0, 0, 0, 6],
])  # fmt: skip
# Fleiss, Statistical Methods for Rates and Proportions (1981), table 13.1: 100 patients, kappa 0.68.
FLEISS_1981 = np.array([[75, 1, 4], [5, 4, 1], [0, 0, 10]])


def test_fleiss_kappa_of_1971():
    assert FLEISS_1971.sum() == 180
    found = agreement.fleiss(FLEISS_1971, np.ones(30))
    assert float(found) == pytest.approx(0.430, abs=5e-4)
    assert float(found) == pytest.approx(fleiss_kappa(FLEISS_1971), abs=1e-12)


def test_cohens_kappa_of_1981():
    a, b = (np.repeat(codes.ravel(), FLEISS_1981.ravel()) for codes in np.indices((3, 3)))
    assert float(agreement.cohen(a, b, np.ones(100))) == pytest.approx(0.676, abs=5e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(2, 4), st.integers(2, 30), st.integers(0, 10**6))
def test_kappas_are_those_of_other_software_also_under_resampling(readers, categories, n, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, categories, (readers, n))
    counts = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=3)])
    table = agreement.rated(codes, categories)
    for found, pair, some in zip(agreement.fleiss(table, counts), agreement.cohen(codes[0], codes[1], counts), counts,
                                 strict=True):  # fmt: skip
        again = np.repeat(np.arange(n), some.astype(int))
        if (table[again].sum(axis=0) > 0).sum() > 1:
            assert found == pytest.approx(fleiss_kappa(table[again]), abs=1e-9)
        else:
            assert np.isnan(found)
        if len(set(codes[:2, again].ravel())) > 1:
            assert pair == pytest.approx(cohen_kappa_score(codes[0, again], codes[1, again]), abs=1e-9)
        else:
            assert np.isnan(pair)


def test_exact_test_and_interval():
    estimate, p = readings.exact(61, 100)
    # R: binom.test(61, 100): 0.5073 to 0.7060, p = 0.0352
    assert estimate == pytest.approx((0.61, 0.5073, 0.7060), abs=1e-4) and p == pytest.approx(0.0352, abs=1e-4)


def test_newcombe_of_1998():
    found = readings.newcombe(readings.share(56, 70), readings.share(48, 80))  # his table II, method 10, example (a)
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def answers(called: np.ndarray, confidence: float = 3.0) -> readings.Answers:
    return readings.Answers(called.astype(float), np.where(called, confidence, -confidence), np.full(len(called), 1.0))


def test_signal_detection_of_known_rates():
    synthetic = np.arange(100) < 50
    called = np.r_[np.arange(50) < 40, np.arange(50) < 10]  # 40 hits, 10 false alarms
    one, points = answers(called), np.ones(100)
    expected = 2 * norm.ppf(40.5 / 51)
    assert float(readings.d_prime(one, synthetic, points)) == pytest.approx(expected)
    assert float(readings.criterion(one, synthetic, points)) == pytest.approx(0)
    always = answers(np.ones(100, bool))
    assert float(readings.criterion(always, synthetic, points)) < -2  # says synthetic whatever comes
    assert float(readings.d_prime(always, synthetic, points)) == pytest.approx(0)
    assert float(readings.auc(one, synthetic, points)) == pytest.approx(0.8)


def crossed(rng: np.random.Generator, readers: int, n: int, spread: float, shared: float) -> np.ndarray:
    """Right or wrong (readers, n): readers differ by ``spread``, images by ``shared``."""
    chance = norm.cdf(0.3 + rng.normal(0, spread, (readers, 1)) + rng.normal(0, shared, n))
    return rng.random((readers, n)) < chance


def pooled(right: np.ndarray, rng: np.random.Generator, draws: int) -> readings.Pooled:
    n = right.shape[1]
    synthetic = np.arange(n) % 2 == 0
    tables = [answers(np.where(row, synthetic, ~synthetic)) for row in right]
    counts = readings.draw(synthetic.astype(int), draws, rng)
    values = np.array([float(readings.accuracy(one, synthetic, np.ones(n))) for one in tables])
    drawn = np.stack([readings.accuracy(one, synthetic, counts) for one in tables], axis=1)
    return readings.pool(values, drawn, [readings.exact(int(row.sum()), n)[0] for row in right], True)


def test_the_pooled_error_is_that_of_the_crossed_analysis_of_variance():
    rng = np.random.default_rng(3)
    right = crossed(rng, 5, 200, 0.3, 0.7).astype(float)
    found = pooled(right.astype(bool), rng, 20000)
    # Obuchowski and Rockette's two terms, the covariance computed directly within each kind.
    between = right.mean(axis=1).var(ddof=1)
    halves = [right[:, 0::2], right[:, 1::2]]
    matrix = sum(np.cov(half, ddof=0) / half.shape[1] for half in halves) / 4
    covariance = (matrix.sum() - np.trace(matrix)) / 20
    assert found.error == pytest.approx(np.sqrt(between / 5 + covariance), rel=0.03)
    assert found.df == pytest.approx((between + 5 * covariance) ** 2 / (between**2 / 4), rel=0.1)


def test_the_pooled_interval_covers_where_counting_answers_does_not():
    rng = np.random.default_rng(4)
    truth = norm.cdf(0.3 / np.sqrt(1 + 0.4**2 + 0.7**2))
    held = naive = 0
    for _ in range(200):
        right = crossed(rng, 5, 100, 0.4, 0.7)
        low, high = pooled(right, rng, 200).estimate[1:]
        held += low <= truth <= high
        low, high = readings.exact(int(right.sum()), right.size)[0][1:]
        naive += low <= truth <= high
    assert held >= 180 and naive <= 150


def test_one_reader_and_readers_without_a_difference():
    rng = np.random.default_rng(5)
    one = pooled(np.ones((1, 20), bool), rng, 200)
    assert one.estimate == readings.exact(20, 20)[0] and np.isnan(readings.p_value(one, 0.5))
    same = pooled(np.ones((3, 20), bool), rng, 200)  # all right, all the time
    assert same.estimate.low == pytest.approx(0.8316, abs=1e-4) and same.estimate.high == 1


def test_detectable_accuracy():
    assert power.rejects_from(100) == 61 and power.rejects_from(5) == 6
    assert binom.sf(60, 100, power.detectable(100)) == pytest.approx(0.8)
    assert np.isnan(power.detectable(5))
    assert power.detectable(500) < power.detectable(100) < power.detectable(20)
