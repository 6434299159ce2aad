"""Augmentation: repeatable, within its bounds, and by geometry that keeps the pixels."""

import numpy as np
import pytest
import torch

from derm_t2im.classify import augmentation


def pool(n=4, side=24):
    return torch.from_numpy(np.random.default_rng(0).integers(60, 180, (n, side, side, 3), dtype=np.uint8))


def augmented(seed, kind="standard", crop=1.0, n=64, images=None):
    images = pool(1) if images is None else images
    rows = torch.zeros(n, dtype=torch.long)
    return augmentation.augment(images, rows, torch.Generator().manual_seed(seed), kind, crop)


@pytest.mark.parametrize(("kind", "crop"), [("standard", 1.0), ("standard", 0.5), ("strong", 1.0)])
def test_a_seed_gives_one_augmentation(kind, crop):
    assert torch.equal(augmented(3, kind, crop), augmented(3, kind, crop))
    assert not torch.equal(augmented(3, kind, crop), augmented(4, kind, crop))


def test_geometry_covers_all_eight_poses_and_nothing_else(monkeypatch):
    for name in ("SHIFT", "BRIGHTNESS", "CONTRAST", "GAIN"):
        monkeypatch.setattr(augmentation, name, 0.0)
    image = pool(1)[0].numpy()
    # SHIFT 0 still moves by up to one pixel: the middle is compared.
    poses = {}
    for turn in range(4):
        for flipped in (image, image[:, ::-1]):
            posed = np.rot90(flipped, turn)
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    poses[np.roll(posed, (dy, dx), (0, 1))[2:-2, 2:-2].tobytes()] = (turn, flipped is image)
    seen = set()
    for batch in augmented(0).round().to(torch.uint8).numpy():
        seen.add(poses[np.ascontiguousarray(batch[2:-2, 2:-2]).tobytes()])
    assert len(seen) == 8


def test_shift_is_bounded_and_mirrored(monkeypatch):
    for name in ("BRIGHTNESS", "CONTRAST", "GAIN"):
        monkeypatch.setattr(augmentation, name, 0.0)
    image = torch.arange(24, dtype=torch.uint8).view(1, 24, 1, 1).expand(1, 24, 24, 3).contiguous()
    out = augmentation.augment(image, torch.zeros(200, dtype=torch.long), torch.Generator().manual_seed(0))
    upright = out[(out[:, 12, 0, 0] == out[:, 12, -1, 0])]  # rows still hold one value each
    centre = upright[:, 12, 0, 0]
    assert set(centre.round().int().tolist()) <= set(range(9, 15))  # 11 or 12, moved by up to 2
    assert len(set(centre.round().int().tolist())) > 3
    steps = (upright[:, 1:, 0, 0] - upright[:, :-1, 0, 0]).abs().round()
    assert steps.max() == 1  # a wrapped or padded border would jump


def test_colour_changes_are_small():
    mean = augmented(0).mean(dim=(1, 2, 3)) / pool(1).float().mean()
    assert 0.8 < mean.min() < 0.97
    assert 1.03 < mean.max() < 1.2


def test_none_gives_the_images_themselves():
    rows = torch.tensor([2, 0])
    assert torch.equal(augmentation.augment(pool(), rows, torch.Generator(), "none"), pool()[rows].float())


def test_the_standard_draws_are_the_ones_that_trained_models_saw():
    # Written down from the first version: a run of old parameters must train on the same pixels.
    ramp = torch.arange(8 * 8 * 3, dtype=torch.uint8).view(1, 8, 8, 3)
    out = augmented(0, n=2, images=ramp)
    assert out[:, 0, 0].flatten().tolist() == pytest.approx(
        [159.7569, 155.4571, 160.9163, 169.3368, 166.391, 173.4823], abs=1e-4
    )
    assert out.mean().item() == pytest.approx(99.5067, abs=1e-4)


def test_a_crop_keeps_the_promised_share_and_stays_inside(monkeypatch):
    for name in ("BRIGHTNESS", "CONTRAST", "GAIN"):
        monkeypatch.setattr(augmentation, name, 0.0)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    image = torch.stack([y, x, torch.zeros_like(x)], dim=2).to(torch.uint8)[None]
    whole, cut = (augmented(0, "standard", crop, 300, image) for crop in (1.0, 0.5))
    assert (whole[:, 30, 30] - whole[:, 31, 30]).abs().sum(dim=1).max() == 1
    # Values are coordinates: their steps say how large a part was enlarged.
    down, across = (cut[:, 30, 30] - cut[:, 31, 30]).abs().sum(1), (cut[:, 30, 30] - cut[:, 30, 31]).abs().sum(1)
    area = down * across
    assert 0.4 < area.min() < 0.6
    assert 0.9 < area.max() <= 1.05
    assert (down / across).max() < 1.4
    assert cut.min() >= 0
    assert cut.max() <= 63


def test_strong_changes_more_than_standard_and_differs_between_images():
    smooth = torch.linspace(60, 180, 32).view(1, 32, 1, 1).expand(1, 32, 32, 3).to(torch.uint8).contiguous()
    standard, strong = (augmented(0, kind, n=200, images=smooth) for kind in ("standard", "strong"))
    assert strong.mean(dim=(1, 2, 3)).std() > standard.mean(dim=(1, 2, 3)).std()
    assert len({image.numpy().tobytes() for image in strong}) == 200
    assert strong.min() >= 0
    assert strong.max() <= 255
    assert torch.isfinite(strong).all()


def test_strong_leaves_a_grey_image_grey():
    # Of all operations, none may give colour to what has none: gains of channels and posterising would.
    grey = torch.randint(0, 256, (1, 32, 32, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    out = augmented(1, "strong", n=100, images=grey.expand(1, 32, 32, 3).contiguous())
    assert (out.amax(dim=3) - out.amin(dim=3)).max() < 1.0


def test_two_operations_each(monkeypatch):
    monkeypatch.setattr(augmentation, "STRONG_CROP", 1.0)
    flat = torch.full((1, 16, 16, 3), 100, dtype=torch.uint8)
    flat[..., 0] = 160
    out = augmented(2, "strong", n=800, images=flat)
    # On one colour blur, sharpening and cutout do nothing: 3 of 8, so both are of these in 3/8 * 2/7 of images.
    unchanged = (out - flat.float()).abs().amax(dim=(1, 2, 3)) < 0.01
    assert unchanged.float().mean() == pytest.approx(3 / 28, abs=0.04)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="allowed: none, standard, strong"):
        augmented(0, "weak")
