"""Hair removal: what it takes away and what it leaves alone."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derm_t2im.imaging import hair, io
from derm_t2im.sources import phantom


def rendered(size: int, share: float, number: int = 40) -> list[phantom.Phantom]:
    return [phantom.render(phantom.CLINIC_A, 21, k, size=size, hair=share) for k in range(number)]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / max(1, a.sum() + b.sum())


def error(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    return float(((a.astype(float) - b)[where] ** 2).mean())


@pytest.mark.parametrize("size", [256, 512])
@pytest.mark.parametrize("style", [phantom.CLINIC_A, phantom.CLINIC_B], ids=lambda style: style.name)
def test_hair_is_found_and_filled_better_than_by_the_snippet(style: phantom.Style, size: int) -> None:
    figures: dict[str, list[tuple[float, float, float]]] = {"directional": [], "blackhat": []}
    for k in range(20):
        p = phantom.render(style, 21, k, size=size, hair=1.0)
        if not p.hair.any():
            continue
        left = error(p.image, p.clean, p.hair)
        for method, rows in figures.items():
            out, mask = hair.remove_hair(p.image, method)  # type: ignore[arg-type]
            removed = error(out, p.clean, p.hair)
            rows.append((dice(mask, p.hair), removed / left, float(np.log(removed + 0.1))))
    ours, snippet = (np.array(rows) for rows in figures.values())
    assert len(ours) > 12
    assert ours[:, 0].mean() > max(0.6, snippet[:, 0].mean() + 0.05)
    assert np.median(ours[:, 1]) < 0.1
    if size == 512:  # at 256 the snippet's wide mask fills nearly as well: the benchmark has many more images
        assert ours[:, 2].mean() < snippet[:, 2].mean()


@pytest.mark.parametrize("size", [64, 256])
def test_hairless_images_are_left_alone(size: int) -> None:
    images = [p.image for p in rendered(size, 0.0, 16)]
    touched = [hair.hair_mask(image) for image in images]
    assert np.mean([mask.mean() for mask in touched]) < 0.003
    assert np.mean([mask.any() for mask in touched]) < 0.3
    common = [hair.remove_hair(image, "blackhat")[1].mean() for image in images]
    assert np.mean([mask.mean() for mask in touched]) < 0.2 * np.mean(common)


@pytest.mark.parametrize("size", [64, 128, 400])
def test_only_hair_and_its_soft_rim_change(size: int) -> None:
    p = rendered(size, 1.0, 1)[0]
    before = p.image.copy()
    out, mask = hair.remove_hair(p.image, "directional")
    rim = 2 * max(1, round(hair.RIM * size)) + 1
    beside = cv2.dilate(mask.astype(np.uint8), np.ones((rim, rim), np.uint8)) > 0
    assert mask.any() and (out[mask] != before[mask]).any()
    np.testing.assert_array_equal(out[~beside], before[~beside])
    np.testing.assert_array_equal(p.image, before)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(32, 300),
    width=st.integers(32, 300),
    share=st.sampled_from([0, 0.1, 1]),
)
def test_a_fill_stays_within_the_colours_around(seed: int, height: int, width: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    low, high = sorted(rng.integers(0, 256, 2).tolist())
    rgb = rng.integers(low, high + 1, (height, width, 3), dtype=np.uint8)
    mask = rng.random((height, width)) < share
    out = hair.fill(rgb, mask)
    assert out.shape == rgb.shape and out.dtype == np.uint8
    if not cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).all():
        assert out.min() >= rgb.min() and out.max() <= rgb.max()


def test_the_same_image_gives_the_same_bytes() -> None:
    image = rendered(300, 1.0, 1)[0].image
    first, again = hair.remove_hair(image), hair.remove_hair(image.copy())
    assert first[0].tobytes() == again[0].tobytes() and first[1].tobytes() == again[1].tobytes()


def test_a_network_within_the_lesion_is_kept_and_a_hair_across_it_is_not() -> None:
    y, x = np.mgrid[:256, :256]
    inside = np.hypot(x - 128, y - 128) < 70
    rgb = np.full((256, 256, 3), (225, 185, 165), np.uint8)
    rgb[inside] = (140, 95, 70)
    network = inside & (((x + y) % 22 < 3) | ((x - y) % 22 < 3))
    rgb[network] = (105, 65, 45)
    rgb = cv2.GaussianBlur(rgb, (0, 0), 1.0)
    assert hair.hair_mask(rgb).mean() < 0.005
    cv2.line(rgb, (10, 60), (245, 190), (35, 25, 20), 3, cv2.LINE_AA)
    mask = hair.hair_mask(rgb)
    strand = cv2.line(np.zeros((256, 256), np.uint8), (10, 60), (245, 190), 1, 3) > 0
    assert mask[strand].mean() > 0.85
    assert mask[network & ~cv2.dilate(strand.astype(np.uint8), np.ones((13, 13), np.uint8)).astype(bool)].mean() < 0.02


def test_none_changes_nothing() -> None:
    p = rendered(64, 1.0, 1)[0]
    out, mask = hair.remove_hair(p.image, "none")
    assert out is p.image and not mask.any()
    with pytest.raises(ValueError, match="blackhat"):
        hair.remove_hair(p.image, "shave")  # type: ignore[arg-type]


def test_dots_and_edges_are_no_hair() -> None:
    rng = np.random.default_rng(0)
    rgb = np.full((200, 200, 3), (220, 180, 160), np.uint8)
    for x, y in rng.integers(20, 180, (40, 2)):
        rgb[y - 2 : y + 3, x - 2 : x + 3] = 90
    rgb[:, 150:] = 120
    assert not hair.hair_mask(rgb).any()


def test_a_large_image_is_handled_at_a_bounded_size() -> None:
    rgb = np.full((1300, 1500, 3), (220, 180, 160), np.uint8)
    for at in range(200, 1200):
        rgb[at, at : at + 8] = 60
    mask = hair.hair_mask(rgb)
    assert mask.shape == (1300, 1500)
    assert mask[700, 702:706].all() and mask.mean() < 0.03


@pytest.mark.real
def test_hair_fraction_agrees_with_people() -> None:
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    root = Path(os.environ.get("DERM_T2IM_DATA", Path(__file__).parents[2] / "../shared/data")) / "isic2017-hair-256"
    if not root.is_dir():
        pytest.skip(f"needs {root.name} below DERM_T2IM_DATA")
    flags = pd.read_csv(root / "annotations.csv").iloc[::4]
    images = [io.read_rgb(next((root / "images").glob(f"{name}.*"))) for name in flags["image_id"]]
    ours = [hair.hair_mask(rgb).mean() for rgb in images]
    common = [hair.remove_hair(rgb, "blackhat")[1].mean() for rgb in images]
    human = flags["hair"] > 0.5
    assert roc_auc_score(human, ours) > max(0.65, roc_auc_score(human, common))


@pytest.mark.parametrize("shape", [(1, 1), (2, 50), (3, 1000), (4, 4), (1000, 5)])
def test_images_too_narrow_for_hair_have_a_mask_of_their_own_shape(shape: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    bare, found = hair.remove_hair(rgb)
    assert found.shape == shape and bare.shape == rgb.shape
    assert min(shape) > 4 or not found.any()
