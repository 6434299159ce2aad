import numpy as np
import pytest
from scipy.linalg import sqrtm

from derm_t2im.fidelity.fid import fid, fid_interval


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
