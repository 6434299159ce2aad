import numpy as np
import pytest

from derm_t2im.fidelity.estimate import jackknife_variance, mean, parts, share


def test_wilson_interval_of_a_published_example():
    # Newcombe 1998, table I, method 3: 15 of 148.
    found = share(np.arange(148) < 15)
    assert (found.low, found.high) == (pytest.approx(0.0624, abs=5e-5), pytest.approx(0.1605, abs=5e-5))


def test_share_of_none_and_of_nothing():
    assert share(np.zeros(20, bool)).low == 0 and share(np.zeros(20, bool)).high > 0.1
    assert np.isnan(share(np.empty(0, bool)).value)


def test_jackknife_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(0).normal(size=50)
    without = (x.sum() - x) / 49
    assert jackknife_variance(without) == pytest.approx(x.var(ddof=1) / 50)
    assert mean(x).high - mean(x).value == pytest.approx(1.959964 * x.std(ddof=1) / np.sqrt(50), rel=1e-6)


def test_parts_are_of_equal_size_and_repeatable():
    group = parts(23, 5, seed=1)
    assert sorted(np.bincount(group)) == [4, 4, 5, 5, 5]
    assert (group == parts(23, 5, seed=1)).all() and (group != parts(23, 5, seed=2)).any()
