from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from derm_t2im.deploy.verify import agreement, least_cosine, off_the_data, operating, run
from derm_t2im.errors import UserError


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


def test_sensitivity_and_specificity_at_a_threshold() -> None:
    scores, positive = np.array([0.1, 0.4, 0.5, 0.9]), np.array([False, True, False, True])
    found = operating(scores, positive, 0.5)
    assert (found["sensitivity"], found["specificity"]) == (0.5, 0.5)
    assert (found["positives"], found["negatives"]) == (2, 2)
    assert 0 < found["sensitivity_low"] < 0.5 < found["sensitivity_high"] < 1
    nobody = operating(scores, np.zeros(4, bool), 0.5)
    assert nobody["sensitivity"] is None and nobody["specificity"] == 0.5
    assert (nobody["sensitivity_low"], nobody["sensitivity_high"]) == (0, 1)


def test_the_least_cosine() -> None:
    a = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert least_cosine(a, 3 * a) == pytest.approx(1)
    assert least_cosine(a, np.array([[1.0, 0.0], [1.0, 1.0]])) == pytest.approx(0.5**0.5)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(UserError, match="does not run"):
        run(b"nothing", np.zeros((1, 8, 8, 3), np.uint8), ["probabilities"])
