import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from derm_t2im.fidelity.shortcuts import auc, shortcuts


def thumbs(labels, seed, tint=0.0, frame=0.0):
    """Noise; ``tint`` brightens the whole of class b, ``frame`` its border only."""
    rng = np.random.default_rng(seed)
    out = rng.normal(120, 20, (len(labels), 32, 32, 3))
    member = labels == "b"
    # As many brighter as darker pixels inside, so that the colours as a whole tell nothing.
    border = np.ones((32, 32), bool)
    border[3:-3, 3:-3] = False
    out[member] += tint
    out[np.ix_(member, *map(range, (32, 32)))] += (frame * border)[None, ..., None]
    return out.clip(0, 255).astype(np.uint8)


REPOSITORY = Path(__file__).parents[2]
RELEASE = Path(os.environ.get("DERM_T2IM_DATA", REPOSITORY / "../shared/data")) / "derm-t2im-release"
LABELS = np.array(["a", "b"] * 60, dtype=object)


def find(**how):
    return shortcuts(thumbs(LABELS, 0), LABELS, thumbs(LABELS, 1, **how), LABELS, bootstrap=100)


def test_no_shortcut_no_excess():
    found = find()
    for probe in ("colour", "border", "coarse"):
        assert found[f"{probe}_excess_auc"].low <= 0 <= found[f"{probe}_excess_auc"].high
        assert 0.3 < found[f"{probe}_auc_synthetic"].value < 0.7


def test_a_tint_is_seen_by_the_colour_probe_and_does_not_carry_over():
    found = find(tint=15.0)
    assert found["colour_auc_synthetic"].value > 0.95
    assert found["colour_excess_auc"].low > 0.25
    assert 0.3 < found["colour_auc_synthetic_to_real"].value < 0.7


def test_a_frame_is_seen_by_the_border_probe():
    found = find(frame=25.0)
    assert found["border_auc_synthetic"].value > 0.95
    assert found["border_excess_auc"].low > 0.25


def test_what_real_images_have_too_is_no_excess():
    found = shortcuts(thumbs(LABELS, 0, tint=15.0), LABELS, thumbs(LABELS, 1, tint=15.0), LABELS, bootstrap=100)
    assert found["colour_auc_real"].value > 0.95
    assert abs(found["colour_excess_auc"].value) < 0.05


def test_seven_classes_and_unequal_sizes():
    rng = np.random.default_rng(0)
    names = np.array(list("abcdefg"), dtype=object)
    real, made = names[rng.integers(0, 6, 150)], names[rng.integers(0, 7, 220)]
    found = shortcuts(thumbs(real, 0), real, thumbs(made, 1), made, bootstrap=30)
    assert 0.3 < found["colour_auc_real"].value < 0.7
    assert found["colour_auc_real"].n == found["colour_auc_synthetic"].n <= 150


def test_one_class_cannot_be_judged():
    alone = np.array(["a"] * 40, dtype=object)
    found = shortcuts(thumbs(LABELS, 0), LABELS, thumbs(alone, 1), alone)
    assert np.isnan(found["border_excess_auc"].value) and found["border_excess_auc"].n == 0


def test_same_seed_same_numbers():
    assert find() == find()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auc_agrees_with_scikit_learn_with_ties(pairs):
    y = np.array([int(label) for label, _ in pairs])
    positive = np.array([score / 5 for _, score in pairs])
    found = auc(y, np.column_stack([1 - positive, positive]))
    if y.min() == y.max():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(y, positive))


def test_auc_of_three_classes_is_the_macro_average():
    rng = np.random.default_rng(0)
    y, scores = rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), 60)
    assert auc(y, scores) == pytest.approx(roc_auc_score(y, scores, multi_class="ovr", average="macro"))


def test_worse_than_chance_is_no_credit():
    """Cross-validation of few images can fall far below 0.5: that is no reason to expect less of the others."""
    labels = np.array(["a", "b"] * 10, dtype=object)
    found = shortcuts(thumbs(labels, 3), labels, thumbs(labels, 1, tint=25.0), labels, bootstrap=50)
    for probe in ("colour", "border", "coarse"):
        assert found[f"{probe}_excess_auc"].value <= 0.5


@pytest.mark.real
@pytest.mark.skipif(not RELEASE.is_dir(), reason="the released images of the paper are not in DERM_T2IM_DATA")
def test_the_papers_released_images_give_their_class_away():
    from derm_t2im.fidelity.pixels import thumbnails
    from derm_t2im.imaging.io import read_stack

    files = {label: sorted((RELEASE / label).glob("*.png")) for label in ("benign", "malignant")}
    made = np.concatenate([thumbnails(read_stack(some)) for some in files.values()])
    labels = np.repeat(np.array(list(files), dtype=object), [len(some) for some in files.values()])
    found = shortcuts(made, labels, made, labels, bootstrap=20)
    # Their colours alone reach 0.991, a border alone 0.954, over all 200.
    assert found["colour_auc_synthetic"].value > 0.9
    assert found["border_auc_synthetic"].value > 0.9
