"""Stage `export`: the classifier with the best validation AUC as ONNX files, each checked against torch."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import licences, manifest, networks, paths, state
from derm_t2im.classify import calibration, data, evaluation, statistics
from derm_t2im.classify.chosen import best_seed
from derm_t2im.deploy import card as cards
from derm_t2im.deploy import export, model_card, preparation, quantise, verify
from derm_t2im.deploy.card import Card, Measured, Operating
from derm_t2im.errors import UserError, exhausted
from derm_t2im.params import load
from derm_t2im.params.evaluate import Evaluate
from derm_t2im.params.export import Export
from derm_t2im.params.preprocess import Preprocess
from derm_t2im.progress import say
from derm_t2im.seeds import generator

if TYPE_CHECKING:
    import onnx
    import pandas as pd

    from derm_t2im.networks import Network

CARD, README = "model.json", "README.md"
HELD_OUT = ("test", "unused")  # after validation: real images of the pool that no network was trained on
DRAWS = 1000  # of the bootstrap of what a variant loses
SOME = 64  # images on which embeddings are compared
FIGURES = ("auc", "accuracy", "balanced_accuracy", "ece", "brier")


@dataclass(frozen=True)
class Held:
    """Real images of the pool that were not trained on, validation images first, and what the network says of them.

    ``images`` uint8 (n, size, size, 3), ``truth`` int64 (n,), ``reference`` probabilities (n, k) at the temperature,
    ``embedded`` (the first of them, d) or None; ``val`` and ``checked`` count images from the first on.
    """

    splits: tuple[str, ...]
    images: np.ndarray
    truth: np.ndarray
    groups: np.ndarray
    reference: np.ndarray
    embedded: np.ndarray | None
    temperature: float
    val: int
    checked: int


def run(arch: str) -> None:
    """Write ``models/onnx/<arch>/`` (a file per variant, ``model.json``, ``README.md``) and its metrics."""
    settings, evaluate = load("export", Export), load("evaluate", Evaluate)
    splits = manifest.read(paths.SPLITS_MANIFEST)
    seed = best_seed(arch, settings.mix)
    network = networks.load(paths.classifier(arch, settings.mix) / f"seed-{seed}")
    held = _held_out(network, splits, settings)
    card = _card(arch, settings, evaluate, splits, network, seed, held)
    files: dict[str, bytes] = {}
    variants: dict[str, dict[str, Any]] = {}
    body = export.body(network, settings.max_batch, settings.embedding)
    for precision in settings.variants:
        made = body
        if precision == "fp16":
            made = quantise.half(body)
        elif precision == "int8":
            made = quantise.eight_bit(body, card, _calibration(splits, network.size, settings.calibration_images))
        content, figures = _variant(made, card.model_copy(update={"precision": precision}), held)
        _refuse(arch, precision, figures, settings)
        files[model_card.file_name(precision)], variants[precision] = content, figures

    card = cards.read_card(files[model_card.file_name("fp32")])
    metrics: dict[str, Any] = {
        **variants["fp32"],  # on top, where the report reads them
        "seed": seed,
        "temperature": held.temperature,
        "checked": dict(Counter(held.splits[: held.checked])),
        "variants": variants,
    }
    files[CARD] = (json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n").encode()
    files[README] = model_card.render(card, metrics).encode()
    target = paths.onnx_model(arch)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, content in files.items():
        state.write_atomic(partial / name, content)
    state.move_into_place(partial, target)
    state.write_json(paths.onnx_metrics(arch), metrics)
    for name, figures in variants.items():
        say(
            f"export: {target / model_card.file_name(name)} ({figures['size_mb']:.1f} MB, {settings.mix}, seed "
            f"{seed}), differs from torch by at most {figures['max_abs_difference']:.1g}, AUC lost "
            f"{figures['auc_loss']:.4f}"
        )


def _held_out(network: Network, splits: pd.DataFrame, settings: Export) -> Held:
    """All validation images, then those of the other held-out splits up to ``export.check_images`` in all.

    Raises:
        UserError: if there are no validation images.
    """
    import pandas as pd
    import torch

    val = splits[splits["split"] == "val"]
    if val.empty:
        raise UserError("export checks itself on validation images: enlarge split.val.")
    others = [splits[(splits["split"] == name) & splits["label"].isin(network.classes)] for name in HELD_OUT]
    table = pd.concat([val, *others], ignore_index=True).head(max(settings.check_images, len(val)))
    truth = data.encode(list(table["label"]), network.classes)
    # One thread: the order of a sum, and with it the last bit of a metric, does not hang on the machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        images = data.read_images(table, network.size)
        probabilities = network.predict(images)
        embedded = network.embed(images[:SOME]) if settings.embedding else None
    finally:
        torch.set_num_threads(threads)
    temperature = calibration.fit_temperature(probabilities[: len(val)], truth[: len(val)])
    temperature = float(f"{temperature:.6g}")  # the number that people read is the one in the graph
    return Held(
        splits=tuple(table["split"]),
        images=images,
        truth=truth,
        groups=evaluation.groups_of(table),
        reference=calibration.apply_temperature(probabilities, temperature),
        embedded=embedded,
        temperature=temperature,
        val=len(val),
        checked=min(len(table), settings.check_images),
    )


def _calibration(splits: pd.DataFrame, size: int, number: int) -> np.ndarray:
    """Real training images, drawn at random: uint8 (n, size, size, 3)."""
    train = splits[splits["split"] == "train"].reset_index(drop=True)
    rows = np.sort(generator(0, "calibration").permutation(len(train))[:number])
    return data.read_images(train.iloc[rows], size)


def _variant(made: onnx.ModelProto, card: Card, held: Held) -> tuple[bytes, dict[str, Any]]:
    """One file, and how it compares with the network on the held-out images."""
    content = export.assemble(made, card)
    (found,) = verify.run(content, held.images, [export.PROBABILITIES])
    measured = None
    if card.threshold is not None:
        # Another precision decides a little differently: each file states its own figures.
        measured = _operating(found[: held.val], held.truth[: held.val], card)
        content = export.assemble(made, card.model_copy(update={"operating": measured}))
    cards.read_card(content)
    first = slice(held.checked)
    reference, found = held.reference[first], found[first]
    figures: dict[str, Any] = dict(verify.agreement(reference, found, card.columns, card.threshold))
    # The batch is dynamic: one image alone must say what it says among others.
    (alone,) = verify.run(content, held.images[:8], [export.PROBABILITIES], batch=1)
    difference = verify.agreement(held.reference[:8], alone)["max_abs_difference"]
    figures["max_abs_difference"] = max(figures["max_abs_difference"], difference)
    figures |= _auc_loss(reference, found, held.truth[first], held.groups[first])
    if held.embedded is not None:
        (embedded,) = verify.run(content, held.images[:SOME], [export.EMBEDDING])
        figures["embedding_cosine"] = verify.least_cosine(held.embedded, embedded)
    if measured is not None:
        figures["operating"] = {**measured.model_dump(), "threshold": card.threshold}
    return content, figures | {"size_mb": len(content) / 1e6}


def _operating(probabilities: np.ndarray, truth: np.ndarray, card: Card) -> Operating | None:
    if not card.columns or card.threshold is None:
        return None
    score = probabilities[:, card.columns].sum(axis=1)
    return Operating.model_validate(_rounded(verify.operating(score, np.isin(truth, card.columns), card.threshold)))


def _auc_loss(reference: np.ndarray, exported: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """How much worse the exported file ranks images than the network.

    ``auc`` (of the file) and ``auc_loss`` (the network's less the file's), each ``x`` with ``x_low`` and ``x_high``: a
    paired 95 % bootstrap over ``groups``. NaN where ``truth``, class indices (n,), holds one class only.
    """
    drawn = statistics.bootstrap_counts(groups, truth, DRAWS, generator(0, "auc_loss")).counts
    counts = np.vstack([statistics.ones(len(truth)), drawn])
    before, after = (statistics.class_auc(p, truth, counts) for p in (reference, exported))
    figures: dict[str, Any] = {}
    for name, values in (("auc", after), ("auc_loss", before - after)):
        figures[name] = float(values[0])
        figures[f"{name}_low"], figures[f"{name}_high"] = statistics.interval(values[1:])
    return figures


def _refuse(arch: str, precision: str, figures: dict[str, Any], settings: Export) -> None:
    limits = {
        "fp32": ("export.max_abs_difference", settings.max_abs_difference),
        "fp16": ("export.max_abs_difference_fp16", settings.max_abs_difference_fp16),
    }
    name, limit = limits.get(precision, ("", math.inf))
    if figures["max_abs_difference"] > limit:
        raise UserError(
            f"{arch}: the {precision} file differs from the network by {figures['max_abs_difference']:.2g} in "
            f"probability, more than {name} ({limit:g}); nothing was written."
        )
    if precision == "fp32" and figures["threshold_flips"]:
        raise UserError(
            f"{arch}: {figures['threshold_flips']} of {figures['n']} images fall on the other side of the operating "
            "threshold in the fp32 file; nothing was written. Where the difference is tiny an image lies on the "
            "threshold by chance: change evaluate.sensitivity a little."
        )


def _card(
    arch: str, settings: Export, evaluate: Evaluate, splits: pd.DataFrame, network: Network, seed: int, held: Held
) -> Card:
    """What all variants share.

    Digests of weights, data and code stand for a Git revision, which would make equal inputs give other bytes after
    every commit: ``dvc.lock`` under Git leads from a file to its revision.
    """
    train = splits[splits["split"] == "train"]
    mix = paths.mix_manifest(settings.mix)
    kinds = manifest.read(mix)["kind"].value_counts().sort_index()
    terms = licences.terms(train, "this classifier")
    positive = evaluation.positive_columns(network.classes, evaluate.positive)
    score, actual = held.reference[:, positive].sum(axis=1)[: held.val], np.isin(held.truth, positive)[: held.val]
    threshold = statistics.threshold_for(score, actual, evaluate.sensitivity)  # NaN where nothing is positive
    known = math.isfinite(threshold)
    card = Card(
        architecture=arch,
        classes=network.classes,
        positive=tuple(network.classes[k] for k in positive),
        size=network.size,
        mean=network.mean,
        std=network.std,
        hair_removal=load("preprocess", Preprocess).hair.method,
        temperature=held.temperature,
        threshold=verify.off_the_data(threshold, score) if known else None,
        threshold_sensitivity=evaluate.sensitivity if known else None,
        training_mix=settings.mix,
        training_seed=seed,
        training_sources=tuple(sorted(train["source"].dropna().unique())) if "source" in train else (),
        training_images={str(kind): int(n) for kind, n in kinds.items()},
        licences=terms.counts,
        licence=terms.together,
        licence_warning=" ".join(terms.warnings),
        weights_sha256=state.hash_file(paths.classifier(arch, settings.mix) / f"seed-{seed}" / networks.WEIGHTS_FILE),
        data_sha256={p.as_posix(): state.hash_file(p) for p in (paths.SPLITS_MANIFEST, mix)},
        code_sha256=_code_sha256(),
    )
    return card.model_copy(update={"tests": _tests(card, splits, evaluate)})


def _code_sha256() -> str:
    """Digest of the modules that make the files; DVC runs this stage again when one of them changes."""
    digests = state.hash_code(cards, export, preparation, quantise, networks, calibration)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _tests(card: Card, splits: pd.DataFrame, evaluate: Evaluate) -> dict[str, Measured]:
    """This network on each test set, from the predictions of `evaluate`; beside it the study's mean over seeds."""
    import pandas as pd

    predictions = paths.PLOTS / "predictions.parquet"
    for path in (predictions, paths.CLASSIFICATION_METRICS):
        if not path.is_file():
            raise UserError(f"{path} is missing: run `dvc repro` (stage evaluate) first.")
    try:
        table = pd.read_parquet(predictions)
    except (OSError, ValueError) as error:  # pyarrow's errors are these
        raise exhausted(error) or UserError(f"{predictions} is damaged ({error}): run `dvc repro`.") from None
    of = (
        (table["arch"] == card.architecture)
        & (table["mix"] == card.training_mix)
        & (table["seed"] == card.training_seed)
    )
    study = state.read_json(paths.CLASSIFICATION_METRICS, "evaluate")
    found: dict[str, Measured] = {}
    for name, rows in table[of].groupby("test", sort=True):
        groups = evaluation.groups_of(splits.set_index("image_id", drop=False).loc[rows["image_id"]])
        truth = data.encode(list(rows["label"]), card.classes)
        p = calibration.apply_temperature(rows[[f"p_{c}" for c in card.classes]].to_numpy(), card.temperature)
        test = evaluation.TestSet.draw(truth, groups, evaluate.bootstrap, evaluate.seed, str(name))
        values = evaluation.measure(p[None], test, card.columns, evaluate.bins)
        figures = evaluation.summary({key: values[key] for key in FIGURES})
        over_seeds = study.get(card.architecture, {}).get(card.training_mix, {}).get(str(name), {})
        wanted = ("auc", "auc_low", "auc_high", "auc_seed_sd", "seeds")
        found[str(name)] = Measured(
            images=len(rows),
            groups=test.groups,
            figures=_rounded(figures),
            operating=_operating(p, truth, card),
            study={key: over_seeds[key] for key in wanted if key in over_seeds},
        )
    if not found:
        raise UserError(
            f"{predictions} has nothing of {card.architecture} on {card.training_mix}, seed {card.training_seed}: run "
            "`dvc repro` (stage evaluate) again."
        )
    return found


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    """Six significant digits, as metrics have them; None for NaN."""
    return {
        key: (float(f"{value:.6g}") if math.isfinite(value) else None) if isinstance(value, float) else value
        for key, value in figures.items()
    }
