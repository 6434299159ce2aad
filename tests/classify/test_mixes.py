"""Mixes: their counts, their balance, and what they say when there is too little."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from derm_t2im.classify import mixes
from derm_t2im.errors import UserError


def rows(kind, **labels):
    return pd.DataFrame(
        [
            {"image_id": f"{kind}-{label}-{i}", "path": "", "kind": kind, "label": label}
            for label, n in labels.items()
            for i in range(n)
        ]
    )


REAL = rows("real", benign=20, malignant=12)
KEPT = rows("synthetic", benign=60, malignant=60)
ALL = ["real", "hybrid", "oversampled", "synthetic"]


def test_the_papers_hybrid_is_a_quarter_real():
    made = {name: mixes.describe(mix) for name, mix in mixes.build(ALL, REAL, KEPT, 0.75, 0).items()}
    assert made["real"] == {
        "images": 32, "files": 32, "real": 32, "synthetic": 0, "synthetic_fraction": 0.0,
        "classes": {"benign": 20, "malignant": 12},
    }  # fmt: skip
    assert made["hybrid"]["images"] == 128
    assert made["hybrid"]["synthetic"] == 96
    assert made["hybrid"]["classes"] == {"benign": 68, "malignant": 60}
    assert made["synthetic"]["classes"] == {"benign": 48, "malignant": 48}


@given(st.floats(0, 0.85), st.integers(0, 3))
def test_oversampled_shows_what_hybrid_shows_spread_evenly(fraction, seed):
    kept = rows("synthetic", benign=100, malignant=100)
    made = mixes.build(["hybrid", "oversampled"], REAL, kept, fraction, seed)
    hybrid, over = mixes.describe(made["hybrid"]), mixes.describe(made["oversampled"])
    assert over["images"] == hybrid["images"]
    assert over["classes"] == hybrid["classes"]
    assert over["real"] == over["images"]
    assert hybrid["synthetic"] == round(32 * fraction / (1 - fraction))
    weights = made["oversampled"].groupby("label")["weight"]
    assert (weights.max() - weights.min()).max() <= 1


def test_a_larger_fraction_keeps_the_images_of_a_smaller_one():
    small, large = (set(mixes.build(["synthetic"], REAL, KEPT, f, 0)["synthetic"]["image_id"]) for f in (0.5, 0.75))
    assert small < large


def test_the_order_of_the_rows_does_not_matter():
    def made(real, kept):
        return {
            n: m.sort_values("image_id").to_dict("records") for n, m in mixes.build(ALL, real, kept, 0.7, 1).items()
        }

    assert made(REAL, KEPT) == made(REAL.sample(frac=1, random_state=0), KEPT.sample(frac=1, random_state=1))


def test_seven_classes_by_the_same_path():
    real = rows("real", **{f"c{i}": 3 + i for i in range(7)})
    kept = rows("synthetic", **{f"c{i}": 50 for i in range(7)})
    classes = mixes.describe(mixes.build(["synthetic"], real, kept, 0.75, 0)["synthetic"])["classes"]
    assert sum(classes.values()) == 3 * len(real)
    assert max(classes.values()) - min(classes.values()) <= 1


def test_too_few_curated_images_lower_the_share_of_all_mixes_alike():
    few = rows("synthetic", benign=60, malignant=40)
    made = {name: mixes.describe(mix) for name, mix in mixes.build(ALL, REAL, few, 0.75, 0).items()}
    assert made["synthetic"]["classes"] == {"benign": 40, "malignant": 40}
    assert made["hybrid"]["synthetic"] == 80 and made["hybrid"]["synthetic_fraction"] == 80 / 112
    assert made["oversampled"]["classes"] == made["hybrid"]["classes"]


def test_a_class_of_which_curation_kept_nothing_is_named():
    with pytest.raises(UserError, match="no image of malignant"):
        mixes.build(["hybrid"], REAL, rows("synthetic", benign=60), 0.75, 0)
    assert "hybrid" in mixes.build(["hybrid"], REAL, rows("synthetic", benign=60), 0.0, 0)


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(UserError, match="naevus"):
        mixes.build(["hybrid"], REAL, rows("synthetic", naevus=100), 0.5, 0)
    with pytest.raises(UserError, match="empty"):
        mixes.build(["real"], REAL.iloc[:0], None, 0.5, 0)
    with pytest.raises(UserError, match="above 0"):
        mixes.build(["synthetic"], REAL, KEPT, 0.0, 0)
    with pytest.raises(UserError, match="both real and synthetic"):
        mixes.build(["hybrid"], REAL, REAL.assign(kind="synthetic"), 0.1, 0)


def test_the_controls_of_hybrid():
    rejected = rows("drawn", benign=60, malignant=60).assign(kind="synthetic")
    drawn = pd.concat([KEPT, rejected])
    names = ["real", "hybrid", "augmented", "unfiltered"]
    made = mixes.build(names, REAL, KEPT, 0.75, 0, drawn)
    assert made["augmented"].equals(made["real"])
    assert mixes.AUGMENT == {"augmented": "strong"}
    assert mixes.describe(made["unfiltered"]) == mixes.describe(made["hybrid"])
    taken = set(made["unfiltered"]["image_id"]) - set(REAL["image_id"])
    of_all = len(taken & set(rejected["image_id"])) / len(taken)
    assert 0.3 < of_all < 0.7  # curation has no say: half of what was drawn was rejected
    assert set(mixes.build(["unfiltered"], REAL, KEPT, 0.5, 0, drawn)["unfiltered"]["image_id"]) - set(
        REAL["image_id"]
    ) < set(taken)


def test_unfiltered_has_as_many_as_curation_left_to_hybrid():
    few = rows("synthetic", benign=60, malignant=10)
    made = mixes.build(["unfiltered"], REAL, few, 0.75, 0, pd.concat([few, rows("drawn", benign=80, malignant=80)]))
    assert mixes.describe(made["unfiltered"])["classes"] == {"benign": 30, "malignant": 22}


def test_a_fraction_of_one_is_synthetic_images_only():
    few = rows("synthetic", benign=50, malignant=40)
    made = mixes.build([*ALL, "unfiltered", "augmented"], REAL, few, 1.0, 0, few)
    figures = {name: mixes.describe(mix) for name, mix in made.items()}
    assert figures["hybrid"] == figures["synthetic"]
    assert figures["hybrid"]["real"] == 0 and figures["hybrid"]["classes"] == {"benign": 40, "malignant": 40}
    assert figures["oversampled"]["classes"] == figures["hybrid"]["classes"]
    assert figures["unfiltered"]["classes"] == figures["hybrid"]["classes"]
    assert figures["oversampled"]["synthetic"] == 0
    assert figures["real"] == figures["augmented"] and figures["real"]["images"] == len(REAL)
    with pytest.raises(UserError, match="no image of malignant"):
        mixes.build(["hybrid"], REAL, rows("synthetic", benign=9), 1.0, 0)


def test_ten_synthetic_images_for_each_real_one():
    many = rows("synthetic", benign=200, malignant=200)
    hybrid = mixes.describe(mixes.build(["hybrid"], REAL, many, 0.909, 0)["hybrid"])
    assert hybrid["synthetic"] == 320 and hybrid["real"] == 32


def test_a_mix_that_does_not_exist_is_named():
    with pytest.raises(UserError, match=r"'hybird' is no mix; allowed: real, hybrid"):
        mixes.build(["hybird"], REAL, KEPT, 0.5, 0)


def test_without_synthetic_images_hybrid_is_real():
    made = mixes.build(["hybrid", "oversampled", "real"], REAL, KEPT, 0.0, 0)
    assert mixes.describe(made["hybrid"]) == mixes.describe(made["oversampled"]) == mixes.describe(made["real"])
