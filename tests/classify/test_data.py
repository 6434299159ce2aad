"""Images in order and in one size; batches complete and repeatable by step."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from derm_t2im.classify import data
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import write_png
from derm_t2im.state import hash_file


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


def table(tmp_path, sizes):
    rows = []
    for i, size in enumerate(sizes):
        path = tmp_path / f"{i}.png"
        write_png(path, np.full((size, size, 3), 40 * i, np.uint8))
        rows.append({"image_id": f"i{i}", "path": str(path), "sha256": hash_file(path)})
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


def test_another_image_than_the_manifest_knows_is_refused(tmp_path):
    rows = table(tmp_path, [32, 32])
    write_png(tmp_path / "1.png", np.full((32, 32, 3), 99, np.uint8))
    with pytest.raises(UserError, match=r"1\.png \(image i1\) is not the file that its manifest knows"):
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
