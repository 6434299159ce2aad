import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from derm_t2im.fidelity import blocks
from derm_t2im.fidelity.cmmd import bandwidth, cmmd_floor, cmmd_interval


def draw(n, shift=0.0, seed=0, d=6):
    return np.random.default_rng(seed).normal(shift, 1.0, (n, d))


def by_the_book(x, y, sigma):
    """Jayasumana et al. 2024, equation 5, with whole matrices."""
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))

    def k(a, b):
        return np.exp(-((a[:, None] - b[None]) ** 2).sum(2) / (2 * sigma**2))

    m, n, kxx, kyy = len(x), len(y), k(x, x), k(y, y)
    within = (kxx.sum() - m) / (m * (m - 1)) + (kyy.sum() - n) / (n * (n - 1))
    return 1000 * (within - 2 * k(x, y).mean())


def test_worked_example():
    # x = {(1, 0), (0, 1)}, y = {(1, 0), (1, 0)}, bandwidth 1: k is exp(-1) between different rows, 1 between equal ones
    x, y = np.array([[1.0, 0], [0, 1]]), np.array([[1.0, 0], [1, 0]])
    e = np.exp(-1)
    assert cmmd_interval(x, y, 1.0).value == pytest.approx(1000 * (e + 1 - 2 * (1 + 1 + e + e) / 4))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 10.0])
def test_agrees_with_whole_matrices(sigma, monkeypatch):
    x, y = draw(40), draw(25, 0.7, seed=1)
    expected = by_the_book(x, y, sigma)
    assert cmmd_interval(x, y, sigma).value == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(blocks, "BLOCK", 90)
    assert cmmd_interval(x, y, sigma).value == pytest.approx(expected, rel=1e-9)


def test_its_jackknife_is_that_of_leaving_out_each_image():
    x, y = draw(12), draw(9, 0.5, seed=1)
    without = [
        [by_the_book(np.delete(x, i, 0), y, 1.0) for i in range(len(x))],
        [by_the_book(x, np.delete(y, i, 0), 1.0) for i in range(len(y))],
    ]
    variance = sum((len(v) - 1) / len(v) * np.sum((v - np.mean(v)) ** 2) for v in map(np.array, without))
    found = cmmd_interval(x, y, 1.0)
    assert found.high - found.value == pytest.approx(1.959963984540054 * np.sqrt(variance))


@given(st.integers(0, 1000), st.floats(0.1, 50))
def test_length_means_nothing(seed, scale):
    x, y = draw(8, seed=seed), draw(8, 1.0, seed=seed + 1)
    assert cmmd_interval(x * scale, y, 1.0).value == pytest.approx(cmmd_interval(x, y, 1.0).value, abs=1e-6)


def test_the_floor_holds_what_chance_gives_and_a_shift_lies_beyond():
    x = draw(300)
    sigma = bandwidth(x)
    assert 1 < sigma < 1.6  # nearly orthogonal rows are sqrt(2) apart
    floor = cmmd_floor(x, sigma)
    assert floor.low < 0 < floor.high
    assert cmmd_interval(draw(300, 1.0, seed=1), x, sigma).value > 5 * floor.high


def test_too_few_images():
    with pytest.raises(ValueError, match="at least two images"):
        cmmd_interval(draw(1), draw(5))
    with pytest.raises(ValueError, match="at least four"):
        cmmd_floor(draw(3))
    with pytest.raises(ValueError, match="one width"):
        cmmd_interval(draw(5, d=3), draw(5, d=4))
    assert bandwidth(np.ones((5, 3))) == 1.0
