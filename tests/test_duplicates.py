"""Near-duplicates: planted ones are found and look-alikes are left alone, on phantoms and on HAM10000."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derm_t2im import duplicates, splits
from derm_t2im.imaging import alignment, hashing, io, sketch
from derm_t2im.sources import phantom

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1]


def crop(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    height, width = (round(side * share) for side in image.shape[:2])
    top, left = rng.integers(0, image.shape[0] - height + 1), rng.integers(0, image.shape[1] - width + 1)
    return image[top : top + height, left : left + width]


CHANGES: dict[str, Change] = {
    "flip": lambda image, rng: image[:, ::-1],
    "turn": lambda image, rng: np.rot90(image),
    "crop": lambda image, rng: crop(image, 0.9, rng),  # 10 % of each side, at any place
    "jpeg": lambda image, rng: jpeg(image, 50),
    "bright": lambda image, rng: np.clip(image * 1.1, 0, 255).astype(np.uint8),
    "wrong lesion": lambda image, rng: image.copy(),
}


def plant(images: list[np.ndarray], each: int, seed: int) -> tuple[list[np.ndarray], list[int], list[str]]:
    """``each`` changed copies per kind; the positions they are copies of; their kinds."""
    rng = np.random.default_rng(seed)
    copies, origins, kinds = [], [], []
    for kind, change in CHANGES.items():
        for at in rng.choice(len(images), each, replace=False).tolist():
            copies.append(np.ascontiguousarray(change(images[at], rng)))
            origins.append(at)
            kinds.append(kind)
    return copies, origins, kinds


def judged(lesions: list[str], origins: list[int], near: np.ndarray) -> tuple[np.ndarray, int]:
    """Which planted copies (the last rows, each under a lesion id of its own) share a group with their
    origin, and how many lesions were joined to others that they are not.
    """
    count = len(lesions)
    ids = [*lesions, *(f"planted {k}" for k in range(len(origins)))]
    truth = [*lesions, *(lesions[at] for at in origins)]
    frame = pd.DataFrame({"image_id": [f"{k:06d}" for k in range(len(ids))], "lesion_id": ids, "source": "s"})
    groups = splits.group_ids(frame, near)
    found = np.array([groups[at] == groups[count + k] for k, at in enumerate(origins)])
    per_group = pd.Series(truth).groupby(groups).nunique()
    return found, int((per_group - 1).sum())


def test_planted_copies_of_phantoms_are_found_and_nothing_else() -> None:
    images = [phantom.render(phantom.CLINIC_A, 11, k, size=160).image for k in range(150)]
    copies, origins, kinds = plant(images, 50, seed=5)
    pairs = duplicates.search([*images, *copies])
    found, false = judged([f"lesion {k}" for k in range(len(images))], origins, pairs.at)
    for kind in CHANGES:
        mine = found[[k == kind for k in kinds]]
        assert mine.sum() >= 49, kind
    assert found.mean() >= 0.99
    assert false == 0
    assert (pairs.at[:, 0] < pairs.at[:, 1]).all()
    assert pairs.correlation.min() >= duplicates.CORRELATION
    # the same groups in whatever order the images come
    order = np.random.default_rng(0).permutation(len(images) + len(copies))
    again = duplicates.search([[*images, *copies][at] for at in order])
    count = len(order)
    plain = pd.DataFrame({"image_id": [f"{k:04d}" for k in range(count)]})
    shuffled = plain.iloc[order].reset_index(drop=True)
    assert splits.group_ids(plain, pairs.at) == [
        name for _, name in sorted(zip(order.tolist(), splits.group_ids(shuffled, again.at), strict=True))
    ]


def test_phantoms_of_the_default_size_are_not_joined() -> None:
    images = [phantom.render(phantom.CLINIC_A, 0, k, size=64).image for k in range(200)]
    assert not len(duplicates.search(images).at)


def test_paths_of_differing_sizes_and_a_broken_one(tmp_path: Path) -> None:
    image = phantom.render(phantom.CLINIC_A, 4, 1, size=200).image
    other = phantom.render(phantom.CLINIC_A, 4, 2, size=90).image
    small = cv2.resize(image, (120, 90), interpolation=cv2.INTER_AREA)
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for path, rgb in zip(paths, (image, other, small), strict=True):
        io.write_png(path, rgb)
    by_path = duplicates.search(iter(paths))
    assert by_path.at.tolist() == [[0, 2]]
    hashes = [hashing.phash(rgb) for rgb in (image, other, small)]
    by_array = duplicates.search(iter([image, other, small]), hashes)
    assert by_array.at.tolist() == by_path.at.tolist() and (by_array.correlation == by_path.correlation).all()
    with pytest.raises(ValueError, match="2 hashes for 3 images"):
        duplicates.search(paths, hashes[:2])
    paths[1].write_bytes(b"no image")
    with pytest.raises(io.ImageError, match=r"1\.png"):
        duplicates.search(paths)


def test_images_without_detail_and_few_images_have_no_near_duplicates() -> None:
    blank = np.full((64, 64, 3), 90, np.uint8)
    assert duplicates.search([]).at.shape == (0, 2)
    assert duplicates.search([blank]).at.shape == (0, 2)
    assert duplicates.search([blank, blank, blank + 3]).at.shape == (0, 2)
    image = phantom.render(phantom.CLINIC_A, 4, 1, size=64).image
    assert duplicates.search([image, blank, image, image]).at.tolist() == [[0, 2], [0, 3]]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), orientation=st.integers(0, 7), window=st.integers(0, len(sketch.WINDOWS) - 1))
def test_sketches_turn_and_crop_without_the_image(seed: int, orientation: int, window: int) -> None:
    rng = np.random.default_rng(seed)
    colour = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (320, 320), interpolation=cv2.INTER_CUBIC)
    turned = np.ascontiguousarray(hashing.turn(colour, orientation))
    small, small_turned = (hashing.thumbnail(rgb, sketch.SIDE)[None] for rgb in (colour, turned))
    expected = sketch.sketches(small_turned)
    plain = sketch.sketches(small)
    assert (sketch.flat(sketch.orient(plain, orientation)) * sketch.flat(expected)).sum() > 0.999
    np.testing.assert_allclose(sketch.invariants(plain), sketch.invariants(expected), atol=0.02)
    share, left, top = sketch.WINDOWS[window]
    x, y, side = round(left * 320), round(top * 320), round(share * 320)
    cropped = hashing.thumbnail(np.ascontiguousarray(colour[y : y + side, x : x + side]), sketch.SIDE)
    part = sketch.sketches(small, sketch.WINDOWS[window])
    assert (sketch.flat(part) * sketch.flat(sketch.sketches(cropped[None]))).sum() > 0.99


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_invariants_are_never_farther_apart_than_the_sketches(seed: int) -> None:
    small = np.random.default_rng(seed).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    first, second = sketch.sketches(small[:1]), sketch.sketches(small[1:])
    apart = min(np.linalg.norm(sketch.flat(first) - sketch.flat(sketch.orient(second, o))) for o in range(8))
    assert np.linalg.norm(sketch.invariants(first) - sketch.invariants(second)) <= apart + 1e-5


def test_a_shared_field_of_view_is_no_evidence() -> None:
    def through_a_tube(image: np.ndarray) -> np.ndarray:
        y, x = np.mgrid[-1:1:160j, -1:1:160j]
        return (image * (np.hypot(x, y) < 0.9)[..., None]).astype(np.uint8)

    images = [through_a_tube(phantom.render(phantom.CLINIC_A, 6, k, size=160).image) for k in range(60)]
    pairs = duplicates.search([*images, *(np.ascontiguousarray(image[::-1]) for image in images[:10])])
    assert pairs.at.tolist() == [[k, 60 + k] for k in range(10)]


def test_agreement_is_symmetric_enough_and_low_for_others() -> None:
    first, second = (phantom.render(phantom.CLINIC_A, 9, k, size=64).image for k in (0, 1))
    one, other = (alignment.Copy(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)) for rgb in (first, second))
    assert alignment.agreement(one, one) == pytest.approx(1)
    assert alignment.agreement(one, other) < 0.4


def hexes(bits: np.ndarray) -> list[str]:
    return [row.tobytes().hex() for row in np.packbits(bits, axis=1)]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), limit=st.integers(0, 9))
def test_near_pairs_are_those_of_a_search_by_brute_force(seed: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (12, 64), dtype=np.uint8)
    for _ in range(12, 30):  # relatives of the first: turned, and with some bits flipped
        relative = hashing.orient(bits[[rng.integers(0, 12)]], int(rng.integers(0, 8)))[0].copy()
        relative[rng.choice(64, rng.integers(0, 12), replace=False)] ^= 1
        bits = np.vstack([bits, relative])
    turned = [hashing.orient(bits, o) for o in range(8)]
    distance = np.array([[[(bits[i] != t[j]).sum() for t in turned] for j in range(30)] for i in range(30)])
    expected = {(i, j) for i in range(30) for j in range(i + 1, 30) if distance[i, j].min() <= limit}
    pairs = duplicates.near_pairs(hexes(bits), limit)
    assert {(int(i), int(j)) for i, j, _ in pairs} == expected
    for i, j, orientation in pairs:
        assert distance[i, j, orientation] == distance[i, j].min()


def test_no_pairs_among_few_hashes() -> None:
    assert duplicates.near_pairs([], 4).shape == (0, 3)
    assert duplicates.near_pairs(["0" * 16], 4).shape == (0, 3)


#: Images of HAM10000 under different lesion ids that show one lesion, as seen by eye.
ONE_LESION = """
25387-29880 27027-29036 25226-30074 32740-34283 34228-34248 27689-32647 27820-30835 26560-31838 25281-26904
29152-33173 27636-27994 26160-29960 24479-28756 27820-28209 24774-27559
"""


@pytest.mark.real
def test_ham10000_and_copies_planted_in_it() -> None:
    root = (
        Path(os.environ.get("DERM_T2IM_DATA", Path(__file__).parents[1] / "../shared/data")) / "ham10000-full-200x150"
    )
    if not root.is_dir():
        pytest.skip(f"needs {root.name} below DERM_T2IM_DATA")
    table = pd.read_csv(root / "HAM10000_metadata.csv").sort_values("image_id").reset_index(drop=True)
    images = [io.read_rgb(root / "images" / f"{name}.jpg") for name in table["image_id"]]
    copies, origins, kinds = plant(images, 50, seed=11)
    near = duplicates.search([*images, *copies]).at
    names, lesions = table["image_id"].to_numpy(), table["lesion_id"].to_numpy()
    real = near[(near < len(images)).all(axis=1)]
    across = real[lesions[real[:, 0]] != lesions[real[:, 1]]]
    seen = {tuple(f"ISIC_00{end}" for end in pair.split("-")) for pair in ONE_LESION.split()}
    assert {(names[a], names[b]) for a, b in across} == seen
    within = len(real) - len(across)
    assert within >= 117  # the near-duplicates that the data's notes count, and photos taken anew
    identical = [(a, b) for a, b in real if (images[a] == images[b]).all()]
    assert len(identical) == 2 and all(lesions[a] == lesions[b] for a, b in identical)
    # lesions that are one are one in the truth too
    frame = pd.DataFrame({"image_id": names, "lesion_id": lesions, "source": "s"})
    place = {name: at for at, name in enumerate(names)}
    known = splits.group_ids(frame, np.array([[place[a], place[b]] for a, b in sorted(seen)]))
    found, false = judged(known, origins, near)
    recall = {kind: float(found[[k == kind for k in kinds]].mean()) for kind in CHANGES}
    print(f"recall {recall}, false merges {false}, within lesions {within}, across {len(across)}")
    assert min(recall.values()) >= 0.98 and found.mean() >= 0.99
    assert false <= 0.01 * (len(origins) + len(across))
