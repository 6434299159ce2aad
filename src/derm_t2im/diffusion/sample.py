"""Drawing images: plans, samplers, batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import seeds
from derm_t2im.diffusion import prompts
from derm_t2im.errors import UserError
from derm_t2im.vocabulary import COUNTS, SITES, SIZES, TONES, count_of, size_of

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import StableDiffusionPipeline

    from derm_t2im.params.generate import Attributes, Generate

#: Our name of a sampler -> (diffusers class, options).
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "ddim": ("DDIMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
}

_VALUES = {"size": tuple(SIZES), "count": tuple(COUNTS), "tone": tuple(TONES), "site": SITES}


def said_of(row: Any) -> dict[str, str]:
    """The attributes that a prompt would say of a real image, from what was measured on it."""
    said = {"label": str(row.label)}
    for key, column, name in (("size", "lesion_area", size_of), ("count", "lesion_count", count_of)):
        value = getattr(row, column, None)
        if value is not None and value == value and value is not _missing():
            said[key] = name(value)
    for key in ("tone", "site"):
        value = getattr(row, key, None)
        if isinstance(value, str) and value and (key != "site" or value in SITES):
            said[key] = value
    return said


def _missing() -> object:
    import pandas as pd

    return pd.NA


def plan(
    settings: Generate, train: pd.DataFrame, classes: Sequence[str], token: str, count: int | None = None
) -> pd.DataFrame:
    """Which images to draw: prompt, seed and sampler of each, classes in turn.

    Args:
        settings: Section ``generate``.
        train: Rows of the real training images, from which ``match`` draws attributes.
        classes: Labels, each gets the same number of images.
        token: The fine-tuned identifier; empty for the base model as it is.
        count: Number of images instead of ``settings.images``.
    """
    import pandas as pd

    rows = []
    for i in range(settings.images if count is None else count):
        label = classes[i % len(classes)]
        name = f"synthetic-{i:06d}"
        rng = seeds.generator(settings.seed, "attributes", name)
        like = train[train["label"] == label]
        said = attributes(settings.attributes, like, rng)
        rows.append(
            {
                "image_id": name,
                "kind": "synthetic",
                "label": label,
                "source": "generated",
                "prompt": prompts.compose({"label": label, **said}, token),
                "negative_prompt": settings.negative_prompt,
                "attributes": json.dumps(said, sort_keys=True),
                # 32 bits, because that is what the web UI's seed box takes
                "seed": seeds.derive(settings.seed, "noise", name) % 2**32,
                "sampler": settings.samplers[i // len(classes) % len(settings.samplers)],
                "steps": settings.steps,
                "guidance": settings.guidance,
                "guidance_rescale": settings.guidance_rescale,
                "centred_noise": settings.centred_noise,
            }
        )
    return pd.DataFrame(rows)


def attributes(wanted: Attributes, like: pd.DataFrame, rng: np.random.Generator) -> dict[str, str]:
    """Draw the attributes of one prompt: as in a random row of ``like``, evenly, or none."""
    said: dict[str, str] = {}
    example = said_of(next(like.iloc[[int(rng.integers(len(like)))]].itertuples())) if len(like) else {}
    for key, values in _VALUES.items():
        even = str(values[int(rng.integers(len(values)))])  # always drawn, so that one choice does not move another
        how = getattr(wanted, key)
        if how == "uniform":
            said[key] = even
        elif how == "match" and key in example:
            said[key] = example[key]
    return said


def set_sampler(pipe: StableDiffusionPipeline, name: str) -> None:
    """Give the pipeline another sampler, keeping its noise schedule.

    Raises:
        UserError: for a sampler that is not in :data:`SAMPLERS`.
    """
    import diffusers

    if name not in SAMPLERS:
        raise UserError(f"sampler {name!r} does not exist; allowed: {', '.join(SAMPLERS)}.")
    kind, options = SAMPLERS[name]
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, **options)


def add_lora(pipe: StableDiffusionPipeline, folder: Path, beta: float) -> None:
    """Merge a LoRA into the U-Net: W = W0 + beta dW.

    Raises:
        UserError: if it was trained for another architecture.
    """
    try:
        pipe.load_lora_weights(folder, local_files_only=True)
        pipe.fuse_lora(lora_scale=beta)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{folder} does not fit this base model: {' '.join(str(error).split())[:200]}") from None
    pipe.unload_lora_weights()


def draw(pipe: StableDiffusionPipeline, rows: pd.DataFrame) -> np.ndarray:
    """Draw one batch of :func:`plan`; all rows share everything but prompt and seed.

    Noise comes from each row's own seed. On the CPU the same rows give the same bits. ``centred_noise`` takes the mean
    out of each channel of the first noise: at the last step of Stable Diffusion's schedule the image's mean still shows
    through (Lin et al. 2023); a model on small latents reads the skin tone from there, pure noise tells a wrong one.

    Returns:
        uint8 (n, size, size, 3).
    """
    import torch

    first = rows.iloc[0]
    set_sampler(pipe, str(first["sampler"]))
    chance = [torch.Generator("cpu").manual_seed(int(seed)) for seed in rows["seed"]]
    noise = None
    if bool(first["centred_noise"]):
        side = int(pipe.unet.config.sample_size)
        shape = (1, int(pipe.unet.config.in_channels), side, side)
        noise = torch.cat([torch.randn(shape, generator=each, dtype=pipe.unet.dtype) for each in chance])
        noise = (noise - noise.mean((2, 3), keepdim=True)).to(pipe.device)
    with torch.inference_mode():
        images = pipe(
            prompt=list(rows["prompt"]),
            negative_prompt=[str(first["negative_prompt"])] * len(rows),
            num_inference_steps=int(first["steps"]),
            guidance_scale=float(first["guidance"]),
            guidance_rescale=float(first["guidance_rescale"]),
            generator=chance,
            latents=noise,
            output_type="np",
        ).images
    return (images * 255).round().astype(np.uint8)


def batches(rows: pd.DataFrame, size: int) -> list[pd.DataFrame]:
    """Rows in batches of at most ``size`` that share a sampler; the same rows give the same batches."""
    return [
        part.iloc[i : i + size] for _, part in rows.groupby("sampler", sort=True) for i in range(0, len(part), size)
    ]
