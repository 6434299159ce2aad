import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from derm_t2im.fidelity.class_score import inception_score


def by_the_book(p):
    """Salimans et al. 2016: exp E KL(p(y | x) || p(y))."""
    marginal = p.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - np.log(marginal)), 0.0)
    return np.exp(terms.sum(axis=1).mean())


def test_worked_examples():
    assert inception_score(np.eye(4)).value == pytest.approx(4)  # sure, and all classes equally often
    assert inception_score(np.full((9, 3), 1 / 3)).value == pytest.approx(1)  # nothing said of any
    assert inception_score(np.tile([1.0, 0.0], (7, 1))).value == pytest.approx(1)  # sure, but all the same
    # exp of half (0.9 ln 1.8 + 0.1 ln 0.2) twice: both images deviate from (1/2, 1/2) alike
    assert inception_score(np.array([[0.9, 0.1], [0.1, 0.9]])).value == pytest.approx(
        np.exp(0.9 * np.log(1.8) + 0.1 * np.log(0.2))
    )


@given(st.integers(3, 40), st.integers(2, 7), st.integers(0, 500))
def test_agrees_with_the_definition_and_its_jackknife(n, k, seed):
    p = np.random.default_rng(seed).dirichlet(np.full(k, 0.3), n)
    found = inception_score(p)
    assert found.value == pytest.approx(by_the_book(p), rel=1e-9)
    assert 1 <= found.value <= k + 1e-9
    without = np.array([by_the_book(np.delete(p, i, 0)) for i in range(n)])
    variance = (n - 1) / n * np.sum((without - without.mean()) ** 2)
    assert found.high - found.value == pytest.approx(1.959963984540054 * np.sqrt(variance), abs=1e-7)


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="add up to 1"):
        inception_score(np.array([[0.5, 0.2]]))
    assert np.isnan(inception_score(np.empty((0, 2))).value)
