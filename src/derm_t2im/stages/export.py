"""Stage `export`: the classifier with the best validation AUC as one ONNX file, checked against torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from derm_t2im import manifest, networks, paths
from derm_t2im.classify import data, evaluation, statistics
from derm_t2im.classify.chosen import best_seed
from derm_t2im.deploy import export, verify
from derm_t2im.deploy.card import Card
from derm_t2im.deploy.runtime import Predictor
from derm_t2im.errors import UserError
from derm_t2im.params import load
from derm_t2im.params.evaluate import Evaluate
from derm_t2im.params.export import Export
from derm_t2im.params.preprocess import Preprocess
from derm_t2im.progress import say
from derm_t2im.state import hash_file, write_atomic, write_json

if TYPE_CHECKING:
    import pandas as pd

MODEL = "model.onnx"


def run(arch: str) -> None:
    """Write ``models/onnx/<arch>/model.onnx`` and ``metrics/onnx/<arch>.json``."""
    import torch

    settings, evaluate = load("export", Export), load("evaluate", Evaluate)
    hair = load("preprocess", Preprocess).hair.method
    splits = manifest.read(paths.SPLITS_MANIFEST)
    val = splits[splits["split"] == "val"]
    if val.empty:
        raise UserError("export checks itself on validation images: enlarge split.val.")
    seed = best_seed(arch, settings.mix)
    folder = paths.classifier(arch, settings.mix) / f"seed-{seed}"
    network = networks.load(folder)
    # One thread: the order of a sum, and with it the last bit of a metric, does not hang on the machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        images = data.read_images(val, network.size)
        reference = network.predict(images)
    finally:
        torch.set_num_threads(threads)
    positive = evaluation.positive_columns(network.classes, evaluate.positive)
    threshold = None
    if positive:
        score = reference[:, positive].sum(axis=1)
        actual = data.encode(list(val["label"]), network.classes)
        found = statistics.threshold_for(score, np.isin(actual, positive), evaluate.sensitivity)
        threshold = verify.off_the_data(found, score) if math.isfinite(found) else None
    card = Card(
        architecture=arch,
        classes=network.classes,
        positive=tuple(network.classes[k] for k in positive),
        size=network.size,
        mean=network.mean,
        std=network.std,
        hair_removal=hair,
        threshold=threshold,
        threshold_sensitivity=None if threshold is None else evaluate.sensitivity,
        training_mix=settings.mix,
        training_seed=seed,
        training_sources=_sources(splits),
        weights_sha256=hash_file(folder / networks.WEIGHTS_FILE),
    )
    content = export.to_onnx(network, card, settings.max_batch)
    exported = Predictor(content, device="cpu", threads=1)
    metrics = verify.agreement(reference, exported.predict(images), positive, threshold)
    # The batch is dynamic: one image alone must say what it says among others.
    alone = exported.predict(images[:8], batch=1)
    metrics["max_abs_difference"] = max(
        metrics["max_abs_difference"], verify.agreement(reference[:8], alone)["max_abs_difference"]
    )
    metrics |= {"size_mb": len(content) / 1e6, "seed": seed}
    if metrics["max_abs_difference"] > settings.max_abs_difference:
        raise UserError(
            f"{arch}: the ONNX file differs from the network by {metrics['max_abs_difference']:.2g} in probability, "
            f"more than export.max_abs_difference ({settings.max_abs_difference:g}); nothing was written."
        )
    target = paths.onnx_model(arch) / MODEL
    write_atomic(target, content)
    write_json(paths.onnx_metrics(arch), metrics)
    say(
        f"export: {target} ({metrics['size_mb']:.1f} MB, {settings.mix}, seed {seed}), differs from torch by at most "
        f"{metrics['max_abs_difference']:.1g}"
    )


def _sources(splits: pd.DataFrame) -> tuple[str, ...]:
    train = splits[splits["split"] == "train"]
    return tuple(sorted(train["source"].dropna().unique())) if "source" in train else ()
