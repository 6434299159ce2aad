"""Loading the base model: any diffusers text-to-image pipeline of the Stable Diffusion 1 family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers import StableDiffusionPipeline

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def quiet() -> None:
    """Keep the progress bars and notices of diffusers and transformers off the terminal."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def load(base: str, precision: str = "fp32", device: str = "cpu") -> StableDiffusionPipeline:
    """Load a diffusers folder with safetensors weights.

    Args:
        base: The folder.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        device: A torch device.

    Raises:
        UserError: if it is missing, incomplete, or of another family than Stable Diffusion 1.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    folder = Path(base)
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"finetune.base: {base!r} is no diffusers folder (it has no model_index.json). "
            "The embedded base is models/base/mini; `derm-t2im base train` makes one."
        )
    if not list((folder / "unet").glob("*.safetensors")):
        raise UserError(f"finetune.base: {base}/unet has no safetensors weights; pickled weights are not loaded.")
    quiet()
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype=getattr(torch, PRECISIONS[precision]),
            use_safetensors=True,
            safety_checker=None,
            requires_safety_checker=False,
            local_files_only=True,
        )
    except Exception as error:  # diffusers raises many types for a broken folder
        raise UserError(f"finetune.base: {base!r} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        if getattr(pipe, part, None) is None:
            raise UserError(f"finetune.base: {base!r} has no {part}; it is no Stable Diffusion 1 pipeline.")
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def image_size(pipe: StableDiffusionPipeline) -> int:
    """Side of the images that a pipeline draws, in pixels."""
    return int(pipe.unet.config.sample_size) * int(pipe.vae_scale_factor)


def tokens(pipe: StableDiffusionPipeline, texts: Sequence[str]) -> torch.Tensor:
    """Token ids (n, longest), padded, on the pipeline's device.

    Raises:
        UserError: for a text that is longer than the text encoder takes; nothing is cut off unseen.
    """
    longest = pipe.tokenizer.model_max_length
    for text in dict.fromkeys(texts):
        length = len(pipe.tokenizer(text, truncation=False, verbose=False).input_ids)
        if length > longest:
            raise UserError(
                f"the prompt has {length} tokens and the text encoder takes {longest}: {text[:80]!r}...; "
                "shorten finetune.token or leave out attributes (generate.attributes)."
            )
    ids = pipe.tokenizer(list(texts), padding="max_length", max_length=longest, return_tensors="pt").input_ids
    return ids.to(pipe.device)


def latents(pipe: StableDiffusionPipeline, images: np.ndarray) -> torch.Tensor:
    """Scaled latents (n, channels, h, w) of uint8 images (n, size, size, 3), on the pipeline's device."""
    import torch

    with torch.inference_mode():
        x = torch.from_numpy(images).permute(0, 3, 1, 2).to(pipe.device, pipe.vae.dtype) / 127.5 - 1
        parts = [pipe.vae.encode(part).latent_dist.mode() for part in x.split(16)]
        return torch.cat(parts) * pipe.vae.config.scaling_factor
