import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derm_t2im.fidelity import blocks
from derm_t2im.fidelity.prdc import prdc, radii


def draw(n, shift=0.0, seed=0, d=4):
    return np.random.default_rng(seed).normal(shift, 1.0, (n, d))


def by_the_book(real, fake, k):
    """Naeem et al. 2020, pair by pair."""

    def ball(x):
        return [sorted(np.linalg.norm(a - b) for j, b in enumerate(x) if j != i)[k - 1] for i, a in enumerate(x)]

    r, f = ball(real), ball(fake)
    d = [[np.linalg.norm(a - b) for b in fake] for a in real]
    m, n = len(real), len(fake)
    return {
        "precision": np.mean([any(d[i][j] < r[i] for i in range(m)) for j in range(n)]),
        "recall": np.mean([any(d[i][j] < f[j] for j in range(n)) for i in range(m)]),
        "density": np.mean([sum(d[i][j] < r[i] for i in range(m)) / k for j in range(n)]),
        "coverage": np.mean([any(d[i][j] < r[i] for j in range(n)) for i in range(m)]),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_agrees_pair_by_pair(k, shift):
    real, fake = draw(40), draw(30, shift, seed=1)
    found = prdc(real, fake, k)
    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(by_the_book(real, fake, k))


def test_worked_example():
    # Balls (k = 1) of real 0, 1, 10 reach 1, 1, 9; of fake 0.5, 30 reach 29.5 both.
    found = prdc(np.array([[0.0], [1.0], [10.0]]), np.array([[0.5], [30.0]]), 1)
    assert found["precision"].value == 0.5
    assert found["density"].value == pytest.approx((2 + 0) / 2)
    assert found["recall"].value == 1.0
    assert found["coverage"].value == pytest.approx(2 / 3)


def test_blocks_do_not_change_the_result(monkeypatch):
    real, fake = draw(50), draw(70, 0.5, seed=1)
    whole = prdc(real, fake)
    monkeypatch.setattr(blocks, "BLOCK", 200)
    assert prdc(real, fake) == whole


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0.01, 100))
def test_bounds_scale_and_exchange(seed, k, scale):
    real, fake = draw(20, seed=seed), draw(25, 0.5, seed=seed + 1)
    found = prdc(real, fake, k)
    for name in ("precision", "recall", "coverage"):
        assert 0 <= found[name].low <= found[name].value <= found[name].high <= 1
    # Coverage asks for a synthetic image in a real ball, recall the other way round.
    assert found["precision"].value == prdc(fake, real, k)["recall"].value
    assert prdc(real * scale, fake * scale, k)["density"].value == pytest.approx(found["density"].value)


def test_one_distribution_is_good_and_a_collapsed_one_is_seen():
    real = draw(400)
    same, collapsed, away = (
        prdc(real, other) for other in (draw(400, seed=1), draw(400, seed=1) * 0.05, draw(400, 9.0, seed=1))
    )
    assert same["precision"].value > 0.9 and same["recall"].value > 0.9 and same["coverage"].value > 0.9
    assert same["density"].low < 1 < same["density"].high
    assert collapsed["precision"].value > 0.9 and collapsed["recall"].value < 0.1
    assert away["precision"].value == 0 and away["coverage"].value == 0


def test_as_many_neighbours_as_images_are_refused():
    with pytest.raises(ValueError, match="more than 5"):
        radii(draw(5), 5)


def test_memory_does_not_hold_all_pairs():
    x = draw(5000, d=8)  # all pairs: 200 MB
    tracemalloc.start()
    prdc(x, x + 0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
