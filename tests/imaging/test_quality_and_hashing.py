"""Quality measures rank what they are named after; hashes survive what does not change a picture."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from derm_t2im import manifest
from derm_t2im.imaging import hashing, quality
from derm_t2im.sources import phantom
from derm_t2im.vocabulary import TONES


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return phantom.render(phantom.CLINIC_A, 3, 1, size=128, hair=0.0, tone="light").image


def test_every_measured_column_is_there_and_known_to_the_manifest(picture: np.ndarray) -> None:
    row = quality.measure(picture)
    assert tuple(row) == quality.COLUMNS
    assert set(row) <= set(manifest.COLUMNS)
    assert row["tone"] in TONES


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_images_are_measured_without_complaint(value: int) -> None:
    row = quality.measure(np.full((64, 64, 3), value, np.uint8))
    assert row["lesion_count"] == 0 and row["tone"] in TONES
    assert 0 <= row["exposure"] <= 1


def test_blur_lowers_sharpness_step_by_step(picture: np.ndarray) -> None:
    values = [quality.sharpness(picture)]
    values += [quality.sharpness(cv2.GaussianBlur(picture, (0, 0), sigma)) for sigma in (1, 2, 4)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 2 * values[-1]


def test_fine_detail_follows_the_blur_and_not_the_size_or_the_light(picture: np.ndarray) -> None:
    sharp = quality.fine_detail(picture)
    blurred = [quality.fine_detail(cv2.GaussianBlur(picture, (0, 0), sigma)) for sigma in (1, 2, 4)]
    assert [sharp, *blurred] == sorted([sharp, *blurred], reverse=True)
    assert quality.fine_detail((picture * 0.6).astype(np.uint8)) == pytest.approx(sharp, rel=0.05)
    assert quality.fine_detail(np.repeat(np.repeat(picture, 3, 0), 3, 1)) == pytest.approx(sharp, rel=0.05)


def test_light_and_its_colour(picture: np.ndarray) -> None:
    darker = (picture * 0.6).astype(np.uint8)
    warmer = np.clip(picture * [1.1, 1.0, 0.7], 0, 255).astype(np.uint8)
    assert quality.measure(darker)["exposure"] < quality.measure(picture)["exposure"] - 0.1
    assert quality.measure(warmer)["colour_cast"] > quality.measure(picture)["colour_cast"] + 3


def test_dark_corners(picture: np.ndarray) -> None:
    y, x = np.ogrid[:128, :128]
    framed = picture.copy()
    framed[np.hypot(x - 63.5, y - 63.5) > 68] = 3
    assert quality.measure(framed)["dark_corner"] > 0.85 > 0.3 > quality.measure(picture)["dark_corner"]


def test_ink_and_rulers_are_seen(picture: np.ndarray) -> None:
    marked = picture.copy()
    cv2.line(marked, (5, 110), (120, 118), (60, 60, 190), 4)
    ruled = picture.copy()
    for k in range(12):
        cv2.line(ruled, (8 + 9 * k, 121), (8 + 9 * k, 126), (30, 30, 30), 1)
    assert quality.measure(marked)["ink"] > 0.5 > 0.05 > quality.measure(picture)["ink"]
    assert quality.ruler(ruled) > 0.5 > 0.2 > quality.ruler(picture)
    assert quality.measure(ruled)["ruler"] == quality.ruler(ruled)


def test_a_veil_and_a_colour_patch_are_no_ink(picture: np.ndarray) -> None:
    y, x = np.ogrid[:128, :128]
    veil = np.exp(-((x - 64) ** 2 + (y - 64) ** 2) / (2 * 14**2))[..., None]
    veiled = (picture * (1 - 0.7 * veil) + np.array([110, 120, 150]) * 0.7 * veil).astype(np.uint8)
    patched = picture.copy()
    patched[np.broadcast_to(np.hypot(x - 128, y - 64) < 34, (128, 128))] = (60, 170, 180)
    assert quality.measure(veiled)["ink"] < 0.2
    assert quality.measure(patched)["ink"] < 0.2


@pytest.mark.parametrize("kind", ["ruler", "ink", "dark_corner"])
def test_artefacts_of_phantoms_are_told_apart(kind: str) -> None:
    style = dataclasses.replace(phantom.CLINIC_A, ruler=0.5, ink=0.5, dark_corner=0.5)
    phantoms = [phantom.render(style, 31, k, size=128) for k in range(60)]
    there = [kind in p.artefacts for p in phantoms]
    assert roc_auc_score(there, [quality.measure(p.image)[kind] for p in phantoms]) > 0.95


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), orientation=st.integers(0, 7))
def test_the_hash_of_a_turned_image_follows_from_its_hash(seed: int, orientation: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = cv2.resize(noise, (96, 96), interpolation=cv2.INTER_CUBIC)
    turned = np.ascontiguousarray(hashing.turn(image, orientation))
    expected = hashing.orient(hashing.bits([hashing.phash(image)]), orientation)
    assert (hashing.bits([hashing.phash(turned)]) != expected).sum() <= 1  # a coefficient may be all but zero


def test_hashes_survive_jpeg_and_brightness_and_tell_pictures_apart() -> None:
    images = [phantom.render(phantom.CLINIC_A, 8, k, size=128).image for k in range(12)]
    hashes = hashing.bits([hashing.phash(image) for image in images])
    for image, own in zip(images, hashes, strict=True):
        code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
        copy = cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1]
        brighter = np.clip(image * 1.1, 0, 255).astype(np.uint8)
        for variant in (copy, brighter):
            variant = np.ascontiguousarray(variant)
            assert (hashing.bits([hashing.phash(variant)]) != own).sum() <= 4
    apart = (hashes[:, None] != hashes[None]).sum(axis=2)[np.triu_indices(12, 1)]
    assert apart.min() > 4


def test_hash_format() -> None:
    text = hashing.phash(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    assert len(text) == 16 and int(text, 16) >= 0
    assert hashing.bits([text]).shape == (1, 64)
    with pytest.raises(ValueError, match="16 hex"):
        hashing.bits(["abc"])
