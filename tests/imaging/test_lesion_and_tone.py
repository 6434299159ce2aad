"""Lesions and skin tone, on drawings and on phantoms whose truth is known."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import pytest
from scipy.stats import spearmanr

from derm_t2im.imaging import lesion, quality, tone
from derm_t2im.sources import phantom


def skin(size: int = 96, colour: tuple[int, int, int] = (222, 180, 160)) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.clip(np.array(colour) + rng.normal(0, 3, (size, size, 3)), 0, 255).astype(np.uint8)


def spot(rgb: np.ndarray, centre: tuple[int, int], radius: int, share: float = 0.5) -> np.ndarray:
    out = rgb.copy()
    y, x = np.ogrid[: rgb.shape[0], : rgb.shape[1]]
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2
    out[inside] = (out[inside] * share).astype(np.uint8)
    return out


@pytest.mark.parametrize("colour", [(240, 205, 185), (198, 150, 120), (120, 84, 66), (70, 50, 42)])
@pytest.mark.parametrize("size", [64, 224])
def test_a_disc_is_found_on_any_skin(colour: tuple[int, int, int], size: int) -> None:
    radius = size // 5
    mask = lesion.lesion_mask(spot(skin(size, colour), (size // 2, size // 2), radius))
    shape = lesion.describe(mask)
    assert shape["lesion_count"] == 1
    assert shape["lesion_area"] == pytest.approx(np.pi * radius**2 / size**2, rel=0.15)
    assert shape["lesion_asymmetry"] < 0.06
    assert shape["lesion_border"] < 0.3


def test_two_lesions_are_two() -> None:
    rgb = spot(spot(skin(), (28, 30), 12), (68, 66), 14)
    assert lesion.describe(lesion.lesion_mask(rgb))["lesion_count"] == 2


def test_bare_skin_has_no_lesion() -> None:
    shape = lesion.describe(lesion.lesion_mask(skin()))
    assert shape["lesion_count"] == 0 and shape["lesion_area"] == 0
    assert np.isnan(shape["lesion_asymmetry"]) and np.isnan(shape["lesion_border"])


def test_shading_across_the_skin_is_no_lesion() -> None:
    shade = np.linspace(1.0, 0.75, 96)[None, :, None]
    rgb = (spot(skin(), (48, 48), 15) * shade).astype(np.uint8)
    assert lesion.describe(lesion.lesion_mask(rgb))["lesion_area"] == pytest.approx(np.pi * 15**2 / 96**2, rel=0.2)


def test_a_black_frame_is_not_a_lesion() -> None:
    rgb = spot(skin(128), (64, 64), 20)
    y, x = np.ogrid[:128, :128]
    outside = np.hypot(x - 63.5, y - 63.5) > 70
    rgb[outside] = 4
    frame = lesion.black_frame(rgb)
    assert frame[outside].mean() > 0.99 and not frame[64, 64]
    assert lesion.describe(lesion.lesion_mask(rgb))["lesion_area"] == pytest.approx(np.pi * 400 / 128**2, rel=0.2)


def test_shape_of_drawn_masks() -> None:
    ellipse = cv2.ellipse(np.zeros((200, 200), np.uint8), (100, 100), (70, 40), 30, 0, 360, 1, -1) > 0
    half = ellipse.copy()
    half[:100, 100:] = False
    assert lesion.describe(ellipse)["lesion_asymmetry"] < 0.03
    assert lesion.describe(half)["lesion_asymmetry"] > 0.15
    assert lesion.describe(half)["lesion_border"] > lesion.describe(ellipse)["lesion_border"]


def test_ita_of_known_colours() -> None:
    # L* = 50 + b* is 45 degrees by definition: solve for a grey-yellow patch through Lab itself.
    patch = cv2.cvtColor(np.full((8, 8, 3), (70.0, 5.0, 20.0), np.float32), cv2.COLOR_Lab2RGB)
    rgb = np.rint(patch * 255).astype(np.uint8)
    everywhere = np.ones((8, 8), dtype=bool)
    assert tone.ita(rgb, everywhere) == pytest.approx(45.0, abs=1.0)
    dark = cv2.cvtColor(np.full((8, 8, 3), (30.0, 8.0, 20.0), np.float32), cv2.COLOR_Lab2RGB)
    assert tone.ita(np.rint(dark * 255).astype(np.uint8), everywhere) == pytest.approx(-45.0, abs=1.5)
    assert np.isnan(tone.ita(rgb, ~everywhere))


def test_skin_is_never_empty() -> None:
    rgb = skin(32)
    assert tone.skin(rgb, np.ones((32, 32), dtype=bool)).any()
    assert tone.skin(np.zeros_like(rgb), np.zeros((32, 32), dtype=bool)).any()


@functools.cache
def measured(style: phantom.Style) -> tuple[list[phantom.Phantom], list[dict]]:
    phantoms = [phantom.render(style, 5, k, size=64) for k in range(120)]
    return phantoms, [quality.measure(p.image) for p in phantoms]


@pytest.mark.parametrize("style", [phantom.CLINIC_A, phantom.CLINIC_B], ids=lambda style: style.name)
@pytest.mark.parametrize(
    ("truth", "column", "least"), [("area", "lesion_area", 0.9), ("ita", "ita", 0.9), ("count", "lesion_count", 0.8)]
)
def test_measures_follow_the_truth_of_phantoms(style: phantom.Style, truth: str, column: str, least: float) -> None:
    phantoms, rows = measured(style)
    known = [getattr(p, truth) for p in phantoms]
    assert spearmanr(known, [row[column] for row in rows]).statistic >= least


def test_masks_overlap_the_truth_of_phantoms() -> None:
    overlaps = []
    for p in measured(phantom.CLINIC_A)[0]:
        mask = lesion.lesion_mask(p.clean)
        overlaps.append((mask & p.lesion).sum() / (mask | p.lesion).sum())
    assert np.mean(overlaps) > 0.75
