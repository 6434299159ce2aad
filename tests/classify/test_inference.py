"""Seeds, margins and numbers of images against published examples, statsmodels and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.stats import power, proportion, weightstats

from derm_t2im.classify import inference

# Van Dyke's study (5 readers, 2 modalities, 114 cases): AUCs, and the jackknife covariances of Obuchowski and
# Rockette, as published with the software OR-DBM MRMC and RJafroc.
VAN_DYKE = np.array(
    [
        [0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066],
        [0.94782609, 0.90531401, 0.92173913, 0.99935588, 0.92995169],
    ]
)
VAR, COV1, COV2, COV3 = 0.0008022883, 0.0003466137, 0.0003440748, 0.0002390284


def test_seeds_and_images_as_readers_and_cases_of_a_published_study():
    covariance = np.full((5, 5), 2 * (COV2 - COV3))
    np.fill_diagonal(covariance, 2 * (VAR - COV1))
    found = inference.crossed(VAN_DYKE[0] - VAN_DYKE[1], covariance)
    assert found.mean == pytest.approx(-0.0438003, abs=1e-6)
    assert found.freedom == pytest.approx(15.26, abs=0.01)
    assert found.p() == pytest.approx(0.05167, abs=1e-5)
    assert found.interval() == pytest.approx((-0.0879595, 0.0003589), abs=1e-5)


@pytest.mark.parametrize(
    ("row", "variance", "covariance", "freedom", "interval"),
    [
        (0, 0.00101410277, 0.00048396180, 12.744648, (0.82522360, 0.96885048)),
        (1, 0.00059047376, 0.00020418785, 12.710190, (0.89413783, 0.98753689)),
    ],
)
def test_one_modality_of_that_study(row, variance, covariance, freedom, interval):
    matrix = np.full((5, 5), covariance)
    np.fill_diagonal(matrix, variance)
    found = inference.crossed(VAN_DYKE[row], matrix)
    assert found.freedom == pytest.approx(freedom, abs=1e-4)
    assert found.interval() == pytest.approx(interval, abs=1e-6)


def simulate(rng, seeds, seed_sd, images=120, effect=0.0, draws=200):
    """Values (seeds, 1 + draws) of a mean over images that differ, with seeds that differ."""
    shared, own = rng.normal(size=images), rng.normal(size=(seeds, images))
    right = effect + shared + own + seed_sd * rng.normal(size=(seeds, 1))
    counts = rng.multinomial(images, np.full(images, 1 / images), draws)
    return np.column_stack([right.mean(axis=1), right @ counts.T / images])


@pytest.mark.parametrize(("seeds", "seed_sd"), [(5, 0.0), (5, 0.15), (3, 0.3), (2, 0.1)])
def test_the_interval_over_seeds_covers_what_it_says(seeds, seed_sd):
    rng = np.random.default_rng(seeds)
    ends = [inference.over_seeds(simulate(rng, seeds, seed_sd)).interval() for _ in range(250)]
    covered = np.mean([low <= 0 <= high for low, high in ends])
    assert covered >= 0.91  # 0.95 to be expected; P(less) < 0.005


def test_the_images_alone_would_cover_far_less_where_seeds_differ():
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(200):
        draws = simulate(rng, 5, 0.3).mean(axis=0)[1:]
        low, high = np.quantile(draws, (0.025, 0.975))
        hits.append(low <= 0 <= high)
    assert np.mean(hits) < 0.9


def test_seeds_that_agree_by_chance_promise_no_more_than_the_images():
    rng = np.random.default_rng(0)
    values = simulate(rng, 2, 0.0)
    values[1] += values[0, 0] - values[1, 0]  # the same figure on the sample itself
    found = inference.over_seeds(values)
    assert found.error >= 0.95 * values[:, 1:].mean(axis=0).std()


def test_one_seed_or_unknown_values_give_no_interval():
    for values in (np.ones((1, 50)), np.full((3, 50), np.nan)):
        found = inference.over_seeds(values)
        assert math.isnan(found.p()) and math.isnan(found.tost(0.1)) and all(map(math.isnan, found.interval()))


def test_equal_seeds_on_equal_images_do_not_differ():
    found = inference.over_seeds(np.zeros((3, 50)))
    assert found.p() == 1.0
    assert found.interval() == (0.0, 0.0)
    assert found.tost(0.01) == 0.0


def test_equivalence_agrees_with_statsmodels():
    # Without a share of the images in common the test is that of paired differences over seeds.
    d = np.array([0.004, -0.006, 0.011, 0.002, -0.001])
    found = inference.crossed(d, np.zeros((5, 5)))
    for margin in (0.005, 0.01, 0.03):
        expected, _, _ = weightstats.DescrStatsW(d).ttost_mean(-margin, margin)
        assert found.tost(margin) == pytest.approx(expected)
    assert found.p() == pytest.approx(weightstats.DescrStatsW(d).ttest_mean(0)[1])


@given(st.floats(-0.05, 0.05), st.floats(0.001, 0.05), st.floats(0.005, 0.1))
def test_two_one_sided_tests_and_the_90_percent_interval_are_one(mean, error, margin):
    found = inference.Crossed(mean, error, 7.0)
    low, high = found.interval(0.9)
    if min(abs(low + margin), abs(high - margin)) > 1e-9:
        assert (found.tost(margin) < 0.05) == (-margin < low and high < margin)


def test_equivalence_by_draws_counts_those_outside():
    draws = np.r_[np.zeros(97), 0.03, 0.04, -0.05]
    assert inference.tost_of_draws(draws, 0.02) == pytest.approx(3 / 101)
    assert math.isnan(inference.tost_of_draws(np.array([np.nan]), 0.02))


@pytest.mark.parametrize(
    ("low", "high", "within", "said"),
    [
        (0.01, 0.04, False, "better"),
        (0.001, 0.015, True, "better, within the margin"),
        (-0.04, -0.01, False, "worse"),
        (-0.01, -0.001, True, "worse, within the margin"),
        (-0.01, 0.01, True, "equivalent"),
        (-0.03, 0.05, False, "undecided"),
        (math.nan, math.nan, False, None),
    ],
)
def test_verdicts(low, high, within, said):
    assert inference.verdict(low, high, within) == said


def test_mcnemars_number_of_images_of_a_published_example():
    # Connor's formula as the calculator powerandsamplesize.com prints it: 0.45 and 0.05 discordant, 80 %: 23 pairs.
    assert inference.images_for_accuracy(0.5, 0.4) == 23


@pytest.mark.parametrize(("only_a", "only_b"), [(0.06, 0.0372), (0.12, 0.08), (0.03, 0.01)])
def test_mcnemars_number_of_images_has_the_power_that_it_says(only_a, only_b):
    n = int(inference.images_for_accuracy(only_a + only_b, only_a - only_b))
    rng = np.random.default_rng(0)
    a, b, _ = rng.multinomial(n, [only_a, only_b, 1 - only_a - only_b], 20_000).T
    p = np.minimum(1, 2 * binom.cdf(np.minimum(a, b), a + b, 0.5))
    assert np.mean(p < 0.05) == pytest.approx(0.8, abs=0.04)  # the exact test is a little conservative


def test_images_for_auc_scale_the_standard_error():
    n = inference.images_for_auc(0.012, 500, 0.0228)
    error = 0.012 * math.sqrt(500 / n)
    found = power.normal_power(0.0228 / error, 1, 0.05)
    assert found == pytest.approx(0.8, abs=0.001)
    assert math.isnan(inference.images_for_auc(0.012, 500, 0.0)) and math.isnan(
        inference.images_for_auc(math.nan, 500, 0.1)
    )


def test_unpaired_images_agree_with_statsmodels():
    a, b = 598 / 659, 613 / 659
    n = inference.images_unpaired(b, a)
    assert proportion.power_proportions_2indep(b - a, a, n).power == pytest.approx(0.8, abs=0.001)
    assert math.isnan(inference.images_unpaired(0.5, 0.5))


def test_no_gain_needs_no_number():
    assert math.isnan(inference.images_for_accuracy(0.1, 0.0))
    assert inference.images_for_accuracy(0.0, 0.1) > 0  # the gain is discordant by itself
