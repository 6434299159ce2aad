"""The embedded base model: Stable Diffusion's parts (Rombach et al. 2022), small enough for Git.

Every part is a diffusers or transformers class built from its own configuration, so whatever
takes Stable Diffusion 1.5 takes this model too.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from derm_t2im.diffusion import prompts

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

MAX_TOKENS = 32
LATENT_CHANNELS = 8


def tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer trained on our own prompts; other words fall back to pieces and letters."""
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
    bpe.train_from_iterator(prompts.corpus(), trainer)
    trained = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in trained["merges"]]
    # CLIP's order: letters, letters at a word's end, merges, the two special tokens.
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, table = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
        table.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
        return CLIPTokenizer(vocab=str(vocabulary), merges=str(table), model_max_length=MAX_TOKENS)


def text_encoder(words: CLIPTokenizer) -> CLIPTextModel:
    """A two-layer CLIP text encoder with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=128,
            intermediate_size=256,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def autoencoder() -> AutoencoderKL:
    """A KL autoencoder from 64 x 64 x 3 to 16 x 16 x 8, random weights.

    A factor of four, not Stable Diffusion's eight: at 64 px it learns faster for its size
    (docs/base-model.md).
    """
    import torch
    from diffusers import AutoencoderKL

    widths = (16, 32, 64)
    net = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        # Few groups: group norm takes the mean out of each, and with it the colour of the whole image.
        norm_num_groups=2,
        sample_size=64,
    )
    _start_as_identity(net)
    # Start with little noise on the latents: at unit variance nothing is learned for long.
    with torch.no_grad():
        net.quant_conv.weight[LATENT_CHANNELS:] = 0
        net.quant_conv.bias[LATENT_CHANNELS:] = -6
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


def unet() -> UNet2DConditionModel:
    """A text-conditioned U-Net on 16 x 16 x 8 latents, random weights."""
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        block_out_channels=(48, 96, 104),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=8,
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
