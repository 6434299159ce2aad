"""Temperature scaling finds the temperature that was put in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from derm_t2im.classify import calibration, statistics


def calibrated_sample(classes, n=6000, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), n)
    return p, (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_recovers_a_known_temperature_and_calibrates(classes, temperature):
    p, truth = calibrated_sample(classes)
    off = calibration.apply_temperature(p, 1 / temperature)
    found = calibration.fit_temperature(off, truth)
    assert found == pytest.approx(temperature, rel=0.05)
    one = statistics.ones(len(truth))
    after = statistics.ece(calibration.apply_temperature(off, found), truth, 10, one)
    assert after < 0.02
    if temperature != 1.0:
        assert after < statistics.ece(off, truth, 10, one) / 3


@given(st.floats(0.1, 10))
def test_scaling_keeps_the_order_and_the_sum(temperature):
    p, _ = calibrated_sample(4, n=50)
    scaled = calibration.apply_temperature(p, temperature)
    assert np.array_equal(scaled.argmax(axis=1), p.argmax(axis=1))
    assert scaled.sum(axis=1) == pytest.approx(1)


def test_a_perfect_validation_set_stays_within_bounds():
    p = np.array([[1.0, 0.0], [0.0, 1.0]])
    low, high = calibration.TEMPERATURES
    assert low <= calibration.fit_temperature(p, np.array([0, 1])) <= high
    assert calibration.fit_temperature(np.empty((0, 2)), np.empty(0, int)) == 1.0
