"""Shares outside the lesion, and the test by erasure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from derm_t2im.explain import draw, maps, measure
from tests.explain.test_maps import Corner, around, malignant


def masks(n: int = 3) -> np.ndarray:
    out = np.zeros((n, 32, 32), bool)
    out[:, 8:24, 8:16] = True
    return out


def test_a_uniform_map_has_outside_what_the_mask_leaves_over() -> None:
    uniform = maps.enlarge(np.ones((3, 4, 4)), 32)
    assert measure.outside(uniform, masks()) == pytest.approx(1 - masks()[0].mean())


@given(st.integers(0, 2**32 - 1))
def test_a_share_is_between_none_and_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    where = rng.random((2, 32, 32)) > rng.random()
    share = measure.outside(maps.enlarge(rng.random((2, 4, 4)), 32), where)
    known = where.any(axis=(1, 2))
    assert np.isnan(share[~known]).all()
    assert ((share[known] >= 0) & (share[known] <= 1)).all()


def test_no_map_and_no_lesion_have_no_share() -> None:
    heat, where = maps.enlarge(np.ones((2, 4, 4)), 32), masks(2)
    heat[0], where[1] = 0, False
    assert np.isnan(measure.outside(heat, where)).all()


def test_the_mask_itself_leaves_nothing_outside_but_for_its_cells() -> None:
    assert measure.floor(masks(), 32) == pytest.approx(0, abs=1e-6)
    assert 0 < measure.floor(masks(), 8)[0] < measure.floor(masks(), 4)[0] < 1 - masks()[0].mean()


def test_erasing_what_a_true_map_shows_takes_more_than_a_strangers() -> None:
    images = np.full((4, 64, 64, 3), 20, np.uint8)
    where = np.zeros((4, 64, 64), bool)
    for i, (top, left) in enumerate(((4, 4), (4, 16), (16, 4), (16, 16))):
        images[i, top : top + 12, left : left + 12] = 255
        where[i, top : top + 12, left : left + 12] = True
    network, target, groups = around(Corner(0, 0)), malignant(4), np.array(list("abcd"))
    found = maps.explain(network, images, target)
    assert (measure.erasure(network, images, where, where / 144.0, target, groups) > 0).all()
    assert measure.erasure(network, images, where, found.values, target, groups).mean() > 0
    assert np.isnan(measure.erasure(network, images, where, found.values, target, np.array(list("aaaa")))).all()


def test_a_grid_is_a_png_with_equal_bytes() -> None:
    rgb = np.full((32, 32, 3), 120, np.uint8)
    tile = draw.Tile(draw.overlay(rgb, np.eye(32), masks()[0]), "benign")
    bare = draw.overlay(rgb, None, np.zeros((32, 32), bool))
    assert tile.rgb.shape == (draw.TILE, draw.TILE, 3) and (bare == 120).all()
    pictures = [draw.grid([("right", [[tile, tile]]), ("wrong", [])], "title") for _ in range(2)]
    assert pictures[0] == pictures[1] and pictures[0].startswith(b"\x89PNG")
