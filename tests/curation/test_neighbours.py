from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derm_t2im.curation import neighbours


def cloud(n, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def distances(a, b):
    return np.linalg.norm(a[:, None].astype(float) - b[None].astype(float), axis=2)


def test_nearest_is_the_smallest_of_all_distances():
    a, b = cloud(30), cloud(40, seed=1)
    at, distance = neighbours.nearest(a, b)
    all_ = distances(a, b)
    assert (at == all_.argmin(axis=1)).all()
    assert distance == pytest.approx(all_.min(axis=1), rel=1e-5)


def test_a_copy_is_at_distance_zero():
    a = cloud(10)
    assert (neighbours.nearest(a, a)[1] == 0).all()


@given(st.integers(2, 25), st.integers(1, 6), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_nearest_other_skips_ones_own_group(n, groups, seed):
    points = cloud(n, seed=seed)
    group = np.random.default_rng(seed).integers(0, groups, n).astype(str)
    at, distance = neighbours.nearest_other(points, group)
    all_ = distances(points, points)
    all_[group[:, None] == group[None]] = np.inf
    alone = ~np.isfinite(all_).any(axis=1)
    assert ((at == -1) == alone).all() and (np.isnan(distance) == alone).all()
    assert distance[~alone] == pytest.approx(all_.min(axis=1)[~alone], rel=1e-5)


def test_twins_are_each_others_nearest():
    points = cloud(12)
    points[7] = points[3]
    at, distance = neighbours.nearest_other(points)
    assert (at[7], at[3], distance[7], distance[3]) == (3, 7, 0, 0)


def test_a_close_distance_within_the_data_is_a_quantile_of_pairs_of_groups():
    points = cloud(80)
    group = (np.arange(80) // 2).astype(str)
    all_ = distances(points, points)[np.triu_indices(80, 1)]
    apart = (group[:, None] != group[None])[np.triu_indices(80, 1)]
    found = neighbours.close_distance(points, group, 0.05)
    assert found == pytest.approx(np.quantile(all_[apart], 0.05), rel=1e-4)


@pytest.mark.parametrize("d", [2, 5])
def test_a_close_distance_beyond_the_data_is_that_of_a_larger_sample(d):
    rng = np.random.default_rng(0)
    share = 2e-5  # less than one of the 1,770 pairs of a small sample, about 90 of the large one's
    truth = neighbours.close_distance(rng.uniform(size=(2000, d)), np.arange(2000).astype(str), share)
    samples = [rng.uniform(size=(60, d)) for _ in range(31)]
    limits = [neighbours.close_distance(few, np.arange(60).astype(str), share) for few in samples]
    assert np.median(limits) == pytest.approx(truth, rel=0.3)


def test_a_close_distance_needs_two_groups():
    assert np.isnan(neighbours.close_distance(cloud(5), np.zeros(5), 0.1))
    assert neighbours.close_distance(np.ones((5, 2)), np.arange(5), 1e-6) == 0


def test_the_map_keeps_the_two_widest_directions():
    points = np.zeros((50, 4))
    points[:, 2] = np.linspace(-9, 9, 50)
    points[:, 1] = np.tile([-1, 1], 25)
    flat = neighbours.flat_map(points)
    assert np.ptp(flat, axis=0) == pytest.approx([18, 2], abs=0.2)
    assert (flat == neighbours.flat_map(points)).all()


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.zeros((1, 3)), np.ones((4, 3))])
def test_the_map_of_nothing_is_flat(points):
    assert (neighbours.flat_map(points) == np.zeros((len(points), 2))).all()
