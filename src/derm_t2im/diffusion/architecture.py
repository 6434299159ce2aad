"""Base models from nothing: Stable Diffusion's parts (Rombach et al. 2022) in any size.

Every part is a diffusers or transformers class built from its own configuration, so whatever
takes Stable Diffusion 1.5 takes these models too. The default sizes are those of the embedded base.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError, model_validator

from derm_t2im.diffusion import prompts
from derm_t2im.errors import UserError
from derm_t2im.params import Section, complaint, read_yaml

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer


class Sizes(Section):
    """How large each part is; the defaults are the embedded base, `mini`.

    The autoencoder halves the image once less than it has widths: three widths give latents of a quarter of the side,
    four of an eighth. ``unet_attention`` says at which levels of the U-Net the text is heard.
    """

    image: int = Field(64, ge=16, le=1024)  # side in pixels
    vae_widths: tuple[int, ...] = Field((16, 32, 64), min_length=2, max_length=5)
    vae_layers: int = Field(1, ge=1, le=4)
    # Few groups: group norm takes the mean out of each, and with it the colour of the whole image.
    vae_groups: int = Field(2, ge=1)
    latent_channels: int = Field(8, ge=1, le=64)
    unet_widths: tuple[int, ...] = Field((48, 96, 104), min_length=2, max_length=5)
    unet_attention: tuple[bool, ...] = (False, True, True)
    unet_layers: int = Field(1, ge=1, le=4)
    unet_groups: int = Field(8, ge=1)
    unet_heads: int = Field(4, ge=1)
    text_width: int = Field(128, ge=8)
    text_hidden: int = Field(256, ge=8)
    text_layers: int = Field(2, ge=1, le=48)
    text_heads: int = Field(4, ge=1)
    tokens: int = Field(32, ge=16, le=512)  # most tokens of a prompt

    @property
    def latent(self) -> int:
        """Side of the latents."""
        return self.image >> (len(self.vae_widths) - 1)

    @model_validator(mode="after")
    def _parts_fit(self) -> Sizes:
        step = 1 << (len(self.vae_widths) + len(self.unet_widths) - 2)
        if self.image % step:
            raise ValueError(
                f"image is {self.image}, but {len(self.vae_widths)} autoencoder and {len(self.unet_widths)} U-Net "
                f"levels can halve multiples of {step} only, such as {-(-self.image // step) * step}"
            )
        if len(self.unet_attention) != len(self.unet_widths):
            raise ValueError(
                f"unet_attention has {len(self.unet_attention)} entries for {len(self.unet_widths)} unet_widths"
            )
        if not any(self.unet_attention):
            raise ValueError("unet_attention is false at every level: no prompt would be heard")
        for name, widths, part, parts in (
            ("vae_widths", self.vae_widths, "vae_groups", self.vae_groups),
            ("unet_widths", self.unet_widths, "unet_groups", self.unet_groups),
            ("unet_widths", self.unet_widths, "unet_heads", self.unet_heads),
            ("text_width", (self.text_width,), "text_heads", self.text_heads),
        ):
            if odd := [width for width in widths if width < 1 or width % parts]:
                raise ValueError(f"{name}: {odd[0]} is no multiple of {part} ({parts})")
        return self


#: By name: the embedded base; 128 px for one GPU; the sizes of Stable Diffusion 1.5 at 512 px.
PRESETS: dict[str, Sizes] = {
    "mini": Sizes(),
    "small": Sizes(
        image=128, vae_widths=(32, 64, 128, 128), vae_groups=2, latent_channels=16,
        unet_widths=(96, 192, 256), unet_layers=2, text_width=256, text_hidden=512, text_layers=4,
    ),
    "sd15": Sizes(
        image=512, vae_widths=(128, 256, 512, 512), vae_layers=2, vae_groups=32, latent_channels=4,
        unet_widths=(320, 640, 1280, 1280), unet_attention=(True, True, True, False), unet_layers=2,
        unet_groups=32, unet_heads=8, text_width=768, text_hidden=3072, text_layers=12, text_heads=12, tokens=77,
    ),
}  # fmt: skip


def sizes(preset: str, file: Path | None = None) -> Sizes:
    """A preset, with the values in a YAML file put in the place of its own.

    Raises:
        UserError: for an unknown preset or value, or sizes that do not fit each other.
    """
    if preset not in PRESETS:
        raise UserError(f"--preset {preset!r} does not exist; allowed: {', '.join(PRESETS)}.")
    if file is None:
        return PRESETS[preset]
    if not file.is_file():
        raise UserError(f"--config {file}: there is no such file.")
    try:
        return Sizes.model_validate(PRESETS[preset].model_dump() | read_yaml(file))
    except ValidationError as error:
        raise UserError(f"--config {file}: {complaint(error, '', Sizes).removeprefix('params.yaml: ')}") from None


MINI = PRESETS["mini"]


def tokenizer(captions: Iterable[str] = (), longest: int = MINI.tokens) -> CLIPTokenizer:
    """A byte-pair tokenizer trained on our own prompts; other words fall back to pieces and letters.

    Args:
        captions: Further sentences with words to know whole.
        longest: Most tokens of a prompt.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2000, end_of_word_suffix="</w>", initial_alphabet=letters, show_progress=False
    )
    bpe.train_from_iterator([*prompts.corpus(), *captions], trainer)
    trained = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in trained["merges"]]
    # CLIP's order: letters, letters at a word's end, merges, the two special tokens.
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, table = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        table.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
        return CLIPTokenizer(vocab=str(vocabulary), merges=str(table), model_max_length=longest)


def text_encoder(words: CLIPTokenizer, size: Sizes = MINI) -> CLIPTextModel:
    """A CLIP text encoder with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=size.text_width,
            intermediate_size=size.text_hidden,
            projection_dim=size.text_width,
            num_hidden_layers=size.text_layers,
            num_attention_heads=size.text_heads,
            max_position_embeddings=size.tokens,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def autoencoder(size: Sizes = MINI) -> AutoencoderKL:
    """A KL autoencoder with random weights; by default from 64 x 64 x 3 to 16 x 16 x 8.

    A factor of four, not Stable Diffusion's eight: at 64 px it learns faster for its size
    (docs/base-model.md).
    """
    import torch
    from diffusers import AutoencoderKL

    levels = len(size.vae_widths)
    net = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=size.vae_widths,
        layers_per_block=size.vae_layers,
        latent_channels=size.latent_channels,
        norm_num_groups=size.vae_groups,
        sample_size=size.image,
    )
    _start_as_identity(net)
    # Start with little noise on the latents: at unit variance nothing is learned for long.
    with torch.no_grad():
        net.quant_conv.weight[size.latent_channels :] = 0
        net.quant_conv.bias[size.latent_channels :] = -6
    return net


def _start_as_identity(net: torch.nn.Module) -> None:
    """Start each residual branch at zero (Goyal et al. 2017; Dhariwal and Nichol 2021)."""
    import torch
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    for part in net.modules():
        last = {ResnetBlock2D: "conv2", Transformer2DModel: "proj_out"}.get(type(part))
        if last:
            torch.nn.init.zeros_(getattr(part, last).weight)
            torch.nn.init.zeros_(getattr(part, last).bias)


def unet(size: Sizes = MINI) -> UNet2DConditionModel:
    """A text-conditioned U-Net with random weights; by default on 16 x 16 x 8 latents."""
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel(
        sample_size=size.latent,
        in_channels=size.latent_channels,
        out_channels=size.latent_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if hears else "DownBlock2D" for hears in size.unet_attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if hears else "UpBlock2D" for hears in size.unet_attention[::-1]),
        mid_block_type="UNetMidBlock2DCrossAttn",
        block_out_channels=size.unet_widths,
        layers_per_block=size.unet_layers,
        cross_attention_dim=size.text_width,
        attention_head_dim=size.unet_heads,  # diffusers' name; it means the number of heads
        norm_num_groups=size.unet_groups,
    )
    _start_as_identity(net)
    return net


def scheduler_config() -> dict[str, object]:
    """Stable Diffusion 1.5's noise schedule."""
    return {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }


def pipeline(
    vae: AutoencoderKL, encoder: CLIPTextModel, words: CLIPTokenizer, net: UNet2DConditionModel
) -> StableDiffusionPipeline:
    """Put the parts together as a Stable Diffusion pipeline."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    known = {k: v for k, v in scheduler_config().items() if k != "clip_sample"}
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=words,
        unet=net,
        scheduler=PNDMScheduler(skip_prk_steps=True, **known),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
