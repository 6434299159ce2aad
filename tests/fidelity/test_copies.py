import numpy as np
import pytest

from derm_t2im.fidelity import assess, copies, pixels


def pictures(n, seed, side=48):
    """Smooth random colour pictures, each its own."""
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.uniform(40, 215, (n, 7, 7, 3)).astype(np.float32)
    return (
        np.stack([cv2.resize(c, (side, side), interpolation=cv2.INTER_CUBIC) for c in coarse])
        .clip(0, 255)
        .astype(np.uint8)
    )


def encode(images):
    """A crude encoder: mean colours of a 4 x 4 grid."""
    n, side = len(images), images.shape[1]
    grid = images.reshape(n, 4, side // 4, 4, side // 4, 3).mean(axis=(2, 4))
    return grid.reshape(n, -1).astype(np.float32)


def as_images(pixel_images):
    labels = np.array(["a"] * len(pixel_images), dtype=object)
    thumbs, none = pixels.thumbnails(pixel_images), np.full(len(labels), None, object)
    return assess.Images(encode(pixel_images), labels, thumbs, labels, np.ones((len(labels), 1)), none, none)


def spaces(images):
    return assess.spaces(images.features, images.thumbs)


@pytest.fixture(scope="module")
def originals():
    return pictures(60, seed=0)


@pytest.fixture(scope="module")
def search(originals):
    references = assess.views(iter([originals[:35], originals[35:]]), encode)
    return copies.Search(references, spaces(as_images(pictures(300, seed=1))), 0.01)


@pytest.mark.parametrize("kind", copies.KINDS)
def test_planted_copies_are_found_with_their_original(originals, search, kind):
    made = copies.plant(originals, kind, np.random.default_rng(2))
    found = search.find(spaces(as_images(made)))
    assert made.shape == originals.shape and made.dtype == np.uint8
    assert found.flagged.mean() >= 0.99
    assert (found.reference == np.arange(60)).mean() >= 0.99


def test_honest_images_are_not_called_copies(search):
    found = search.find(spaces(as_images(pictures(1000, seed=3))))
    assert found.rate.value <= 0.03
    assert search.null.rate.value <= 0.02
    assert found.rate.low <= found.rate.value <= found.rate.high and found.rate.n == 1000


def test_plain_images_are_near_to_all_and_so_no_copies(search, originals):
    average = np.repeat(originals.mean(axis=0, keepdims=True), 5, axis=0).astype(np.uint8)
    assert not search.find(spaces(as_images(average))).flagged.any()


def test_planted_recall_counts_all_kinds(originals, search):
    found = assess.planted(originals[:20], search, encode, seed=0)
    assert found["planted_n"] == 20 * len(copies.KINDS)
    assert set(found["planted"]) == set(copies.KINDS)
    assert found["planted_recall"] == pytest.approx(np.mean([found["planted"][kind] for kind in copies.KINDS]))
    assert found == assess.planted(originals[:20], search, encode, seed=0)


def test_nearest_over_views_worked_example():
    queries = np.array([[0.0], [5.2]])
    references = np.array([[[1.0], [9.0], [-40.0]], [[30.0], [5.0], [-40.0]]])  # two views of three
    found = copies.nearest(queries, references)
    assert found.index.tolist() == [0, 1]
    assert found.distance == pytest.approx([1.0, 0.2])
    # next nearest: 0 -> 5 and 40; 5.2 -> 4.2 and 45.2
    assert found.score == pytest.approx([1 / 22.5, 0.2 / 24.7])


def test_a_single_reference_and_none():
    assert copies.nearest(np.array([[3.0]]), np.array([[[1.0]]])).score == pytest.approx([2.0])
    with pytest.raises(ValueError, match="no references"):
        copies.nearest(np.ones((2, 1)), np.empty((1, 0, 1)))
    with pytest.raises(ValueError, match="held-out"):
        copies.Search({"a": np.ones((1, 3, 2))}, {"a": np.empty((0, 2))}, 0.01)


def test_eight_turns_of_a_square_and_four_of_a_rectangle():
    square, wide = pictures(2, seed=5), pictures(2, seed=5)[:, :24]
    assert len({view.tobytes() for view in pixels.turns(square)}) == 8
    assert len({view.tobytes() for view in pixels.turns(wide)}) == 4
    assert all(view.shape == wide.shape for view in pixels.turns(wide))


def test_standardised_distance_is_correlation():
    thumbs = pixels.thumbnails(pictures(2, seed=6))
    a, b = pixels.standardised(thumbs, side=32)
    r = np.corrcoef(thumbs[0].ravel().astype(float), thumbs[1].ravel().astype(float))[0, 1]
    assert np.sum((a - b) ** 2) == pytest.approx(2 * (1 - r), rel=1e-4)


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="exact, flipped, cropped, recompressed, blended"):
        copies.plant(pictures(1, seed=0), "smudged", np.random.default_rng(0))
