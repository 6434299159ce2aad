"""A base in one file: the form in which Stable Diffusion 1 was first given out, and web UIs keep it.

Such a file holds weights and no configurations. Stable Diffusion 1 is one architecture, so sizes are read off the
weights' shapes and the rest is known; diffusers' `from_single_file` would ask the hub for it. What no file holds is the
tokenizer's vocabulary.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

UNET, TEXT, VAE = "model.diffusion_model.", "cond_stage_model.transformer.text_model.", "first_stage_model."
PARTS = {"U-Net": UNET + "input_blocks.0.", "text encoder": TEXT + "embeddings.", "autoencoder": VAE + "decoder."}
# Beginnings and parts of names that only one family has.
OTHERS = {
    "conditioner.embedders.": "Stable Diffusion XL",
    "joint_blocks.": "Stable Diffusion 3",
    "double_blocks.": "Flux",
    "cond_stage_model.model.": "Stable Diffusion 2",
    "control_model.": "a ControlNet",
    "lora_": "a LoRA (that is generate.lora)",
}
TOKENIZER = "openai/clip-vit-large-patch14"
TOKENIZER_REVISION = "32bd64288804d66eefd0ccbe215aa642df71cc41"
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def shapes(file: Path) -> dict[str, list[int]]:
    """Shape of every weight in a safetensors file, from its header.

    Raises:
        UserError: if it is no safetensors file, or cut short.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as opened:
            return {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"finetune.base: {str(file)!r} is no whole safetensors file ({error}); download it again. "
            "Pickled checkpoints (.ckpt) are not loaded."
        ) from None


def refuse_others(file: Path, found: dict[str, list[int]]) -> None:
    """Raise a UserError that names what a file is, if it is not Stable Diffusion 1."""
    said = f"finetune.base: {str(file)!r}"
    for mark, family in OTHERS.items():
        if any(name.startswith(mark) or f".{mark}" in name for name in found):
            raise UserError(f"{said} is {family}; only the Stable Diffusion 1 family is trained here.")
    absent = [part for part, prefix in PARTS.items() if not any(name.startswith(prefix) for name in found)]
    if absent:
        raise UserError(
            f"{said} is no complete Stable Diffusion 1 checkpoint: it has no {', no '.join(absent)}; "
            "give one that has all three, or a diffusers folder."
        )
    channels = found[UNET + "input_blocks.0.0.weight"][1]
    if channels != 4:
        kind = {9: "an inpainting model", 8: "an image-editing model"}.get(channels, "another model")
        raise UserError(
            f"{said} is {kind}: its U-Net has {channels} input channels, not 4; give the text-to-image checkpoint."
        )


def configurations(found: dict[str, list[int]]) -> dict[str, dict[str, Any]]:
    """Configurations of the U-Net, autoencoder and text encoder (Stable Diffusion 1.5's; sizes from the shapes)."""
    cross = "CrossAttn"
    layers = {name.split(".")[5] for name in found if name.startswith(TEXT + "encoder.layers.")}
    words, width = found[TEXT + "embeddings.token_embedding.weight"]
    return {
        "unet": {
            "_class_name": "UNet2DConditionModel",
            "sample_size": 64,
            "down_block_types": [*[f"{cross}DownBlock2D"] * 3, "DownBlock2D"],
            "up_block_types": ["UpBlock2D", *[f"{cross}UpBlock2D"] * 3],
            "block_out_channels": [found[f"{UNET}input_blocks.{i}.0.out_layers.3.weight"][0] for i in (1, 4, 7, 10)],
            "cross_attention_dim": found[UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"][1],
            "attention_head_dim": 8,
            "layers_per_block": 2,
        },
        "vae": {
            "_class_name": "AutoencoderKL",
            "sample_size": 512,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "block_out_channels": [found[f"{VAE}encoder.down.{i}.block.0.conv1.weight"][0] for i in range(4)],
            "layers_per_block": 2,
            "latent_channels": 4,
            "scaling_factor": 0.18215,
        },
        "text_encoder": {
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "vocab_size": words,
            "hidden_size": width,
            "projection_dim": width,
            "intermediate_size": found[TEXT + "encoder.layers.0.mlp.fc1.weight"][0],
            "num_hidden_layers": len(layers),
            "num_attention_heads": max(1, width // 64),
            "max_position_embeddings": found[TEXT + "embeddings.position_embedding.weight"][0],
            "hidden_act": "quick_gelu",
            "bos_token_id": words - 2,
            "eos_token_id": words - 1,
            "pad_token_id": words - 1,
        },
    }


def tokenizer(file: Path) -> CLIPTokenizer:
    """CLIP's tokenizer, from the folder ``tokenizer`` beside the file, or from the hub or its cache.

    Raises:
        UserError: that says what to download and where to put it.
    """
    from huggingface_hub import snapshot_download
    from transformers import CLIPTokenizer

    folder = file.parent / "tokenizer"
    try:
        if not folder.is_dir():
            wanted = list(TOKENIZER_FILES)
            folder = Path(snapshot_download(TOKENIZER, revision=TOKENIZER_REVISION, allow_patterns=wanted))
        missing = [name for name in TOKENIZER_FILES[:2] if not (folder / name).is_file()]
        if missing and not (folder / "tokenizer.json").is_file():
            raise FileNotFoundError(f"{folder} has no {', no '.join(missing)}")
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # no network, a proxy, an incomplete folder: one remedy
        raise UserError(
            f"finetune.base: {str(file)!r} holds no tokenizer and CLIP's could not be had "
            f"({type(error).__name__}); where there is a network, run `hf download {TOKENIZER} "
            f"{' '.join(TOKENIZER_FILES)} --local-dir tokenizer` and put that folder at {file.parent / 'tokenizer'}."
        ) from error


def load(file: Path, dtype: torch.dtype) -> StableDiffusionPipeline:
    """The pipeline in a checkpoint; the noise schedule and what is predicted (noise) are Stable Diffusion 1.5's.

    Raises:
        UserError: for another family, parts that are missing, or no tokenizer.
    """
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    found = shapes(file)
    refuse_others(file, found)
    try:
        described = configurations(found)
    except (KeyError, IndexError) as error:
        raise UserError(
            f"finetune.base: {str(file)!r} is no Stable Diffusion 1 checkpoint: it has no {error}."
        ) from None
    words = tokenizer(file)
    if len(words) != described["text_encoder"]["vocab_size"]:
        raise UserError(
            f"finetune.base: the text encoder of {str(file)!r} knows {described['text_encoder']['vocab_size']} tokens "
            f"and the tokenizer has {len(words)}; the folder {file.parent / 'tokenizer'} belongs to another model."
        )
    words.model_max_length = described["text_encoder"]["max_position_embeddings"]
    scheduler = PNDMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        index = {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "PNDMScheduler"],
        }
        Path(folder, "model_index.json").write_text(json.dumps(index))
        for part, values in described.items():
            Path(folder, part).mkdir()
            Path(folder, part, "config.json").write_text(json.dumps(values))
        return StableDiffusionPipeline.from_single_file(
            str(file),
            config=folder,
            tokenizer=words,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            dtype=dtype,
            local_files_only=True,
        )
