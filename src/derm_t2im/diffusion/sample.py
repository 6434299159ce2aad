"""Drawing images: plans, samplers, batches."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import seeds
from derm_t2im.diffusion import base, prompts
from derm_t2im.errors import UserError
from derm_t2im.params import generate
from derm_t2im.vocabulary import COUNTS, SITES, SIZES, TONES, count_of, site_of, size_of

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from diffusers import StableDiffusionPipeline

    from derm_t2im.params.generate import Attributes, Generate

#: Rows that the CPU computes at once, always: see :func:`stream`. Measured: benchmarks/sampling.py.
CHUNK = 8
#: Prompts whose embeddings are kept.
REMEMBERED = 512

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
        said = attributes(settings.attributes, {k: v for k, v in like_it.items() if k in keep}, rng)
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


def attributes(wanted: Attributes, example: Mapping[str, str], rng: np.random.Generator) -> dict[str, str]:
    """The attributes that one prompt says: as in the example, drawn evenly, or none."""
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
    """A new scheduler of that name with the noise schedule of the pipeline.

    Raises:
        UserError: for a sampler that does not exist, does not fit, or needs a package that is not there.
    """
    import diffusers

    try:
        name = generate.sampler(name)
    except ValueError as error:
        raise UserError(f"sampler: {error}.") from None
    kind = f"{generate.SHORT.get(name, name)}Scheduler"
    # Latents lie beyond -1 and 1, where some schedulers cut off unless told not to; a base need not say so.
    config = {**pipe.scheduler.config, "clip_sample": False}
    try:
        return getattr(diffusers, kind).from_config(config, **({"skip_prk_steps": True} if name == "plms" else {}))
    except (AttributeError, ImportError, NotImplementedError, TypeError, ValueError) as error:
        raise UserError(
            f"sampler {name!r} does not take this base model's noise schedule: {' '.join(str(error).split())[:200]}"
        ) from None


def prepare(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """Lay the weights out as this device computes fastest: channels last on a GPU."""
    import torch

    if pipe.device.type == "cuda":
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    return pipe


def draw(pipe: StableDiffusionPipeline, rows: pd.DataFrame, batch: int = 32) -> np.ndarray:
    """All images of some rows of :func:`plan`, in their order: uint8 (n, size, size, 3); else as :func:`stream`."""
    at = {name: i for i, name in enumerate(rows["image_id"])}
    size = base.image_size(pipe)
    out = np.empty((len(rows), size, size, 3), np.uint8)
    for part, images in stream(pipe, rows, batch):
        out[[at[name] for name in part["image_id"]]] = images
    return out


def stream(
    pipe: StableDiffusionPipeline, rows: pd.DataFrame, batch: int = 32
) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Draw rows of :func:`plan`, part by part, in an order of its own.

    Noise comes from each row's own seed; ``noise_mean`` replaces the mean of each channel of the first.

    On the CPU an image is the same bits whatever the other rows, their order, ``batch`` and the number of threads:
    kernels choose how to add numbers up by the shape and the number of threads, so each call computes :data:`CHUNK`
    rows (the last one filled up with copies) on one thread, and several chunks run beside each other. A GPU computes
    ``batch`` rows at once; there other batches may round the last bits another way.

    Args:
        pipe: The pipeline; it is not changed.
        rows: Rows of :func:`plan`.
        batch: At most so many rows at a time (on the CPU at least one chunk).

    Yields:
        Rows, and their images, uint8 (n, size, size, 3).

    Raises:
        UserError: for a prompt that is too long, a sampler that does not fit, and images that are not finite.
    """
    import torch

    remembered = _embedding(pipe)
    base.tokens(pipe, [*rows["prompt"].unique(), *rows["negative_prompt"].unique()])  # too long a prompt is an error
    for name in rows["sampler"].unique():
        scheduler(pipe, str(name))
    if pipe.device.type != "cpu":
        for part in batches(rows, batch):
            yield part, _chunk(pipe, part, remembered, len(part))
        return
    threads = torch.get_num_threads()
    parts = batches(rows, CHUNK)
    beside = max(1, min(threads, batch // CHUNK, len(parts)))
    pool = ThreadPoolExecutor(beside, "draw", initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[tuple[pd.DataFrame, Future[np.ndarray]]] = deque()
    try:
        for part in parts:
            if len(waiting) == beside:
                done, future = waiting.popleft()
                images = future.result()
                waiting.append((part, pool.submit(_chunk, pipe, part, remembered, CHUNK)))
                yield done, images
            else:
                waiting.append((part, pool.submit(_chunk, pipe, part, remembered, CHUNK)))
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _embedding(pipe: StableDiffusionPipeline) -> Callable[[str], torch.Tensor]:
    """Embeddings (1, tokens, d) of texts, each computed once, by one thread at a time: a tokenizer has a state."""
    import torch

    alone = Lock()

    @lru_cache(REMEMBERED)
    def embed(text: str) -> torch.Tensor:
        with torch.inference_mode():
            return pipe.encode_prompt([text], pipe.device, 1, False)[0]

    def embed_alone(text: str) -> torch.Tensor:
        with alone:
            return embed(text)

    return embed_alone


def _chunk(
    pipe: StableDiffusionPipeline, rows: pd.DataFrame, embed: Callable[[str], torch.Tensor], length: int
) -> np.ndarray:
    """Images of at most ``length`` rows that share all but prompt and seed, computed as ``length`` rows."""
    import torch

    first = rows.iloc[0]
    name, guidance, number = str(first["sampler"]), float(first["guidance"]), len(rows)
    rows = rows.iloc[[*range(number), *[0] * (length - number)]]
    chance = [torch.Generator("cpu").manual_seed(int(seed)) for seed in rows["seed"]]
    own = copy(pipe)  # the same weights, a scheduler of its own: it counts steps
    own.scheduler = scheduler(pipe, name)
    words = torch.cat([embed(text) for text in rows["prompt"]])
    # As diffusers has it, guidance of up to 1 is none: one pass without the negative prompt.
    against = embed(str(first["negative_prompt"])).expand_as(words) if guidance > 1 else None
    with torch.inference_mode():
        try:
            latents = own(
                prompt_embeds=words,
                negative_prompt_embeds=against,
                num_inference_steps=int(first["steps"]),
                guidance_scale=guidance,
                guidance_rescale=float(first["guidance_rescale"]),
                generator=chance,
                latents=_first_noise(pipe, rows, chance).to(pipe.device),
                output_type="latent",
            ).images
        except (IndexError, ValueError, NotImplementedError) as error:  # such as more steps than the schedule has
            raise UserError(
                f"sampler {name!r} cannot draw with generate.steps {first['steps']}: "
                f"{' '.join(str(error).split())[:200]}; choose another sampler or number of steps."
            ) from error
        if not bool(latents.isfinite().all()):
            raise UserError(
                f"sampler {name!r} with generate.steps {first['steps']} and generate.guidance {guidance:g} gave images "
                "that are not finite: choose another sampler, less guidance, or generate.precision fp32 or bf16."
            )
        # In pieces: a decoder needs far more memory for an image than the U-Net does.
        decoded = [pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample for z in latents.split(CHUNK)]
        images = torch.cat([(x / 2 + 0.5).clamp(0, 1).float().cpu() for x in decoded])[:number]
    return (images.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)


def _first_noise(pipe: StableDiffusionPipeline, rows: pd.DataFrame, chance: list[torch.Generator]) -> torch.Tensor:
    import torch

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
    return torch.cat(noises)


def batches(rows: pd.DataFrame, size: int) -> list[pd.DataFrame]:
    """Rows in batches of at most ``size`` that share all settings but prompt, seed and noise."""
    shared = ["sampler", "steps", "guidance", "guidance_rescale", "negative_prompt"]
    return [part.iloc[i : i + size] for _, part in rows.groupby(shared, sort=True) for i in range(0, len(part), size)]
