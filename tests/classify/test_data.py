"""Batches: complete, repeatable by step, and augmented by geometry that keeps the pixels."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from derm_t2im.classify import data
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import write_png


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=12).filter(any),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_each_pass_shows_each_row_as_often_as_its_weight(weights, batch, seed):
    weights = np.array(weights)
    total = int(weights.sum())
    rows = np.concatenate([data.batch_rows(weights, batch, step, seed) for step in range(2 * total)])
    assert len(rows) == 2 * total * batch
    for first in range(0, 2 * total, total):
        one_pass = rows[first : first + total]
        assert np.array_equal(np.bincount(one_pass, minlength=len(weights)), weights)


def test_passes_differ_and_seeds_differ():
    order = [data.batch_rows(np.ones(50, int), 50, step, seed).tolist() for step, seed in ((0, 0), (1, 0), (0, 1))]
    assert len({tuple(o) for o in order}) == 3


def pool(n=4, side=24):
    return torch.from_numpy(np.random.default_rng(0).integers(60, 180, (n, side, side, 3), dtype=np.uint8))


def augmented(seed, **change):
    for name, value in change.items():
        assert hasattr(data, name), value
    return data.augment(pool(1), torch.zeros(64, dtype=torch.long), torch.Generator().manual_seed(seed))


def test_a_seed_gives_one_augmentation():
    assert torch.equal(augmented(3), augmented(3))
    assert not torch.equal(augmented(3), augmented(4))


def test_geometry_covers_all_eight_poses_and_nothing_else(monkeypatch):
    for name in ("SHIFT", "BRIGHTNESS", "CONTRAST", "GAIN"):
        monkeypatch.setattr(data, name, 0.0)
    image = pool(1)[0].numpy()
    # SHIFT 0 still moves by up to one pixel: the middle is compared.
    poses = {}
    for turn in range(4):
        for flipped in (image, image[:, ::-1]):
            posed = np.rot90(flipped, turn)
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    poses[np.roll(posed, (dy, dx), (0, 1))[2:-2, 2:-2].tobytes()] = (turn, flipped is image)
    seen = set()
    for batch in augmented(0).round().to(torch.uint8).numpy():
        seen.add(poses[np.ascontiguousarray(batch[2:-2, 2:-2]).tobytes()])
    assert len(seen) == 8


def test_shift_is_bounded_and_mirrored(monkeypatch):
    for name in ("BRIGHTNESS", "CONTRAST", "GAIN"):
        monkeypatch.setattr(data, name, 0.0)
    image = torch.arange(24, dtype=torch.uint8).view(1, 24, 1, 1).expand(1, 24, 24, 3).contiguous()
    out = data.augment(image, torch.zeros(200, dtype=torch.long), torch.Generator().manual_seed(0))
    upright = out[(out[:, 12, 0, 0] == out[:, 12, -1, 0])]  # rows still hold one value each
    centre = upright[:, 12, 0, 0]
    assert set(centre.round().int().tolist()) <= set(range(9, 15))  # 11 or 12, moved by up to 2
    assert len(set(centre.round().int().tolist())) > 3
    steps = (upright[:, 1:, 0, 0] - upright[:, :-1, 0, 0]).abs().round()
    assert steps.max() == 1  # a wrapped or padded border would jump


def test_colour_changes_are_small():
    mean = augmented(0).mean(dim=(1, 2, 3)) / pool(1).float().mean()
    assert 0.8 < mean.min() < 0.97
    assert 1.03 < mean.max() < 1.2


def test_none_gives_the_images_themselves():
    rows = torch.tensor([2, 0])
    assert torch.equal(data.augment(pool(), rows, torch.Generator(), "none"), pool()[rows].float())


def table(tmp_path, sizes):
    rows = []
    for i, size in enumerate(sizes):
        path = tmp_path / f"{i}.png"
        write_png(path, np.full((size, size, 3), 40 * i, np.uint8))
        rows.append({"image_id": f"i{i}", "path": str(path)})
    return pd.DataFrame(rows)


def test_images_come_in_order_and_in_one_size(tmp_path):
    images = data.read_images(table(tmp_path, [32, 48, 32]))
    assert images.shape == (3, 32, 32, 3)
    assert images[:, 5, 5, 0].tolist() == [0, 40, 80]
    assert data.read_images(table(tmp_path, [32, 48]), 16).shape == (2, 16, 16, 3)
    assert data.read_images(table(tmp_path, [32]).iloc[:0], 16).shape == (0, 16, 16, 3)


def test_a_broken_image_is_named(tmp_path):
    rows = table(tmp_path, [32, 32])
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1\.png \(image i1\): empty"):
        data.read_images(rows)


def test_labels_outside_the_classes_are_named():
    assert data.encode(["b", "a"], ("a", "b")).tolist() == [1, 0]
    with pytest.raises(UserError, match="'c'"):
        data.encode(["a", "c"], ("a", "b"))


def test_a_group_on_both_sides_is_refused():
    splits = pd.DataFrame({"split": ["train", "test", "unused"], "group_id": ["g1", "g2", "g1"]})
    data.refuse_leaks(splits)
    with pytest.raises(UserError, match="g1"):
        data.refuse_leaks(splits.assign(split=["train", "test", "external"]))
