import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from derm_t2im.fidelity import blocks
from derm_t2im.fidelity.kid import kid, kid_floor, kid_interval, unit


def draw(n, shift=0.0, seed=0, d=6):
    return np.random.default_rng(seed).normal(shift, 1.0, (n, d))


def by_the_book(x, y):
    """Binkowski et al. 2018, equation 4, with whole matrices: as torch-fidelity writes it."""
    d = x.shape[1]
    kxx, kyy, kxy = (x @ x.T / d + 1) ** 3, (y @ y.T / d + 1) ** 3, (x @ y.T / d + 1) ** 3
    m, n = len(x), len(y)
    return (kxx.sum() - np.trace(kxx)) / (m * (m - 1)) + (kyy.sum() - np.trace(kyy)) / (n * (n - 1)) - 2 * kxy.mean()


def test_worked_example():
    # d = 1, x = {0, 1}, y = {1, 1}: within x k(0, 1) = 1, within y k(1, 1) = 8, across (1 + 1 + 8 + 8) / 4 = 4.5
    assert kid(np.array([[0.0], [1.0]]), np.array([[1.0], [1.0]])) == pytest.approx(1 + 8 - 2 * 4.5)


@pytest.mark.parametrize(("m", "n", "d"), [(2, 2, 1), (40, 25, 6), (9, 130, 200)])
def test_agrees_with_whole_matrices(m, n, d):
    x, y = draw(m, d=d), draw(n, 0.7, seed=1, d=d)
    assert kid(x, y) == pytest.approx(by_the_book(x, y), rel=1e-9)


def test_blocks_do_not_change_the_result(monkeypatch):
    x, y = draw(50), draw(70, 0.3, seed=1)
    whole, floor = kid_interval(x, y), kid_floor(x)
    monkeypatch.setattr(blocks, "BLOCK", 160)
    assert kid_interval(x, y) == pytest.approx(whole, rel=1e-9)
    assert kid_floor(x) == pytest.approx(floor, rel=1e-9)


def test_float32_features_are_summed_in_float64():
    x, y = draw(60, 3.0), draw(60, 3.0, seed=1)
    assert kid(x.astype(np.float32), y.astype(np.float32)) == pytest.approx(kid(x, y), abs=1e-4)


sets = arrays(np.float64, (7, 3), elements=st.floats(-3, 3))


@given(sets, sets, st.permutations(range(7)))
def test_symmetric_and_blind_to_order(x, y, order):
    assert kid(x, y) == pytest.approx(kid(y, x), rel=1e-9, abs=1e-9)
    assert kid(x[list(order)], y) == pytest.approx(kid(x, y), rel=1e-9, abs=1e-9)


def test_zero_on_average_for_one_distribution_and_grows_with_distance():
    same = [kid(draw(60, seed=2 * i), draw(60, seed=2 * i + 1)) for i in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(60)
    near, far = (kid(draw(200), draw(200, shift, seed=1)) for shift in (0.3, 0.8))
    assert np.max(same) < near < far


def test_interval_covers_the_true_value():
    # k = (x y + 1)^3 in one dimension: E k(x, y) is a polynomial of moments, here of U(-1, 1) and U(-0.5, 1.5).
    def expected(a, b):
        return 1 + 3 * a[1] * b[1] + 3 * a[2] * b[2] + a[3] * b[3]

    p, q = {1: 0.0, 2: 1 / 3, 3: 0.0}, {1: 0.5, 2: 1 / 3 + 0.25, 3: 0.5**3 + 3 * 0.5 / 3}
    truth = expected(p, p) + expected(q, q) - 2 * expected(p, q)
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        found = kid_interval(rng.uniform(-1, 1, (80, 1)), rng.uniform(-0.5, 1.5, (120, 1)))
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 300 <= 0.98


def test_floor_surrounds_zero_and_stays_below_a_real_difference():
    x = draw(200)
    floor = kid_floor(x)
    assert floor.low < 0 < floor.high
    assert kid(x, draw(200, 0.8, seed=1)) > 5 * floor.high
    assert kid_floor(x) == floor


def test_floor_is_what_explicit_halves_give():
    x = draw(9)
    rng = np.random.default_rng(3)
    values = []
    for _ in range(20):
        order = rng.permutation(9)
        values.append(by_the_book(x[order[:4]], x[order[4:]]))
    found = kid_floor(x, splits=20, seed=3)
    assert found.value == pytest.approx(np.mean(values))
    assert found.high == pytest.approx(np.percentile(values, 97.5))


def test_memory_does_not_hold_all_pairs():
    x = draw(5000, d=16)  # all pairs: 200 MB
    tracemalloc.start()
    kid_interval(x, x[::-1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_unit_rows_have_equal_length_and_bound_kid():
    x, y = draw(30) * 1000, draw(30, 5, seed=1)
    assert np.linalg.norm(unit(x), axis=1) == pytest.approx(np.sqrt(6))
    assert kid(unit(x), unit(y)) < 16
    assert np.isfinite(unit(np.zeros((2, 3)))).all()


@pytest.mark.parametrize(("x", "y"), [(draw(1), draw(5)), (draw(5, d=2), draw(5, d=3)), (np.zeros(4), draw(3))])
def test_too_few_or_unlike_sets_are_refused(x, y):
    with pytest.raises(ValueError, match="KID needs"):
        kid(x, y)
