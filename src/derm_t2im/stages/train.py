"""Stage `train`: one architecture on one mix, once per seed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from derm_t2im import manifest, networks, paths, runtime, seeds, state
from derm_t2im.classify import augmentation, data, mixes
from derm_t2im.classify import train as training
from derm_t2im.errors import UserError
from derm_t2im.params import load
from derm_t2im.params.train import Model, Train
from derm_t2im.progress import say

CURVE = "curve.json"


def run(arch: str, mix: str) -> None:
    """Write ``models/classifiers/<arch>-<mix>/seed-<k>/`` and ``metrics/train/<arch>-<mix>.json``.

    A killed run goes on where it was. All seeds of an architecture start from the same weights
    whatever the mix, and see equally many steps.
    """
    settings = load("train", Train)
    if arch not in settings.models:
        raise UserError(f"{arch!r} is not in train.models; described: {', '.join(settings.models)}.")
    model = settings.models[arch]
    table = manifest.read(paths.mix_manifest(mix))
    splits = manifest.read(paths.SPLITS_MANIFEST)
    val = splits[splits["split"] == "val"]
    classes = data.class_names(splits[splits["split"] == "train"])
    if missing := sorted(set(classes) - set(table["label"])):
        raise UserError(f"the mix {mix} has no image of {', '.join(missing)}: every class needs some to be learnt.")

    if not len(val):
        raise UserError("training needs validation images to choose the weights by: enlarge split.val.")
    if made := list(val["image_id"][val["kind"] != "real"]):
        raise UserError(f"{len(made)} validation images are not real (first: {made[0]}): run the stage `split` again.")

    runtime.check_precision("train.precision", settings.precision)
    device = runtime.device()
    how = _how(settings, model, mix)
    name = f"{arch}-{mix}"
    work = state.work_folder(f"train-{name}", _key(settings, model, mix, how))
    shown = training.Images(
        data.read_images(table, model.size),
        data.encode(list(table["label"]), classes),
        table["weight"].to_numpy(np.int64),
    )
    side = shown.pixels.shape[1]
    held = training.Images.of(data.read_images(val, side), data.encode(list(val["label"]), classes))
    runs = {}
    for seed in settings.seeds:
        finished = work / "models" / f"seed-{seed}"
        if not state.whole(work, finished):
            start = seeds.derive(seed, "classifier", arch)
            network = networks.build(model.timm, model.options, classes, side, model.weights, start).to(device)
            unfinished = work / f"seed-{seed}"
            result = training.fit(network, shown, how, start, held, unfinished, _reporter(f"{name} seed {seed}"))
            networks.save(network, work / "network")
            state.write_json(work / "network" / CURVE, {"kept": result.kept, "curve": result.curve})
            state.move_into_place(work / "network", finished)
            state.seal(work, finished)
            state.discard(unfinished)
        runs[f"seed-{seed}"] = json.loads((finished / CURVE).read_text())["kept"]
    state.move_into_place(work / "models", paths.classifier(arch, mix))
    state.write_json(paths.train_metrics(arch, mix), _metrics(runs, len(table)))
    state.discard(work)
    say(f"{name}: {len(runs)} classifiers are in {paths.classifier(arch, mix)}")


def _how(settings: Train, model: Model, mix: str) -> training.Settings:
    return training.Settings(
        steps=settings.steps,
        batch=settings.batch,
        lr=model.lr,
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
        label_smoothing=settings.label_smoothing,
        evaluate_every=settings.evaluate_every,
        augment=mixes.AUGMENT.get(mix, settings.augment),
        crop=settings.crop,
        freeze_norm=model.freeze_norm,
        precision=settings.precision,
        channels_last=settings.channels_last,
        layer_decay=settings.layer_decay,
        ema=settings.ema,
        focal_gamma=settings.focal_gamma if settings.loss == "focal" else 0.0,
        balance=settings.class_weights == "balanced",
        patience=settings.patience,
    )


def _key(settings: Train, model: Model, mix: str, how: training.Settings) -> str:
    """Fingerprint of all that decides the weights, this code included."""
    code = state.hash_code(networks, augmentation, data, training)
    weights = Path(model.weights)
    return state.fingerprint(
        settings.model_dump(exclude={"models", "archs"}),
        model,
        asdict(how),
        state.hash_file(paths.mix_manifest(mix)),
        state.hash_file(paths.SPLITS_MANIFEST),
        state.hash_file(weights) if model.weights and weights.is_file() else "",
        code,
    )


def _reporter(name: str) -> Callable[[dict[str, float]], None]:
    """Says how far a run is, at most every quarter of a minute."""
    last = time.monotonic()

    def report(point: dict[str, float]) -> None:
        nonlocal last
        if time.monotonic() - last > 15:
            last = time.monotonic()
            say(f"{name}: step {point['step']:.0f}, loss {point['train_loss']:.3f}, AUC {point['val_auc']:.3f} (val)")

    return report


def _metrics(runs: dict[str, dict[str, float]], images: int) -> dict[str, object]:
    means = {
        name: float(np.mean([run[name] for run in runs.values() if run[name] is not None] or [np.nan]))
        for name in ("val_auc", "val_accuracy", "val_loss", "train_loss")
    }
    return {**means, **runs, "files": images}
