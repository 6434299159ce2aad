import json
from pathlib import Path
from typing import Any

import pytest
import torch

from derm_t2im.diffusion import architecture, base, prompts
from derm_t2im.errors import UserError

MINI = Path(__file__).parents[2] / "models" / "base" / "mini"


def test_tokenizer_knows_the_words_of_our_prompts_whole() -> None:
    words = architecture.tokenizer()
    said = prompts.compose(
        {"label": "malignant", "size": "large", "count": "three", "tone": "dark", "site": "back"}, "sks"
    )
    assert [t.removesuffix("</w>") for t in words.tokenize(said)] == said.replace(",", " ,").split()
    for prompt in prompts.PAPER_PROMPTS:
        assert len(words.tokenize(prompt)) == len(prompt.split())


@pytest.mark.parametrize("text", ["Übung", "naïve 42!", "日本", ""])
def test_tokenizer_takes_any_text(text: str) -> None:
    ids = architecture.tokenizer()(text)["input_ids"]
    assert len(ids) >= 2


def test_embedded_base_is_small_and_complete() -> None:
    size = sum(file.stat().st_size for file in MINI.rglob("*") if file.is_file())
    assert size <= 12_000_000
    assert not [f for f in MINI.rglob("*") if f.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    pipe = base.load(str(MINI))
    assert base.image_size(pipe) == 64
    assert len(pipe.tokenizer) == len(architecture.tokenizer())


def test_missing_base_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder or file"):
        base.load(str(tmp_path / "nothing"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="pickled"):
        base.load(str(tmp_path))


def test_default_sizes_are_those_of_the_embedded_base() -> None:
    pipe = base.load(str(MINI))
    words = architecture.tokenizer()
    parts: dict[str, Any] = {
        "vae": architecture.autoencoder(),
        "unet": architecture.unet(),
        "text_encoder": architecture.text_encoder(words),
    }
    for name, made in parts.items():
        shipped = getattr(pipe, name)
        assert {k: v.shape for k, v in made.state_dict().items()} == {
            k: v.shape for k, v in shipped.state_dict().items()
        }
        config = json.loads((MINI / name / "config.json").read_text())
        said = json.loads(made.to_json_string() if name != "text_encoder" else made.config.to_json_string(False))
        apart = {key for key in config if config[key] != said.get(key)}
        assert apart <= {"_diffusers_version", "transformers_version", "architectures", "dtype", "scaling_factor"}
    assert words.get_vocab() == pipe.tokenizer.get_vocab()


@pytest.mark.parametrize("preset", architecture.PRESETS)
def test_presets_fit_together(preset: str) -> None:
    size = architecture.sizes(preset)
    words = architecture.tokenizer(longest=size.tokens)
    with torch.device("meta"):  # shapes without memory
        vae, net = architecture.autoencoder(size), architecture.unet(size)
        latents = vae.encode(torch.empty(1, 3, size.image, size.image)).latent_dist.mode()
        assert latents.shape == (1, size.latent_channels, size.latent, size.latent)
        assert vae.decode(latents).sample.shape == (1, 3, size.image, size.image)
        said = torch.empty(1, size.tokens, size.text_width)
        assert net(latents, torch.tensor([5]), said).sample.shape == latents.shape
        assert architecture.text_encoder(words, size).config.hidden_size == size.text_width
    if preset == "sd15":  # the published model's numbers of parameters
        assert sum(p.numel() for p in net.parameters()) == 859_520_964
        assert sum(p.numel() for p in vae.parameters()) == 83_653_863


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image: 72", "multiples of 16 only, such as 80"),
        ("unet_widths: [48, 96]", "unet_attention has 3 entries for 2 unet_widths"),
        ("unet_attention: [false, false, false]", "no prompt would be heard"),
        ("vae_widths: [15, 32, 64]", "15 is no multiple of vae_groups"),
        ("text_width: 130", "130 is no multiple of text_heads"),
        ("widths: [1]", "widths: no such parameter; allowed here: image, latent_channels"),
        ("image: large", "image: .*integer"),
        ("- 1", "must hold"),
        ("image: [", "no valid YAML|not valid YAML"),
    ],
)
def test_wrong_sizes_are_one_clear_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "sizes.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        architecture.sizes("mini", file)
    assert "\n" not in str(caught.value) and "sizes.yaml" in str(caught.value)


def test_missing_sizes_and_presets_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allowed: mini, small, sd15"):
        architecture.sizes("huge")
    with pytest.raises(UserError, match="no such file"):
        architecture.sizes("mini", tmp_path / "none.yaml")
