"""Stage `generate`: draw synthetic lesions, each with its settings, and measure what was asked for."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from derm_t2im import distributed, manifest, networks, paths, quarantine, runtime, state
from derm_t2im.diffusion import adherence, base, kohya, lora, png, prompts, sample
from derm_t2im.errors import UserError, enough_memory
from derm_t2im.imaging import hashing, io, pool, quality
from derm_t2im.imaging.io import read_rgb, read_stack, write_png
from derm_t2im.params import load
from derm_t2im.params.finetune import Finetune
from derm_t2im.params.generate import Generate
from derm_t2im.progress import say, track
from derm_t2im.sources import synthetic

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

MEMORY = (
    "generate needs more than there is to draw {batch} images at a time; lower generate.batch, or set "
    "generate.precision to bf16."
)


def run() -> None:
    """Write data/synthetic/ (PNG images, manifest) and metrics/generate.json."""
    settings, tuned = load("generate", Generate), load("finetune", Finetune)
    table = manifest.read(paths.SPLITS_MANIFEST)
    train = table[table["split"] == "train"]
    classes = sorted(train["label"].unique())
    if settings.images_from:
        _take(settings, tuned, classes)
        return
    own = Path(settings.lora) if settings.lora else None
    if own is not None and not own.exists():
        raise UserError(
            f"generate.lora: {settings.lora!r} does not exist; give a .safetensors file, or leave it empty."
        )
    base_hash, lora_hash = base.sha256(tuned.base), state.hash_tree(own or paths.LORA)
    seeds = train[train["seed_image"].fillna(False)]
    pipe = _pipeline(settings, tuned, classes[0])
    means = None
    if settings.noise_mean == "matched":
        means = sample.noise_means(base.latents(pipe, read_stack(seeds["path"].tolist())))
    rows = sample.plan(settings, seeds, classes, tuned.token, means, tuned.caption)
    rows = rows.assign(base_sha256=base_hash, lora_sha256=lora_hash)
    code = state.hash_code(base, kohya, lora, prompts, png, sample)
    inputs = [base_hash, lora_hash, state.hash_file(paths.SPLITS_MANIFEST), *code]
    # On the CPU the batch changes no image, so what is drawn with one goes on with another.
    asked = settings.model_copy(update={"batch": 0}) if pipe.device.type == "cpu" else settings
    work = state.work_folder("generate", state.fingerprint(asked, tuned.base, tuned.token, tuned.caption, inputs))
    images = work / "out" / "images"
    images.mkdir(parents=True, exist_ok=True)
    one_each = tuned.per_class and own is None
    with enough_memory(lambda: MEMORY.format(batch=settings.batch)):
        for label in classes if one_each else classes[:1]:
            if label != classes[0]:
                pipe = _pipeline(settings, tuned, label)
            chosen = rows[rows["label"] == label] if one_each else rows
            _draw_all(pipe, settings.batch, chosen, work, lora.model_hash(_trained(settings, tuned, label)))
    together = distributed.group()
    together.wait()
    if not together.first:
        return
    _finish(rows, work)


def _finish(rows: pd.DataFrame, work: Path, more: dict[str, Any] | None = None) -> None:
    """Measure the images of ``work/out/images``, named by id, and put everything into place."""
    images = work / "out" / "images"
    files = [images / io.file_name(name, ".png") for name in rows["image_id"]]
    made = rows.join(_measure(files))
    made["path"] = [(paths.SYNTHETIC / "images" / file.name).as_posix() for file in files]
    opinions = networks.load(paths.PROBE)
    probabilities = opinions.predict(read_stack(files))
    metrics = adherence.measure(made, np.array(opinions.classes)[probabilities.argmax(1)]) | (more or {})
    manifest.write(made, work / "out" / paths.SYNTHETIC_MANIFEST.name)
    state.write_json(paths.GENERATE_METRICS, metrics)
    state.move_into_place(work / "out", paths.SYNTHETIC)
    state.discard(work)
    say(f"generate: {len(made)} images, {metrics['class_agreement']:.0%} in the prompted class, {paths.SYNTHETIC}")


def _take(settings: Generate, tuned: Finetune, classes: list[str]) -> None:
    """Images that were made elsewhere, in place of drawn ones; their settings as the files tell them."""
    size = base.image_size(base.load(tuned.base))
    work = state.work_folder("generate", state.fingerprint(settings))
    shutil.rmtree(work / "out", ignore_errors=True)
    images = work / "out" / "images"
    images.mkdir(parents=True)
    rows, pixels, bad = synthetic.collect(Path(settings.images_from), size, classes, png.read)
    total = len(rows) + len(bad)
    quarantine.check(bad, total, settings.max_quarantined, "generate.max_quarantined", work / "quarantine.csv")
    for name, image in zip(rows["image_id"], pixels, strict=True):
        write_png(images / io.file_name(name, ".png"), image)
    if len(bad):
        say(f"generate: {len(bad)} of {total} images cannot be used: {quarantine.tally(bad['reason'])}")
    _finish(rows, work, {"quarantined": quarantine.tally(bad["reason"])})


def _draw_all(pipe: StableDiffusionPipeline, batch: int, rows: pd.DataFrame, work: Path, lora_hash: str) -> None:
    """Draw what is missing of this process's share; files are written while the next images are drawn."""
    folder = work / "out" / "images"
    together = distributed.group()
    rows = rows.iloc[together.rank :: together.size]
    todo = rows[[not state.whole(work, folder / f"{name}.png") for name in rows["image_id"]]]
    if len(todo) < len(rows):
        say(f"generate: goes on, {len(rows) - len(todo)} of {len(rows)} images are there")
    size = base.image_size(pipe)
    writing: deque[Future[None]] = deque()
    with ThreadPoolExecutor(min(4, runtime.workers())) as writers:
        done = ((image, row) for part, drawn in sample.stream(pipe, todo, batch) for image, row in _pairs(part, drawn))
        for image, row in track(done, "generate (images)", total=len(todo)):
            said = png.describe(row, size, lora_hash)
            writing.append(writers.submit(_keep, work, folder / f"{row['image_id']}.png", image, said))
            while len(writing) > batch:  # the disk is slower than the drawing: wait rather than hold all images
                writing.popleft().result()
        for future in writing:
            future.result()


def _keep(work: Path, file: Path, image: np.ndarray, said: Any) -> None:
    png.write(file, image, said)
    state.seal(work, file)


def _pairs(part: pd.DataFrame, drawn: np.ndarray) -> Iterator[tuple[np.ndarray, pd.Series]]:
    for image, (_, row) in zip(drawn, part.iterrows(), strict=True):
        yield image, row


def _pipeline(settings: Generate, tuned: Finetune, label: str) -> StableDiffusionPipeline:
    device = runtime.device()
    runtime.check_precision("generate.precision", settings.precision)
    pipe = base.load(tuned.base, settings.precision, device)
    lora.merge(pipe, _trained(settings, tuned, label), settings.beta)
    return sample.prepare(pipe)


def _trained(settings: Generate, tuned: Finetune, label: str) -> Path:
    """The file of one's own, or the folder of what was trained for a class."""
    return Path(settings.lora) if settings.lora else lora.folder_for(paths.LORA, label, tuned.per_class)


def _measure(files: list[Path]) -> pd.DataFrame:
    rows = pool.each(_measure_one, files)
    return pd.DataFrame(list(track(rows, "generate: measure", total=len(files))))


def _measure_one(file: Path) -> dict[str, Any]:
    rgb = read_rgb(file)
    return {
        **quality.measure(rgb),
        "phash": hashing.phash(rgb),
        "sha256": state.hash_file(file),
        "width": rgb.shape[1],
        "height": rgb.shape[0],
    }
