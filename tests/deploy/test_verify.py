from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from derm_t2im.deploy.verify import agreement, off_the_data


def test_a_worked_example() -> None:
    reference = np.array([[0.6, 0.4], [0.49, 0.51], [0.1, 0.9]])
    exported = np.array([[0.6, 0.4], [0.51, 0.49], [0.1, 0.9]])
    found = agreement(reference, exported, [1], 0.4)
    assert found == {
        "n": 3,
        "max_abs_difference": pytest.approx(0.02),
        "mean_abs_difference": pytest.approx(0.04 / 6),
        "label_flips": 1,
        "threshold_flips": 0,
    }
    assert agreement(reference, exported, [1], 0.5)["threshold_flips"] == 1
    assert agreement(reference, exported)["threshold_flips"] == 1  # no threshold: the label decides


def test_several_positive_classes_add_up() -> None:
    reference, exported = np.array([[0.5, 0.2, 0.3]]), np.array([[0.51, 0.2, 0.29]])
    assert agreement(reference, exported, [1, 2], 0.5)["threshold_flips"] == 1
    assert agreement(reference, exported, [1], 0.5)["threshold_flips"] == 0


@pytest.mark.parametrize("shapes", [((0, 2), (0, 2)), ((3, 2), (2, 2)), ((3,), (3,))])
def test_arrays_that_cannot_be_compared(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError):
        agreement(np.zeros(shapes[0]), np.zeros(shapes[1]))


@given(st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=30), st.data())
def test_a_threshold_off_the_data_decides_alike(scores: list[float], data: st.DataObject) -> None:
    values = np.array(scores)
    chosen = data.draw(st.sampled_from(scores))
    moved = off_the_data(chosen, values)
    assert np.array_equal(values >= chosen, values >= moved)
    assert 0 <= moved <= chosen
