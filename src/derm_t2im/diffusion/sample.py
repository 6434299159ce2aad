"""Drawing images: plans, samplers, batches."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import seeds
from derm_t2im.diffusion import base, prompts
from derm_t2im.errors import UserError
from derm_t2im.vocabulary import COUNTS, SITES, SIZES, TONES, count_of, site_of, size_of

if TYPE_CHECKING:
    import pandas as pd
    import torch
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


def said_of(row: Any, keep: Sequence[str] = prompts.ATTRIBUTES) -> dict[str, str]:
    """The attributes that a prompt would say of a real image, from metadata and from what was measured on it.

    Those that are unknown, or not in ``keep``, are left out.
    """
    said = {"label": str(row.label)}
    for key, column, name in (("size", "lesion_area", size_of), ("count", "lesion_count", count_of)):
        value = getattr(row, column, None)
        if value is not None and value == value and value is not _missing():
            said[key] = name(value)
    for key, word in (("tone", str), ("site", site_of)):
        value = getattr(row, key, None)
        if isinstance(value, str) and word(value):
            said[key] = word(value)
    return {key: value for key, value in said.items() if key in keep}


def caption(row: Any, token: str | Mapping[str, str], keep: Sequence[str]) -> str:
    """What training says of a real image."""
    return prompts.compose(said_of(row, keep), prompts.token_of(token, str(row.label)))


def _missing() -> object:
    import pandas as pd

    return pd.NA


def noise_means(latents: torch.Tensor) -> np.ndarray:
    """Means of the first noise that lead to the mean colours of real images, float64 (n, channels).

    At the last step of Stable Diffusion's schedule an image's mean still shows through (Lin et al. 2023), and sampling
    maps the noise's mean, Gaussian with 1 / side, to the image's: this is that map backwards, a standard score each.
    ``latents`` (n, channels, side, side) are those of the images.
    """
    means = latents.double().mean((2, 3)).cpu().numpy()
    spread = means.std(axis=0)
    return (means - means.mean(axis=0)) / np.where(spread > 0, spread, np.inf) / latents.shape[-1]


def plan(
    settings: Generate,
    examples: pd.DataFrame,
    classes: Sequence[str],
    token: str | Mapping[str, str],
    means: np.ndarray | None = None,
    keep: Sequence[str] = prompts.ATTRIBUTES,
) -> pd.DataFrame:
    """Which images to draw: prompt, seed, sampler and noise of each, classes in turn.

    Args:
        settings: Section ``generate``.
        examples: Rows of real images, from which ``match`` draws attributes and ``matched`` colours.
        classes: Labels, each gets the same number of images.
        token: The fine-tuned identifier, or that of each class; empty for the base model as it is.
        means: :func:`noise_means` of the examples, (n, channels); without them ``matched`` is ``zero``.
        keep: What the captions of training say: ``match`` asks for nothing else.

    Raises:
        UserError: if a class has no token.
    """
    import pandas as pd

    rows = []
    labels, known = examples["label"].to_numpy(), [said_of(row) for row in examples.itertuples()]
    for i in range(settings.images):
        label = classes[i % len(classes)]
        name = f"synthetic-{i:06d}"
        rng = seeds.generator(settings.seed, "attributes", name)
        like = np.flatnonzero(labels == label)
        example = int(like[rng.integers(len(like))]) if len(like) else None
        like_it = known[example] if example is not None else {}
        said = _attributes(settings.attributes, {k: v for k, v in like_it.items() if k in keep}, rng)
        if settings.attributes.tone == "uniform":  # the colours of an example with that tone, best of that class
            toned = [k for k, other in enumerate(known) if other.get("tone") == said["tone"]]
            toned = [k for k in toned if labels[k] == label] or toned
            example = toned[int(rng.integers(len(toned)))] if toned else None
        rows.append(
            {
                "image_id": name,
                "kind": "synthetic",
                "label": label,
                "source": "generated",
                "prompt": prompts.compose(
                    {**({"label": label} if "label" in keep else {}), **said}, prompts.token_of(token, label)
                ),
                "negative_prompt": settings.negative_prompt,
                "attributes": json.dumps(said, sort_keys=True),
                # 32 bits, because that is what the web UI's seed box takes
                "seed": seeds.derive(settings.seed, "noise", name) % 2**32,
                "sampler": settings.samplers[i // len(classes) % len(settings.samplers)],
                "steps": settings.steps,
                "guidance": settings.guidance,
                "guidance_rescale": settings.guidance_rescale,
                "noise_mean": _noise_mean(settings, means, example),
            }
        )
    return pd.DataFrame(rows)


def _noise_mean(settings: Generate, means: np.ndarray | None, example: int | None) -> str:
    if settings.noise_mean == "free":
        return ""
    if settings.noise_mean == "zero" or means is None or example is None:
        return "[0.0]"
    # Rounded, so that the plan is the same on every machine.
    return json.dumps([round(float(m), 4) for m in settings.noise_mean_strength * means[example]])


def _attributes(wanted: Attributes, example: dict[str, str], rng: np.random.Generator) -> dict[str, str]:
    """The attributes of one prompt: as in the example, drawn evenly, or none."""
    said: dict[str, str] = {}
    for key, values in _VALUES.items():
        even = str(values[int(rng.integers(len(values)))])  # always drawn, so that one choice does not move another
        how = getattr(wanted, key)
        if how == "uniform":
            said[key] = even
        elif how == "match" and key in example:
            said[key] = example[key]
    return said


def scheduler(pipe: StableDiffusionPipeline, name: str) -> Any:
    """A diffusers scheduler with the noise schedule of the pipeline's own.

    Args:
        pipe: Gives the schedule, and which classes fit it.
        name: One of :data:`SAMPLERS`, or a scheduler class of diffusers, with or without ``Scheduler`` at its end.

    Raises:
        UserError: for a name that does not exist, or a scheduler that does not fit this model.
    """
    fitting = {kind.__name__: kind for kind in pipe.scheduler.compatibles}
    kind_name, options = SAMPLERS.get(name, (name if name.endswith("Scheduler") else f"{name}Scheduler", {}))
    if kind_name not in fitting:
        known = [*SAMPLERS, *sorted(kind.removesuffix("Scheduler") for kind in fitting)]
        near = difflib.get_close_matches(name, known, 1)
        meant = f"; did you mean {near[0]}?" if near else "."
        raise UserError(f"sampler {name!r} does not exist for this model{meant} Allowed: {', '.join(known)}.")
    try:
        made = fitting[kind_name].from_config(pipe.scheduler.config, **options)
        made.set_timesteps(4)
    except Exception as error:  # each scheduler says in its own way that it does not take these settings
        raise UserError(f"sampler {name!r} cannot be used: {' '.join(str(error).split())[:200]}") from error
    return made


def per_call(pipe: StableDiffusionPipeline, batch: int) -> int:
    """How many images are drawn in one call: ``batch`` on a GPU; on the CPU it follows from the model alone.

    Kernels round differently for other shapes. With one shape for all calls an image's bits do not depend on how many
    others are drawn, on which, or on the number of threads. 16 for 16 x 16 latents, where larger calls are no faster.
    """
    if pipe.device.type != "cpu":
        return batch
    return max(1, 16 * 16**2 // int(pipe.unet.config.sample_size) ** 2)


def draw(pipe: StableDiffusionPipeline, rows: pd.DataFrame, batch: int = 16) -> np.ndarray:
    """Draw rows of :func:`plan` that share everything but prompt, seed and noise.

    Noise comes from each row's own seed; ``noise_mean`` replaces the mean of each channel of the first. On the CPU the
    same row gives the same bits, whatever is drawn with it. On a GPU ``batch`` images are drawn in one call, and other
    companions may change the last bits.

    Returns:
        uint8 (n, size, size, 3).
    """
    first = rows.iloc[0]
    base.tokens(pipe, [*rows["prompt"], str(first["negative_prompt"])])  # too long a prompt is an error
    own = pipe.scheduler
    pipe.scheduler = scheduler(pipe, str(first["sampler"]))
    size = per_call(pipe, batch)
    drawn = []
    try:
        for start in range(0, len(rows), size):
            part = rows.iloc[start : start + size]
            if pipe.device.type == "cpu":  # filled up with its last row
                part = part.iloc[np.minimum(np.arange(size), len(part) - 1)]
            drawn.append(_draw(pipe, part)[: len(rows) - start])
    finally:
        pipe.scheduler = own
    return np.concatenate(drawn)


def _draw(pipe: StableDiffusionPipeline, rows: pd.DataFrame) -> np.ndarray:
    """One call of the pipeline."""
    import torch

    first = rows.iloc[0]
    chance = [torch.Generator("cpu").manual_seed(int(seed)) for seed in rows["seed"]]
    side = int(pipe.unet.config.sample_size)
    shape = (1, int(pipe.unet.config.in_channels), side, side)
    noises = []
    for each, wanted in zip(chance, rows["noise_mean"], strict=True):
        noise = torch.randn(shape, generator=each, dtype=pipe.unet.dtype)
        if wanted:
            noise += torch.tensor(json.loads(wanted), dtype=noise.dtype)[:, None, None] - noise.mean(
                (2, 3), keepdim=True
            )
        noises.append(noise)
    with torch.inference_mode():
        images = pipe(
            prompt=list(rows["prompt"]),
            negative_prompt=[str(first["negative_prompt"])] * len(rows),
            num_inference_steps=int(first["steps"]),
            guidance_scale=float(first["guidance"]),
            guidance_rescale=float(first["guidance_rescale"]),
            generator=chance,
            latents=torch.cat(noises).to(pipe.device),
            output_type="np",
        ).images
    return (images * 255).round().astype(np.uint8)


def batches(rows: pd.DataFrame, size: int) -> list[pd.DataFrame]:
    """Rows in batches of at most ``size`` that share a sampler."""
    return [
        part.iloc[i : i + size] for _, part in rows.groupby("sampler", sort=True) for i in range(0, len(part), size)
    ]
