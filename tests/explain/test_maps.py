"""Attribution maps: published properties, and any network by its structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from derm_t2im import networks
from derm_t2im.errors import UserError
from derm_t2im.explain import maps

CLASSES = ("benign", "malignant")
VIT = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def noise(n: int = 6, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def malignant(n: int) -> np.ndarray:
    return np.array([[False, True]]).repeat(n, 0)


class Corner(nn.Module):
    """A network of convolutions whose answer is how much light there is in one quadrant."""

    def __init__(self, top: int, left: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        nn.init.constant_(self.conv.weight, 0.1)
        nn.init.constant_(self.conv.bias, 4.0)
        self.top, self.left = top, left

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu()

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        part = x[:, :, self.top : self.top + 8, self.left : self.left + 8].mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(part), part], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def around(module: nn.Module, size: int = 64) -> networks.Network:
    return networks.Network(module, CLASSES, size, (0.5,) * 3, (0.5,) * 3, {"timm": "own"})


@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 8), (8, 0), (8, 8)])
def test_grad_cam_points_at_the_light_of_the_quadrant_that_the_answer_comes_from(top: int, left: int) -> None:
    """Grad-CAM weighs channels, not places: it finds light that the answer depends on, here light in one corner."""
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[:, top * 4 + 8 : top * 4 + 24, left * 4 + 8 : left * 4 + 24] = 255
    module = Corner(top, left)
    nn.init.constant_(module.conv.bias, 0.0)
    found = maps.explain(around(module), image, malignant(1))
    assert found.method == "grad_cam" and found.cells == 16
    quadrant = found.values[0, top * 4 : top * 4 + 32, left * 4 : left * 4 + 32]
    assert quadrant.sum() > 0.95


def test_a_map_lies_where_the_cells_look_and_not_where_their_grid_is() -> None:
    """A 3 x 3 convolution of stride 4 and padding 1 looks 1.5 pixels up and left of the middle of its cell."""
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[:, 24:40, 24:40] = 255
    module = Corner(4, 4)
    nn.init.constant_(module.conv.bias, 0.0)
    heat = maps.explain(around(module), image, malignant(1)).values[0]
    line = np.arange(64) + 0.5
    assert heat.sum(axis=1) @ line == pytest.approx(32, abs=1.1)
    assert heat.sum(axis=0) @ line == pytest.approx(32, abs=1.1)


def test_rows_of_a_rollout_sum_to_one_and_without_attention_tokens_see_themselves() -> None:
    layers = [torch.rand(2, 3, 10, 10).softmax(dim=-1) for _ in range(4)]
    flow = maps.rollout(layers)
    assert torch.allclose(flow.sum(dim=-1), torch.ones(2, 10), atol=1e-5)
    assert torch.equal(maps.rollout([torch.eye(10).expand(1, 1, 10, 10)] * 3)[0], torch.eye(10))


def test_a_finding_and_its_opposite_have_other_maps_unless_attention_is_rolled_out_alone() -> None:
    network = networks.build("vit_tiny_patch16_224", VIT, CLASSES, 64, seed=1)
    images = noise()
    for attention, differ in (("gradient", True), ("rollout", False)):
        one, other = (maps.explain(network, images, t, attention) for t in (malignant(6), ~malignant(6)))
        assert bool(np.abs(one.values - other.values).max() > 1e-5) is differ
        assert one.cells == 8


@pytest.mark.parametrize(
    ("name", "options", "size", "method", "cells"),
    [
        ("mobilenetv2_050", {}, 64, "grad_cam", 8),
        ("resnet10t", {}, 224, "grad_cam", 7),
        ("convnext_atto", {"depths": (1, 1, 1, 1)}, 64, "grad_cam", 8),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}, 224, "grad_cam", 7),
        ("mixer_s32_224", {}, 224, "grad_cam", 7),
        ("vit_tiny_patch16_224", VIT, 64, "attention_gradient", 8),
        ("deit_tiny_distilled_patch16_224", {"depth": 1}, 224, "attention_gradient", 14),
        ("vit_base_patch16_siglip_224", {"depth": 1, "embed_dim": 24, "num_heads": 2}, 224, "attention_gradient", 14),
    ],
)
def test_networks_are_known_by_their_structure(name: str, options: dict, size: int, method: str, cells: int) -> None:
    network = networks.build(name, options, CLASSES, size)
    images = noise(2, 48)
    before = network.logits(images)
    found = maps.explain(network, images, malignant(2))
    assert (found.method, found.cells) == (method, cells)
    assert found.values.shape == (2, size, size) and (found.values >= 0).all()
    assert np.isin(found.values.sum(axis=(1, 2), dtype=np.float64).round(4), (0, 1)).all()
    assert np.allclose(found.logits, before, atol=1e-4)
    assert np.array_equal(network.logits(images), before)  # left as it was, fused attention too


def test_a_network_of_neither_kind_is_refused_in_one_line() -> None:
    network = networks.build("coat_tiny", {"serial_depths": (1, 1, 1, 1)}, CLASSES, 64)
    with pytest.raises(UserError, match=r"coat_tiny: no map .* Choose a convolutional network or a ViT"):
        maps.explain(network, noise(1), malignant(1))


@pytest.mark.parametrize("name", ["mobilenetv2_050", "vit_tiny_patch16_224"])
def test_batches_change_no_map(name: str) -> None:
    network = networks.build(name, VIT if "vit" in name else {}, CLASSES, 64, seed=3)
    at_once, one_by_one = (maps.explain(network, noise(), malignant(6), batch=b).values for b in (6, 3))
    assert np.abs(at_once - one_by_one).max() < 2e-4


@pytest.mark.parametrize("name", ["mobilenetv2_050", "vit_tiny_patch16_224"])
def test_another_network_has_other_maps(name: str) -> None:
    """The sanity check of Adebayo et al. 2018: maps that survive a random network show the image, not the network."""
    options = VIT if "vit" in name else {}
    images = noise(8)
    one, again, other = (
        maps.explain(networks.build(name, options, CLASSES, 64, seed=seed), images, malignant(8)).values
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again)
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a.any() and b.any()]
    assert len(pairs) > 2
    assert np.mean([spearmanr(a[::8, ::8].ravel(), b[::8, ::8].ravel())[0] for a, b in pairs]) < 0.5


def test_wrong_input_is_named() -> None:
    network = around(Corner(0, 0))
    with pytest.raises(ValueError, match="uint8"):
        maps.explain(network, noise().astype(np.float32), malignant(6))
    with pytest.raises(ValueError, match="not all classes"):
        maps.explain(network, noise(), np.ones((6, 2), bool))
