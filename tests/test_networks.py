"""Networks: built, saved and loaded; plain arrays in and out; clear errors."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from derm_t2im import networks
from derm_t2im.errors import UserError

SMALL = {
    "mobilenetv2_050": {"depth_multiplier": 0.3},
    "vit_tiny_patch16_224": {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3},
    "resnet10t": {"channels": [16, 24, 32, 48], "stem_width": 8},
}
CLASSES = ("benign", "malignant")
IMAGES = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)


def build(name="resnet10t", classes=CLASSES, size=32, **kwargs):
    return networks.build(name, SMALL[name], classes, size, **kwargs)


@pytest.mark.parametrize("name", SMALL)
def test_predictions_survive_saving_and_loading(name, tmp_path):
    network = build(name)
    networks.save(network, tmp_path / "net")
    again = networks.load(tmp_path / "net")
    assert again.classes == CLASSES
    assert again.size == 32
    assert again.config == network.config
    p = network.predict(IMAGES, batch=4)
    assert p.dtype == np.float32
    assert p.shape == (9, 2)
    assert p.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(again.predict(IMAGES, batch=4), p)
    features = network.embed(IMAGES)
    assert features.dtype == np.float32
    assert features.shape[0] == 9
    assert features.std() > 0


@pytest.mark.parametrize("name", SMALL)
def test_the_classifier_on_the_embedding_gives_the_logits(name):
    network = build(name)
    head = network.module.get_classifier()
    expected = head(torch.from_numpy(network.embed(IMAGES))).detach().numpy()
    assert network.logits(IMAGES) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_a_random_start_is_undecided(name):
    assert build(name).predict(IMAGES) == pytest.approx(0.5, abs=0.2)


def test_the_seed_decides_the_weights_and_leaves_the_global_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    a, b, c = (build(seed=s).logits(IMAGES) for s in (1, 1, 2))
    assert torch.rand(1) == expected
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_batches_and_empty_input():
    network = build()
    assert network.predict(IMAGES, batch=2) == pytest.approx(network.predict(IMAGES, batch=9), abs=1e-6)
    assert network.predict(IMAGES[:0]).shape == (0, 2)


def test_predicting_leaves_training_mode_as_it_was():
    network = build()
    network.module.train()
    before = network.module.state_dict()["bn1.running_mean"].clone()
    network.predict(IMAGES)
    assert network.module.training
    assert torch.equal(network.module.state_dict()["bn1.running_mean"], before)


def test_normalisation_is_that_of_the_model_or_of_the_options():
    grey = torch.full((1, 32, 32, 3), 255 * 0.5)
    own = build()
    assert own.mean == (0.485, 0.456, 0.406)
    assert own.prepare(grey)[0, :, 0, 0].numpy() == pytest.approx(
        (0.5 - np.array(own.mean)) / np.array(own.std), abs=1e-5
    )
    options = SMALL["resnet10t"] | {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    centred = networks.build("resnet10t", options, CLASSES, 32)
    assert centred.prepare(grey).abs().max() < 1e-6


def test_other_sizes_are_resized():
    network = build()
    large = IMAGES.repeat(2, axis=1).repeat(2, axis=2)
    assert network.predict(large) == pytest.approx(network.predict(IMAGES), abs=0.05)


@pytest.mark.parametrize(
    "images", [IMAGES.astype(np.float32), IMAGES[0], IMAGES[..., :1]], ids=["float", "one image", "grey"]
)
def test_other_arrays_are_refused(images):
    with pytest.raises(ValueError, match="uint8"):
        build().predict(images)


def test_weights_of_another_width_keep_the_body_and_start_a_new_head(tmp_path):
    seven = build(classes=tuple("abcdefg"), seed=1)
    save_file(seven.module.state_dict(), tmp_path / "seven.safetensors")
    two = build(weights=str(tmp_path / "seven.safetensors"), seed=2)
    assert np.array_equal(two.embed(IMAGES), seven.embed(IMAGES))
    assert np.array_equal(
        build(classes=tuple("hijklmn"), weights=str(tmp_path / "seven.safetensors"), seed=3).logits(IMAGES),
        seven.logits(IMAGES),
    )


def test_a_vit_takes_weights_of_another_input_size_and_another_head(tmp_path):
    small = build("vit_tiny_patch16_224", classes=tuple("abc"), size=32, seed=1)
    save_file(small.module.state_dict(), tmp_path / "small.safetensors")
    large = build("vit_tiny_patch16_224", size=64, weights=str(tmp_path / "small.safetensors"), seed=2)
    assert torch.equal(large.module.state_dict()["blocks.0.mlp.fc1.weight"], small.module.blocks[0].mlp.fc1.weight)
    assert large.module.state_dict()["pos_embed"].shape[1] == 64 + 1  # of 16 + 1
    assert large.predict(IMAGES) == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mobilenetv2_05", {}, "nearest: .*mobilenetv2_050"),
        ("mobilenetv2_050.none_such", {}, "no such weights of mobilenetv2_050; it has: .*mobilenetv2_050.lamb_in1k"),
        ("resnet10t", {"chanels": [8]}, "chanels"),
        ("resnet10t", {"num_classes": 3}, "num_classes"),
        ("resnet10t", {"mean": 0.5}, "three numbers"),
    ],
)
def test_a_wrong_model_is_explained(name, options, message):
    with pytest.raises(UserError, match=message):
        networks.build(name, options, CLASSES, 32)


def test_a_size_that_a_model_cannot_take_is_explained():
    with pytest.raises(UserError, match=r"vgg11 cannot take images of 8 px .* give it another size"):
        networks.build("vgg11", {"mlp_ratio": 0.01}, CLASSES, 8)


def test_wrong_weights_are_explained(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        build(weights=str(tmp_path / "none.safetensors"))
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="not a safetensors file"):
        build(weights=str(tmp_path / "bad.safetensors"))
    save_file({"other": torch.zeros(3)}, tmp_path / "other.safetensors")
    wide = {name: torch.cat([value, value]) for name, value in build().module.state_dict().items() if value.ndim}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"of another shape .* of a model of another size\?"):
        build(weights=str(tmp_path / "wide.safetensors"))
    with pytest.raises(UserError, match="do not fit"):
        build(weights=str(tmp_path / "other.safetensors"))


def test_pretrained_without_a_network_is_explained_at_once(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="cannot be reached"):
        networks.build("mobilenetv2_050", {}, CLASSES, 32, weights="pretrained")


def test_broken_folders_are_explained(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        networks.load(tmp_path)
    networks.save(build(), tmp_path / "net")
    (tmp_path / "net" / "config.json").write_text('{"timm": "resnet10t"}')
    with pytest.raises(UserError, match="does not describe"):
        networks.load(tmp_path / "net")


def test_saving_replaces_the_whole_folder_with_the_same_bytes(tmp_path):
    folder = tmp_path / "net"
    networks.save(build(), folder)
    first = (folder / "model.safetensors").read_bytes()
    (folder / "stale").touch()
    networks.save(build(), folder)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["config.json", "model.safetensors", "net"]
    assert (folder / "model.safetensors").read_bytes() == first
    assert load_file(folder / "model.safetensors").keys() == build().module.state_dict().keys()


@pytest.mark.real
def test_the_imagenet_weights_at_hand_load_by_options():
    data = Path(os.environ.get("DERM_T2IM_DATA", "../shared/data"))
    weights = data.parent / "weights" / "mobilenetv2_100_imagenet.safetensors"
    if not weights.is_file():
        pytest.skip(f"{weights} is not here")
    options = {"pad_type": "same", "mean": [0.5] * 3, "std": [0.5] * 3}
    network = networks.build("mobilenetv2_100", options, CLASSES, 96, str(weights))
    stored = load_file(weights)
    assert torch.equal(network.module.state_dict()["conv_stem.weight"], stored["conv_stem.weight"])
    assert network.predict(IMAGES).shape == (9, 2)
