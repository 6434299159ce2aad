"""Hair removal: what it takes away and what it leaves alone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from derm_t2im.imaging import hair, io
from derm_t2im.sources import phantom


def rendered(size: int, share: float, number: int = 40) -> list[phantom.Phantom]:
    return [phantom.render(phantom.CLINIC_A, 21, k, size=size, hair=share) for k in range(number)]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / max(1, a.sum() + b.sum())


def error(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    return float(((a.astype(float) - b)[where] ** 2).mean())


def test_hair_is_found_and_filled_better_than_left_alone() -> None:
    found, left, removed = [], [], []
    for p in rendered(256, 1.0, 15):
        out, mask = hair.remove_hair(p.image, "directional")
        found.append(dice(mask, p.hair))
        left.append(error(p.image, p.clean, p.hair))
        removed.append(error(out, p.clean, p.hair))
    assert np.mean(found) > 0.55
    assert np.median(removed) < 0.1 * np.median(left)


@pytest.mark.parametrize("size", [64, 256])
def test_hairless_images_are_left_alone(size: int) -> None:
    touched = [hair.hair_mask(p.image).mean() for p in rendered(size, 0.0, 16)]
    assert np.mean(touched) < 0.005
    common = [hair.remove_hair(p.image, "blackhat")[1].mean() for p in rendered(size, 0.0, 16)]
    assert np.mean(touched) < 0.2 * np.mean(common)


def test_only_hair_pixels_change() -> None:
    p = rendered(128, 1.0, 1)[0]
    out, mask = hair.remove_hair(p.image, "directional")
    np.testing.assert_array_equal(out[~mask], p.image[~mask])


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
    assert roc_auc_score(human, ours) > max(0.6, roc_auc_score(human, common))
