from pathlib import Path

import numpy as np
import pytest
import torch

from derm_t2im.diffusion import base, pretrain
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
