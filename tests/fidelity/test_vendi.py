import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derm_t2im.fidelity.vendi import vendi, vendi_interval


def by_the_book(x):
    """Friedman and Dieng 2023: eigenvalues of the n x n similarities."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / len(x))
    values = values[values > 1e-12]
    return np.exp(-np.sum(values * np.log(values)))


@pytest.mark.parametrize(("n", "d"), [(10, 30), (200, 8), (20, 20)])
def test_agrees_with_the_similarity_matrix(n, d):
    x = np.random.default_rng(0).normal(1.0, 1.0, (n, d))
    assert vendi(x) == pytest.approx(by_the_book(x), rel=1e-9)


def test_worked_examples():
    assert vendi(np.eye(7)) == pytest.approx(7)
    assert vendi(np.ones((9, 4))) == pytest.approx(1)
    assert vendi(np.repeat(np.eye(3), 5, axis=0)) == pytest.approx(3)


def test_rows_of_zeros_are_one_kind():
    assert vendi(np.vstack([np.eye(3), np.zeros((1, 3))])) == pytest.approx(4)
    assert vendi(np.zeros((5, 3))) == pytest.approx(1)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 10), st.floats(0.001, 1000))
def test_between_one_and_what_is_possible(seed, n, d, scale):
    x = np.random.default_rng(seed).normal(size=(n, d))
    assert 1 - 1e-9 <= vendi(x) <= min(n, d) + 1e-9
    assert vendi(x * scale) == pytest.approx(vendi(x))
    assert vendi(np.vstack([x, x])) == pytest.approx(vendi(x))


def test_interval_surrounds_the_value():
    found = vendi_interval(np.random.default_rng(0).normal(size=(200, 5)))
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.5


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="Vendi"):
        vendi(np.empty((0, 4)))
