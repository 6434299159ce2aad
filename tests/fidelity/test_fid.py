import numpy as np
import pytest
from scipy.linalg import sqrtm

from derm_t2im.fidelity.fid import fid, fid_infinity, fid_interval


def draw(n, shift=0.0, seed=0, d=5, scale=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (n, d)) @ np.random.default_rng(99).normal(size=(d, d)) + shift


def by_the_book(x, y):
    """Heusel et al. 2017, with a general matrix root: as torch-fidelity writes it."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    gap = x.mean(axis=0) - y.mean(axis=0)
    return gap @ gap + np.trace(a + b - 2 * sqrtm(a @ b).real)


@pytest.mark.parametrize(("m", "n", "d"), [(100, 80, 5), (400, 300, 40)])
def test_agrees_with_the_formula(m, n, d):
    x, y = draw(m, d=d), draw(n, 0.5, seed=1, d=d, scale=1.4)
    assert fid(x, y) == pytest.approx(by_the_book(x, y), rel=1e-6)


def test_worked_example_in_one_dimension():
    # variances 1 and 4, means 0 and 3: 9 + (1 - 2)^2
    x, y = np.array([[-1.0], [1.0], [0.0]]), 2 * np.array([[-1.0], [1.0], [0.0]]) + 3
    assert fid(x, y) == pytest.approx(10)


def test_fewer_images_than_features():
    x, y = draw(12, d=30), draw(10, 1.0, seed=1, d=30)
    assert fid(x, y) == pytest.approx(by_the_book(x, y), rel=1e-3)


def test_itself_is_zero_and_shifts_cancel():
    x, y = draw(60), draw(60, seed=1)
    assert fid(x, x) == pytest.approx(0, abs=1e-9)
    assert fid(x + 1000, y + 1000) == pytest.approx(fid(x, y), rel=1e-6)
    assert fid(x, y) == pytest.approx(fid(y, x), rel=1e-9)


def test_interval_has_about_the_spread_of_repeated_samples():
    values = [fid(draw(200, seed=2 * i), draw(200, 0.5, seed=2 * i + 1)) for i in range(100)]
    widths = [
        found.high - found.low
        for found in (fid_interval(draw(200, seed=2 * i), draw(200, 0.5, seed=2 * i + 1)) for i in range(20))
    ]
    assert 0.6 < np.mean(widths) / (2 * 1.96 * np.std(values)) < 1.6
    assert fid_interval(draw(50), draw(50)).low >= 0


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="at least three"):
        fid(draw(2), draw(20))


def test_fid_infinity_takes_the_bias_of_small_sets_out():
    """Two Gaussians with a known distance: trace terms of (1 - s)^2 in each direction and the gap of the means."""
    d, spread, gap = 24, 0.7, 0.2
    truth = d * (1 - spread) ** 2 + d * gap**2
    rng = np.random.default_rng(0)
    plain, drawn_out = [], []
    for i in range(6):
        x, y = rng.normal(size=(250, d)), spread * rng.normal(size=(220, d)) + gap
        plain.append(fid(x, y) - truth)
        drawn_out.append(fid_infinity(x, y, seed=i).value - truth)
    assert np.mean(plain) > 4 * abs(np.mean(drawn_out))
    found = fid_infinity(x, y)
    assert found.low < found.value < found.high
    assert fid_infinity(x, y) == found
    assert fid_infinity(x + 5, y + 5).value == pytest.approx(found.value, abs=1e-6)


def test_fid_infinity_of_one_distribution_is_nought_within_its_interval():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(400, 12)), rng.normal(size=(400, 12))
    found = fid_infinity(x, y)
    assert found.low < 0 < found.high or abs(found.value) < 0.1 * fid(x, y)


def test_fid_infinity_needs_images():
    with pytest.raises(ValueError, match="at least 20"):
        fid_infinity(np.zeros((19, 3)), np.zeros((30, 3)))
