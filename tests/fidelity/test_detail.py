"""The second look: copies keep their detail, look-alikes have another."""

import numpy as np
import pytest

from derm_t2im.fidelity import copies, detail, pixels

QUANTILE = 0.01


def skins(n, seed, shapes=6):
    """Pictures of few broad shapes, each with a grain of its own: look-alikes are many, copies none."""
    import cv2

    rng, broad = np.random.default_rng(seed), np.random.default_rng(99)
    coarse = broad.uniform(90, 180, (shapes, 5, 5, 3)).astype(np.float32)
    smooth = np.stack([cv2.resize(one, (64, 64), interpolation=cv2.INTER_CUBIC) for one in coarse])
    grain = np.stack([cv2.GaussianBlur(one, (0, 0), 0.8) for one in rng.normal(0, 25, (n, 64, 64)).astype(np.float32)])
    return (smooth[rng.integers(0, shapes, n)] + grain[..., None]).clip(0, 255).astype(np.uint8)


def small(images):
    return pixels.spaces(pixels.thumbnails(images))


@pytest.fixture(scope="module")
def originals():
    return skins(40, seed=0)


@pytest.fixture(scope="module")
def looks(originals):
    heldout = skins(100, seed=1)
    search = copies.Search(pixels.references(originals), small(heldout), detail.suspected(QUANTILE))
    return search, detail.learn(originals, heldout, search.null, QUANTILE)


@pytest.mark.parametrize("kind", copies.KINDS)
def test_no_planted_copy_is_lost_and_each_has_its_original(originals, looks, kind):
    search, confirm = looks
    made = copies.plant(originals, kind, np.random.default_rng(2))
    suspected = search.find(small(made))
    found = confirm(made, suspected)
    assert suspected.flagged.all()  # blends too, which are further from their original than look-alikes are
    assert found.flagged.all() and (found.reference == np.arange(40)).all()


def test_look_alikes_are_suspected_and_cleared(looks):
    search, confirm = looks
    made = skins(300, seed=3)
    suspected = search.find(small(made))
    assert suspected.flagged.sum() >= 10
    assert not confirm(made, suspected).flagged.any()
    assert confirm.null < confirm.bound < confirm.planted


def test_without_detail_the_first_look_decides(originals, looks):
    search, confirm = looks
    made = np.full((2, 64, 64, 3), 120, np.uint8)
    assert np.isnan(detail.correlation(made[0], detail.details(originals[0])))
    found = search.find(small(made))
    near = copies.Copies(np.ones(2, bool), found.reference, found.distance, np.array([0.0, 0.05]), found.near)
    assert confirm(made, near).flagged.tolist() == [True, False]


def test_where_detail_tells_nothing_no_copy_is_lost():
    assert detail.Confirm([], null=0.6, planted=0.4, quantile=QUANTILE).bound == 0.4


def test_files_are_read_when_asked_for(tmp_path, originals):
    from derm_t2im.imaging import io

    io.write_png(tmp_path / "a.png", originals[3])
    files = detail.Files([tmp_path / "a.png"])
    assert len(files) == 1 and (files[0] == originals[3]).all()


def test_detail_that_images_share_is_near_and_none_is_near_to_none(originals):
    thumbs = pixels.thumbnails(np.concatenate([originals[:2], np.full((2, 64, 64, 3), 120, np.uint8)]))
    a, b, plain, other = pixels.detailed(thumbs)
    brighter = pixels.detailed(np.clip(thumbs[:1] * 1.2 + 5, 0, 255).astype(np.uint8))[0]
    assert [np.linalg.norm(row) for row in (a, b, plain)] == pytest.approx([1, 1, 1], abs=1e-5)
    assert a @ brighter > 0.9 and abs(a @ b) < 0.3
    assert a @ plain == b @ plain == 0 and plain @ other == 1
