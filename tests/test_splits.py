"""Splits that leak nothing: worked examples, and properties over any table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derm_t2im import splits
from derm_t2im.errors import UserError
from derm_t2im.params.split import Split

NONE = np.zeros((0, 2), np.int64)


def table(rows: list[dict]) -> pd.DataFrame:
    base = {"role": "pool", "source": "s", "label": "benign", "lesion_id": None, "patient_id": None, "sha256": None}
    return pd.DataFrame([{**base, "image_id": f"i{k:04d}", **row} for k, row in enumerate(rows)])


def divided(frame: pd.DataFrame, near: np.ndarray = NONE, **sizes: int) -> pd.DataFrame:
    wanted = Split(**{"train": 2, "val": 2, "test": 2, "external": 0, "seed_images": 1, **sizes})
    return splits.assign(frame.assign(group_id=splits.group_ids(frame, near)), wanted)


def test_groups_are_connected_components() -> None:
    frame = table(
        [
            {"lesion_id": "a"},
            {"lesion_id": "a", "patient_id": "p"},
            {"patient_id": "p"},
            {"sha256": "f"},
            {"sha256": "f"},
            {"lesion_id": ""},
            {"lesion_id": ""},
            {"lesion_id": "a", "source": "other"},
        ]
    )
    near = np.array([[2, 3]])
    assert splits.group_ids(frame, NONE) == ["i0000"] * 3 + ["i0003"] * 2 + ["i0005", "i0006", "i0007"]
    assert splits.group_ids(frame, near) == ["i0000"] * 5 + ["i0005", "i0006", "i0007"]
    assert splits.group_ids(frame.iloc[:0], NONE) == []


@st.composite
def tables(draw: st.DrawFn) -> tuple[pd.DataFrame, np.ndarray]:
    n = draw(st.integers(8, 40))
    few = st.none() | st.integers(0, n // 2).map(str)
    rows = [
        {
            "label": draw(st.sampled_from(["benign", "malignant", "df"])),
            "role": draw(st.sampled_from(["pool", "pool", "pool", "external"])),
            "source": draw(st.sampled_from(["s", "t"])),
            "lesion_id": draw(few),
            "patient_id": draw(st.none() | st.none() | st.integers(0, 5).map(str)),
            "sha256": draw(few),
        }
        for _ in range(n)
    ]
    pairs = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=4))
    near = np.array([pair for pair in pairs if pair[0] < pair[1]], np.int64).reshape(-1, 2)
    return table(rows), near


@settings(max_examples=60, deadline=None)
@given(data=tables(), sizes=st.tuples(*[st.integers(2, 8)] * 4), seed=st.integers(0, 3))
def test_no_group_is_ever_torn_apart(data: tuple[pd.DataFrame, np.ndarray], sizes: tuple[int, ...], seed: int) -> None:
    frame, near = data
    train, val, test, external = sizes
    wanted = {"train": train, "val": val, "test": test, "external": external, "seed_images": 2, "seed": seed}
    pool, outside = (frame["role"] == "pool").sum(), (frame["role"] == "external").sum()
    if train + val + test > pool or (outside and external > outside):
        with pytest.raises(UserError, match=str(pool if train + val + test > pool else outside)):
            divided(frame, near, **wanted)
        return
    out = divided(frame, near, **wanted)
    used = out[out["split"] != "unused"]
    assert (used.groupby("group_id")["split"].nunique() == 1).all()
    assert splits.leaked_groups(out, near) == 0
    counts = out["split"].value_counts()
    for name in ("train", "val", "test", "external"):
        assert counts.get(name, 0) <= wanted[name]
    assert set(out.loc[out["split"] == "external", "role"]) <= {"external"}
    assert set(out.loc[out["split"].isin(["train", "val", "test"]), "role"]) <= {"pool"}
    pool_groups = set(out.loc[out["role"] == "pool", "group_id"])
    assert not pool_groups & set(out.loc[out["split"] == "external", "group_id"])
    assert set(out.loc[out["seed_image"], "split"]) <= {"train"}
    assert out["seed_image"].sum() == min(2, counts.get("train", 0))


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.sampled_from(["a", "b", "c"]), min_size=12, max_size=80),
    seed=st.integers(0, 5),
    shares=st.tuples(st.floats(0.1, 0.4), st.floats(0.1, 0.3), st.floats(0.1, 0.3)),
)
def test_single_images_fill_the_sizes_exactly_and_in_proportion(
    labels: list[str], seed: int, shares: tuple[float, ...]
) -> None:
    frame = table([{"label": label} for label in labels])
    train, val, test = (max(2, int(share * len(labels))) for share in shares)
    out = divided(frame, train=train, val=val, test=test, seed=seed)
    assert out["split"].value_counts()[["train", "val", "test"]].tolist() == [train, val, test]
    for label in set(labels):
        expected = labels.count(label) * test / len(labels)
        assert abs(((out["split"] == "test") & (out["label"] == label)).sum() - expected) < 1


def test_all_images_can_be_used() -> None:
    frame = table([{"label": "benign" if k % 3 else "malignant"} for k in range(31)])
    out = divided(frame, train=15, val=7, test=9, seed_images=4)
    assert out["split"].value_counts().to_dict() == {"train": 15, "test": 9, "val": 7}


def test_the_test_set_does_not_depend_on_the_size_of_training() -> None:
    frame = table([{"label": "benign" if k % 4 else "malignant", "lesion_id": str(k // 2)} for k in range(80)])
    large = divided(frame, train=40, val=10, test=20)
    small = divided(frame, train=10, val=10, test=20)
    for name in ("test", "val"):
        assert set(large.loc[large["split"] == name, "image_id"]) == set(small.loc[small["split"] == name, "image_id"])
    assert set(small.loc[small["split"] == "train", "image_id"]) < set(large.loc[large["split"] == "train", "image_id"])


def test_the_order_of_rows_does_not_matter() -> None:
    frame = table([{"label": "benign" if k % 3 else "malignant", "lesion_id": str(k // 3)} for k in range(60)])
    shuffled = frame.sample(frac=1, random_state=3).reset_index(drop=True)
    first, second = divided(frame, train=20, val=9, test=12), divided(shuffled, train=20, val=9, test=12)
    columns = ["image_id", "split", "seed_image", "group_id"]
    pd.testing.assert_frame_equal(first[columns], second[columns].sort_values("image_id").reset_index(drop=True))


def test_seed_images_are_balanced_and_nested() -> None:
    frame = table([{"label": "benign" if k % 5 else "malignant"} for k in range(100)])
    many = divided(frame, train=50, val=10, test=10, seed_images=16)
    few = divided(frame, train=50, val=10, test=10, seed_images=8)
    assert many[many["seed_image"]]["label"].value_counts().to_dict() == {"benign": 8, "malignant": 8}
    assert set(few.loc[few["seed_image"], "image_id"]) < set(many.loc[many["seed_image"], "image_id"])
    scarce = divided(frame, train=50, val=10, test=10, seed_images=40)
    assert scarce[scarce["seed_image"]]["label"].value_counts().to_dict() == {"benign": 30, "malignant": 10}


def test_external_images_that_touch_the_pool_are_unused() -> None:
    rows = [{"sha256": str(k)} for k in range(10)] + [{"role": "external", "sha256": str(k)} for k in range(8, 14)]
    out = divided(table(rows), external=5)
    external = out[out["role"] == "external"]
    assert external["split"].tolist() == ["unused"] * 2 + ["external"] * 4


def test_a_shortage_says_how_many_there_are() -> None:
    with pytest.raises(UserError, match="ask for 4 \\+ 3 \\+ 2 = 9 images, but the pool has 8"):
        divided(table([{}] * 8), train=4, val=3, test=2)
    with pytest.raises(UserError, match=r"split\.external asks for 3 images, but the external set has 2"):
        divided(table([{}] * 8 + [{"role": "external"}] * 2), external=3)


def test_leaks_are_counted() -> None:
    frame = table([{"lesion_id": "a"}, {"lesion_id": "a"}, {"sha256": "x"}, {"sha256": "x"}, {}, {}])
    torn = frame.assign(split=["train", "test", "val", "unused", "train", "test"], seed_image=False)
    assert splits.leaked_groups(torn, NONE) == 1
    assert splits.leaked_groups(torn, np.array([[4, 5], [0, 3]])) == 2
    assert splits.leaked_groups(torn.assign(group_id=["g"] * 6), NONE) == 2


@settings(max_examples=60, deadline=None)
@given(data=tables())
def test_groups_are_closed_under_links_and_no_larger(data: tuple[pd.DataFrame, np.ndarray]) -> None:
    frame, near = data
    links = {(int(a), int(b)) for a, b in near}
    for a in range(len(frame)):
        for b in range(a):
            one, other = frame.iloc[a], frame.iloc[b]
            shared = [name for name in ("lesion_id", "patient_id") if one[name] and one[name] == other[name]]
            if (shared and one["source"] == other["source"]) or (one["sha256"] and one["sha256"] == other["sha256"]):
                links.add((a, b))
    # By hand: spread the smallest position along the links until nothing changes.
    root = list(range(len(frame)))
    changed = True
    while changed:
        changed = False
        for a, b in links:
            low = min(root[a], root[b])
            changed |= root[a] != low or root[b] != low
            root[a] = root[b] = low
    assert splits.group_ids(frame, near) == [frame["image_id"].iloc[at] for at in root]


@settings(max_examples=40, deadline=None)
@given(data=tables(), seed=st.integers(0, 1000))
def test_rows_in_any_order_give_the_same_groups_and_splits(data: tuple[pd.DataFrame, np.ndarray], seed: int) -> None:
    frame, near = data
    order = np.random.default_rng(seed).permutation(len(frame))
    place = np.argsort(order)
    sizes = {"external": 0, "seed_images": 2}
    if (frame["role"] == "pool").sum() < 6:
        return
    first = divided(frame, near, **sizes)
    second = divided(frame.iloc[order].reset_index(drop=True), place[near], **sizes)
    columns = ["image_id", "split", "seed_image", "group_id"]
    pd.testing.assert_frame_equal(first[columns], second[columns].sort_values("image_id").reset_index(drop=True))


def test_pairs_are_counted_by_kind() -> None:
    frame = table(
        [{"lesion_id": "a"}, {"lesion_id": "a"}, {"lesion_id": "b", "label": "malignant"}, {}, {"role": "external"}]
    )
    near = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])
    assert splits.kinds_of_pairs(frame, near) == {
        "within_lesions": 1, "across_lesions": 1, "across_labels": 2, "across_roles": 1,
    }  # fmt: skip
    assert set(splits.kinds_of_pairs(frame, NONE).values()) == {0}
