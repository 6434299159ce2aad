from __future__ import annotations

import numpy as np
import pytest

from derm_t2im.curation import brain, database
from derm_t2im.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def mongod():
    try:
        database.find_mongod()
    except UserError:
        pytest.skip("FiftyOne has no mongod here: run `make setup`")


pytestmark = pytest.mark.fiftyone


def cloud(n=60, d=8):
    return np.random.default_rng(1).normal(size=(n, d)).astype(np.float32), [f"i{n:03d}" for n in range(n)]


def test_the_loneliest_image_is_the_most_unique():
    points, ids = cloud()
    points[17] += 20
    before = points.copy()
    found = brain.uniqueness(ids, points)
    assert found.argmax() == 17 and found[17] == 1
    assert ((found > 0) & (found <= 1)).all()
    assert (points == before).all()
    assert (found == brain.uniqueness(ids, points)).all()


def test_uniqueness_does_not_depend_on_the_order():
    points, ids = cloud()
    turned = brain.uniqueness(ids[::-1], points[::-1])
    assert turned[::-1] == pytest.approx(brain.uniqueness(ids, points), abs=2e-6)


def test_twins_are_found_and_the_first_stays():
    points, ids = cloud()
    points[40], points[50] = points[3] + 1e-3, points[3] + 2e-3
    found = brain.near_duplicates(ids, points, 0.1)
    assert {other: like for other, (like, _) in found.items()} == {"i040": "i003", "i050": "i003"}
    assert found["i040"][1] == pytest.approx(1e-3 * np.sqrt(8), rel=1e-3)
    turned = brain.near_duplicates(ids[::-1], points[::-1], 0.1)
    assert {like for like, _ in turned.values()} == {"i050"}


def test_no_two_that_stay_are_close():
    points, ids = cloud()
    limit = 2.5
    out = brain.near_duplicates(ids, points, limit)
    left = [i for i, name in enumerate(ids) if name not in out]
    apart = np.linalg.norm(points[left][:, None] - points[left][None], axis=2) + np.eye(len(left)) * 99
    assert 1 < len(left) < len(ids) and apart.min() > limit


@pytest.mark.parametrize("n", [0, 1, 3])
def test_few_images_are_all_unique_and_no_duplicates(n):
    points, ids = cloud()
    assert brain.uniqueness(ids[:n], points[:n]).tolist() == [1.0] * n
    assert brain.near_duplicates(ids[:n], points[:n], 0.1) == {}


def test_images_that_are_all_alike_leave_one():
    points, ids = np.ones((6, 4), np.float32), [f"i{n}" for n in range(6)]
    assert brain.uniqueness(ids, points).tolist() == [1.0] * 6
    assert sorted(brain.near_duplicates(ids, points, 0.1)) == ids[1:]
