"""Stage `finetune`: DreamBooth + LoRA on the seed images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from derm_t2im import manifest, networks, paths, runtime, state
from derm_t2im.diffusion import base, dreambooth, lora, prompts, sample
from derm_t2im.errors import UserError
from derm_t2im.fidelity.kid import kid_interval, unit
from derm_t2im.imaging.io import read_stack, write_png
from derm_t2im.params import load
from derm_t2im.params.finetune import Finetune
from derm_t2im.params.generate import Generate
from derm_t2im.progress import say, track

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import StableDiffusionPipeline

GRID = (4, 8)  # rows and columns of the sample grids


def run() -> None:
    """Write models/lora/ (weights, sample grids before and after) and metrics/finetune.json."""
    settings = load("finetune", Finetune)
    table = manifest.read(paths.SPLITS_MANIFEST)
    device = runtime.device()
    pipe = base.load(settings.base, device=device)
    size = base.image_size(pipe)
    seeds, val = table[table["seed_image"].fillna(False)], table[table["split"] == "val"]
    if seeds.empty:
        raise UserError("finetune: the split has no seed images; raise split.seed_images.")
    images = _images(seeds, size)
    inputs = [state.hash_tree(Path(settings.base)), state.hash_file(paths.SPLITS_MANIFEST)]
    code = state.hash_code(base, dreambooth, lora, prompts, sample)
    work = state.work_folder("finetune", state.fingerprint(settings, inputs, code))
    probe = networks.load(paths.PROBE)

    said = [prompts.compose(sample.said_of(row), settings.token) for row in seeds.itertuples()]
    cache = dreambooth.encode(pipe, images, said, settings.flips)
    val_images = _images(val, size)
    heldout = dreambooth.encode(
        pipe, val_images, [prompts.compose(sample.said_of(row), settings.token) for row in val.itertuples()], False
    )
    loss_before = dreambooth.heldout_loss(pipe, heldout, settings.seed)
    means = sample.noise_means(cache.latents[:, 0])
    before = _draw(pipe, seeds, means, settings, "", work / "before.npy")
    classes = sorted(seeds["label"].unique())
    known = dreambooth.prior(pipe, settings, classes) if settings.prior_weight > 0 else None
    history = dreambooth.train(pipe, cache, heldout, settings, work, before=known)

    tuned = base.load(settings.base, device=device)
    lora.merge(tuned, work / "lora", 1.0)
    after = _draw(tuned, seeds, means, settings, settings.token, work / "after.npy")
    metrics: dict[str, object] = {
        "seed_images": len(seeds),
        "steps": settings.steps,
        "trained_parameters": sum(
            p.numel() for part in (pipe.unet, pipe.text_encoder) for p in part.parameters() if p.requires_grad
        ),
        "heldout_loss_before": loss_before,
        "heldout_loss": dict(history.heldout)[history.kept],
        "kept_step": history.kept,
        "heldout_n": len(val),
        "losses": {"train": history.train, "heldout": history.heldout},
    }
    if settings.kid_samples:
        real = unit(probe.embed(val_images))
        others = table[(table["split"] == "train") & ~table["seed_image"].fillna(False)]
        floor = unit(probe.embed(_images(others.iloc[: settings.kid_samples], size))) if len(others) > 1 else None
        for name, drawn in (("kid_before", before), ("kid_after", after)):
            metrics |= kid_interval(unit(probe.embed(drawn)), real).keys(name)
        if floor is not None:
            metrics |= kid_interval(floor, real).keys("kid_floor")
    for name, drawn in (("before", before), ("after", after)):
        write_png(work / "lora" / f"{name}.png", _grid(drawn))
    state.write_json(paths.FINETUNE_METRICS, metrics)
    state.move_into_place(work / "lora", paths.LORA)
    state.discard(work)
    say(f"finetune: held-out loss {loss_before:.4f} -> {metrics['heldout_loss']:.4f}, {paths.LORA}")


def _images(rows: pd.DataFrame, size: int) -> np.ndarray:
    images = read_stack(rows["path"].tolist())
    if images.shape[1:3] != (size, size):
        raise UserError(
            f"The base model draws {size} px and the processed images have {images.shape[1]} px: "
            f"set preprocess.size to {size}, or choose another finetune.base."
        )
    return images


def _draw(
    pipe: StableDiffusionPipeline, seeds: pd.DataFrame, means: np.ndarray, settings: Finetune, token: str, keep: Path
) -> np.ndarray:
    """Images for the same prompts and seeds before and after (with the token); kept for a resumed run."""
    if keep.is_file():
        return np.load(keep)
    asked = Generate(images=max(settings.kid_samples, GRID[0] * GRID[1]), samplers=("euler_a",), seed=settings.seed)
    rows = sample.plan(asked, seeds, sorted(seeds["label"].unique()), token, means)
    parts = track(sample.batches(rows, 32), f"finetune: samples {keep.stem}")
    drawn = np.concatenate([sample.draw(pipe, part) for part in parts])
    partial = keep.with_suffix(".partial.npy")
    np.save(partial, drawn)
    partial.replace(keep)
    return drawn


def _grid(images: np.ndarray) -> np.ndarray:
    rows, columns = GRID
    return np.vstack([np.hstack(list(images[r * columns : (r + 1) * columns])) for r in range(rows)])
