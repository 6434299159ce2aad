"""Stage `finetune`: DreamBooth + LoRA on the seed images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from derm_t2im import distributed, manifest, networks, paths, runtime, state
from derm_t2im.diffusion import (
    adherence,
    base,
    dreambooth,
    kohya,
    lora,
    precompute,
    prompts,
    replay,
    sample,
    training_run,
    watch,
)
from derm_t2im.errors import UserError, enough_memory
from derm_t2im.fidelity.kid import kid_interval, unit
from derm_t2im.imaging import quality
from derm_t2im.imaging.io import read_stack, write_png
from derm_t2im.params import load
from derm_t2im.params.finetune import Finetune
from derm_t2im.params.generate import Generate
from derm_t2im.progress import say, track

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

GRID = (4, 8)  # rows and columns of the sample grids
WATCHED = 16  # images of a grid on the way
JUDGED = ("euler_a", "euler", "plms")  # samplers whose adherence is measured

MEMORY = (
    "finetune needs more than there is to encode or draw images; end what else uses it, or choose a smaller "
    "finetune.base; what is trained is kept and goes on with the same parameters."
)


def run() -> None:
    """Write models/lora/ (weights, sample grids before and after), plots/finetune/ and metrics/finetune.json."""
    settings = load("finetune", Finetune)
    table = manifest.read(paths.SPLITS_MANIFEST)
    seeds, val = table[table["seed_image"].fillna(False)], table[table["split"] == "val"]
    if seeds.empty:
        raise UserError("finetune: the split has no seed images; raise split.seed_images.")
    classes = sorted(table.loc[table["split"] == "train", "label"].unique())
    _refuse_gaps(settings, classes, seeds, val)
    device = runtime.device()
    runtime.check_precision("finetune.precision", settings.precision)
    pipe = base.load(settings.base, device=device)
    size = base.image_size(pipe)
    images, val_images = _images(seeds, size), _images(val, size)
    inputs = [base.sha256(settings.base), state.hash_file(paths.SPLITS_MANIFEST)]
    code = state.hash_code(base, dreambooth, kohya, lora, precompute, prompts, replay, sample, training_run, watch)
    # Gradient checkpointing changes no bit, so a run that ran out of memory goes on with it.
    result = settings.model_copy(update={"gradient_checkpointing": False})
    work = state.work_folder("finetune", state.fingerprint(result, inputs, code))
    probe = networks.load(paths.PROBE)
    together = distributed.group()
    log = watch.Log(work / "log") if together.first else None
    with enough_memory(lambda: MEMORY):
        cache = precompute.encode(pipe, images, _captions(seeds, settings), settings.flips)
        heldout = precompute.encode(pipe, val_images, _captions(val, settings), False)
        means = sample.noise_means(cache.latents[:, 0])
        if together.first:
            before = _draw(lambda label: pipe, seeds, means, settings, "", work / "before.npy")
        named = classes if settings.per_class else [""]
        parts = {
            label: (_of(seeds, label), cache.of(_of(seeds, label)), heldout.of(_of(val, label))) for label in named
        }
        loss_before = {label: dreambooth.heldout_loss(pipe, part[2], settings.seed) for label, part in parts.items()}
        learnt: dict[str, dict[str, Any]] = {}
        for label, (chosen, own, own_heldout) in parts.items():
            learner = base.load(settings.base, device=device) if label else pipe
            plan = _watched(seeds, means, settings, [label] if label else classes)
            learnt[label] = {
                "seed_images": int(chosen.sum()),
                "heldout_loss_before": loss_before[label],
                **_learn(learner, label, own, own_heldout, settings, plan, work, log),
            }
        if log is None:  # the first process does the rest
            return
        log.close()

        def tuned(label: str) -> StableDiffusionPipeline:
            fresh = base.load(settings.base, device=device)
            lora.merge(fresh, lora.folder_for(work / "lora", label, settings.per_class), 1.0)
            return fresh

        after = _draw(tuned, seeds, means, settings, settings.token, work / "after.npy")
        asked = Generate(
            images=len(JUDGED) * settings.adherence_samples or 1,
            samplers=JUDGED,
            attributes=precompute.EVENLY,
            seed=settings.seed,
        )
        if settings.adherence_samples:
            evenly = _draw(tuned, seeds, means, settings, settings.token, work / "evenly.npy", asked)
    metrics: dict[str, Any] = {"steps": settings.steps, **_together(learnt)}
    if settings.kid_samples:
        real = unit(probe.embed(val_images))
        others = table[(table["split"] == "train") & ~table["seed_image"].fillna(False)]
        floor = unit(probe.embed(_images(others.iloc[: settings.kid_samples], size))) if len(others) > 1 else None
        for name, drawn in (("kid_before", before), ("kid_after", after)):
            metrics |= kid_interval(unit(probe.embed(drawn)), real).keys(name)
        if floor is not None:
            metrics |= kid_interval(floor, real).keys("kid_floor")
    if settings.adherence_samples:
        rows = sample.plan(asked, seeds, sorted(seeds["label"].unique()), settings.token, means, settings.caption)
        metrics["adherence"] = _adherence(rows, evenly, probe)
    shown = _asked(seeds, settings, settings.token, means).iloc[: GRID[0] * GRID[1]]
    for name, drawn, token in (("before", before, "no token"), ("after", after, str(settings.token))):
        title = f"{name} fine-tuning, {token}, {shown['sampler'].iloc[0]}"
        write_png(work / "lora" / f"{name}.png", watch.sheet(drawn[: len(shown)], shown, title, GRID[1]))
    state.write_json(paths.FINETUNE_METRICS, metrics)
    state.move_into_place(work / "lora", paths.LORA)
    state.move_into_place(log.results, paths.FINETUNE_PLOTS)
    state.discard(work)
    losses = [metrics[name] for name in ("heldout_loss_before", "heldout_loss")]
    say(f"finetune: held-out loss {losses[0]:.4f} -> {losses[1]:.4f}, {paths.LORA}")


def _refuse_gaps(settings: Finetune, classes: list[str], seeds: pd.DataFrame, val: pd.DataFrame) -> None:
    """Every class has its token, and its images where it has a LoRA of its own."""
    for label in sorted({*classes, *seeds["label"], *val["label"]}):
        prompts.token_of(settings.token, label)
    for label in classes if settings.per_class else []:
        for what, rows, cure in (("seed", seeds, "split.seed_images"), ("held-out", val, "split.val")):
            if not (rows["label"] == label).any():
                raise UserError(
                    f"finetune.per_class: the class {label!r} has no {what} image; raise {cure}, or set it to false."
                )


def _learn(
    pipe: StableDiffusionPipeline,
    label: str,
    cache: precompute.Cache,
    heldout: precompute.Cache,
    settings: Finetune,
    plan: pd.DataFrame,
    work: Path,
    log: watch.Log | None,
) -> dict[str, Any]:
    """Fine-tune ``pipe`` for one class, or for all with no label; weights in ``work/lora``, returns their metrics."""
    folder = lora.class_folder(work / "classes", label) if label else work
    folder.mkdir(parents=True, exist_ok=True)
    show = watch.Samples(pipe, plan, folder / "samples", log, label) if log else None
    report = partial(log.figures, label) if log else None
    before = precompute.prior(pipe, settings, sorted(plan["label"].unique())) if settings.prior_weight > 0 else None
    history = dreambooth.train(pipe, cache, heldout, settings, folder, report, show, before)
    if label and log:
        state.move_into_place(folder / "lora", lora.class_folder(work / "lora", label))
    return {
        "trained_parameters": sum(
            p.numel() for part in (pipe.unet, pipe.text_encoder) for p in part.parameters() if p.requires_grad
        ),
        "heldout_loss": dict(history.heldout)[history.kept],
        "steps_done": len(history.train),
        "kept_step": history.kept,
        "heldout_n": len(heldout.latents),
    }


def _captions(rows: pd.DataFrame, settings: Finetune) -> list[str]:
    return [sample.caption(row, settings.token, settings.caption) for row in rows.itertuples()]


def _of(rows: pd.DataFrame, label: str) -> np.ndarray:
    """Mask of the rows of a class; of all for no label."""
    return np.full(len(rows), True) if not label else (rows["label"] == label).to_numpy(bool)


def _together(learnt: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Metrics of the one model, or of one for each class: sums, and losses as means over the held-out images."""
    if list(learnt) == [""]:
        return learnt[""]
    n = sum(own["heldout_n"] for own in learnt.values())
    return {
        **{name: sum(own[name] for own in learnt.values()) for name in ("seed_images", "trained_parameters")},
        **{
            name: sum(own[name] * own["heldout_n"] for own in learnt.values()) / n
            for name in ("heldout_loss_before", "heldout_loss")
        },
        "heldout_n": n,
        "classes": learnt,
    }


def _watched(seeds: pd.DataFrame, means: np.ndarray, settings: Finetune, classes: list[str]) -> pd.DataFrame:
    """The plan of the grids on the way; a row of the grid is one class where there are two."""
    asked = Generate(images=WATCHED, samplers=("euler_a",), seed=settings.seed)
    rows = sample.plan(asked, seeds, classes, settings.token, means, settings.caption)
    return rows.sort_values("label", kind="stable")


def _images(rows: pd.DataFrame, size: int) -> np.ndarray:
    images = read_stack(rows["path"].tolist())
    if images.shape[1:3] != (size, size):
        raise UserError(
            f"The base model draws {size} px and the processed images have {images.shape[1]} px: "
            f"set preprocess.size to {size}, or choose another finetune.base."
        )
    return images


def _draw(
    model: Callable[[str], StableDiffusionPipeline],
    seeds: pd.DataFrame,
    means: np.ndarray,
    settings: Finetune,
    token: str | dict[str, str],
    keep: Path,
    asked: Generate | None = None,
) -> np.ndarray:
    """Images for the same prompts and seeds before and after (with the token); kept for a resumed run.

    ``model`` gives the pipeline for a class, or for all with no label.
    """
    if state.whole(keep.parent, keep):
        return np.load(keep)
    rows = _asked(seeds, settings, token, means, asked)
    classes = sorted(seeds["label"].unique())
    drawn: dict[str, np.ndarray] = {}
    for label in classes if settings.per_class else [""]:
        pipe = model(label)
        parts = sample.batches(rows[_of(rows, label)], 32)
        for part in track(parts, f"finetune: samples {keep.stem}{label and ', ' + label}"):
            drawn |= zip(part["image_id"], sample.draw(pipe, part), strict=True)
    images = np.stack([drawn[name] for name in rows["image_id"]])
    unfinished = keep.with_suffix(".partial.npy")
    np.save(unfinished, images)
    unfinished.replace(keep)
    state.seal(keep.parent, keep)
    return images


def _asked(
    seeds: pd.DataFrame,
    settings: Finetune,
    token: str | dict[str, str],
    means: np.ndarray,
    asked: Generate | None = None,
) -> pd.DataFrame:
    """The plan of images to compare before and after, or of those that are asked for."""
    if asked is None:
        asked = Generate(images=max(settings.kid_samples, GRID[0] * GRID[1]), samplers=("euler_a",), seed=settings.seed)
    return sample.plan(asked, seeds, sorted(seeds["label"].unique()), token, means, settings.caption)


def _adherence(rows: pd.DataFrame, drawn: np.ndarray, probe: networks.Network) -> dict[str, object]:
    """Whether images show what was asked, each word equally often; of all and of each sampler."""
    made = rows.join(pd.DataFrame([quality.measure(image) for image in track(drawn, "finetune: measure")]))
    return adherence.measure(made, np.array(probe.classes)[probe.predict(drawn).argmax(1)])
