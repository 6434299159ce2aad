from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from derm_t2im import progress
from derm_t2im.diffusion import architecture, base, pretrain
from derm_t2im.errors import UserError
from derm_t2im.sources import broad


@pytest.fixture(scope="module")
def collection() -> tuple[np.ndarray, list[str]]:
    images, said = broad.collection(48, 0)
    return images, [pretrain.caption(words) for words in said]


def weights(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))}


def test_a_base_model_is_trained_saved_and_loads(collection: tuple[np.ndarray, list[str]], tmp_path: Path) -> None:
    images, captions = collection
    recipe = pretrain.Recipe(vae_steps=2, vae_batch=4, unet_steps=2, unet_batch=4)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pretrain.train(images, captions, recipe, tmp_path / name)
    made = weights(tmp_path / "a" / "pipeline")
    assert set(made) == {
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    assert made == weights(tmp_path / "b" / "pipeline")
    (tmp_path / "c").mkdir()
    again = pretrain.train(images, captions, recipe, tmp_path / "c", autoencoder=tmp_path / "a" / "pipeline")
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert weights(again)[vae] == made[vae], "a given autoencoder is taken as it is"
    pipe = base.load(str(tmp_path / "a" / "pipeline"))
    drawn = pipe("a dermoscopic image of a lesion", num_inference_steps=2, output_type="np",
                 generator=torch.Generator().manual_seed(0)).images  # fmt: skip
    assert drawn.shape == (1, 64, 64, 3)
    # latents are scaled to unit variance, as the noise schedule expects
    with torch.inference_mode():
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        z = pipe.vae.encode(x).latent_dist.mode() * pipe.vae.config.scaling_factor
    assert z.std().item() == pytest.approx(1, abs=0.1)


def test_captions_say_what_is_in_the_picture(collection: tuple[np.ndarray, list[str]]) -> None:
    _, captions = collection
    assert all(caption.startswith("a dermoscopic image of ") for caption in captions)
    assert any("hair" in caption for caption in captions) and any("skin" in caption for caption in captions)


TINY = architecture.Sizes(
    image=16, vae_widths=(8, 16), latent_channels=4, unet_widths=(16, 32), unet_attention=(False, True),
    text_width=32, text_hidden=32, text_layers=1,
)  # fmt: skip


@pytest.mark.parametrize("phase", ["base: vae", "base: unet"])
def test_a_killed_training_ends_where_an_uninterrupted_one_does(
    phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 16, 16, 3), np.uint8)
    captions = [(f"a lesion, {i}", "a lesion") for i in range(20)]
    recipe = pretrain.Recipe(5, 4, 5, 4, views=8, checkpoint_every=2)
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = pretrain.train(images, captions, recipe, tmp_path / "whole", sizes=TINY)
    track = progress.track

    def killed(items: Iterable[Any], what: str, total: int | None = None) -> Iterator[Any]:
        for done, item in enumerate(track(items, what, total)):
            if what == phase and done == 3:
                raise KeyboardInterrupt
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(progress, "track", killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain.train(images, captions, recipe, tmp_path / "cut", sizes=TINY)
    torch.manual_seed(99)
    again = pretrain.train(images, captions, recipe, tmp_path / "cut", sizes=TINY)
    assert weights(again) == weights(whole)


def test_what_cannot_be_trained_is_one_clear_line(tmp_path: Path) -> None:
    images, captions = np.zeros((8, 16, 16, 3), np.uint8), ["a lesion"] * 8
    recipe = pretrain.Recipe(2, 4, 2, 4)
    with pytest.raises(UserError, match="16 x 16 pixels, the model 64 x 64"):
        pretrain.train(images, captions, recipe, tmp_path)
    with pytest.raises(UserError, match="has 65 tokens and the text encoder takes 32"):
        pretrain.train(images, ["mole " * 63, *captions[1:]], recipe, tmp_path, sizes=TINY)
    with pytest.raises(UserError, match="loss of vae is nan at step 2: lower the learning rates"):
        broken = pretrain.Recipe(3, 4, 2, 4, matrix_lr=float("inf"))
        pretrain.train(images, captions, broken, tmp_path, sizes=TINY)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "vae.partial").mkdir()
    with pytest.raises(UserError, match=r"cannot be written .*: make room"):
        pretrain.train(images, captions, recipe, tmp_path / "full", sizes=TINY)
