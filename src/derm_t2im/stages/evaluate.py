"""Stage `evaluate`: every classifier on every test set, and what the mixes change."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from derm_t2im import manifest, networks, paths, runtime, state
from derm_t2im.classify import curves, data, evaluation
from derm_t2im.errors import UserError
from derm_t2im.params import load
from derm_t2im.params.evaluate import Evaluate
from derm_t2im.params.mix import Mix
from derm_t2im.params.train import Train
from derm_t2im.progress import say, track

if TYPE_CHECKING:
    import pandas as pd

TESTS = {"in_domain": "test", "external": "external"}  # name in metrics -> split


class Scores(NamedTuple):
    """Probabilities (seeds, n, k) of one classifier on each split, and its seeds."""

    seeds: list[int]
    by_split: dict[str, np.ndarray]


def run() -> None:
    """Write ``metrics/classification.json`` and ``plots/{roc,reliability,confusion}.json, predictions.parquet``."""
    settings = load("evaluate", Evaluate)
    # Which classifiers there are: no other parameter of these sections matters here.
    training, mixes = load("train", Train), load("mix", Mix).mixes
    splits = manifest.read(paths.SPLITS_MANIFEST)
    data.refuse_leaks(splits)
    classes = data.class_names(splits[splits["split"] == "train"])
    positive = evaluation.positive_columns(classes, settings.positive)
    tables = {s: splits[splits["split"] == s] for s in ("val", "test", "external")}
    for split in ("val", "test"):
        if not len(tables[split]):
            raise UserError(f"the split {split} is empty: enlarge split.{split} or the source.")
    truth = {s: data.encode(list(table["label"]), classes) for s, table in tables.items()}
    scores = _predict(training.archs, list(mixes), training.seeds, tables, classes)

    metrics: dict[str, Any] = {arch: {mix: {} for mix in mixes} for arch in training.archs}
    metrics["contrasts"] = {arch: {} for arch in training.archs}
    plots: dict[str, curves.Records] = {"roc": [], "reliability": [], "confusion": []}
    compared: list[dict[str, Any]] = []
    for test_name, split in TESTS.items():
        if not len(tables[split]):
            continue
        if missing := [name for k, name in enumerate(classes) if not (truth[split] == k).any()]:
            say(f"the {test_name} test set has no image of {', '.join(missing)}: means over classes leave them out")
        groups = evaluation.groups_of(tables[split])
        test = evaluation.TestSet.draw(truth[split], groups, settings.bootstrap, settings.seed, test_name)
        for arch in training.archs:
            values = {}
            for mix in mixes:
                probabilities, val = (scores[arch, mix].by_split[s] for s in (split, "val"))
                values[mix] = evaluation.measure(probabilities, test, positive, settings.bins)
                figures = evaluation.describe(values[mix], test)
                figures["calibrated"] = evaluation.calibrated(probabilities, test, val, truth["val"], settings.bins)
                if positive:
                    figures["operating"] = evaluation.operating(
                        probabilities, test, val, truth["val"], positive, settings.sensitivity
                    )
                metrics[arch][mix][test_name] = figures
                name = {"arch": arch, "mix": mix, "test": test_name}
                for plot, records in _records(probabilities, truth[split], classes, positive, settings.bins).items():
                    plots[plot] += [name | record for record in records]
            metrics["contrasts"][arch][test_name] = {}
            for a, b in evaluation.CONTRASTS:
                if a not in values or b not in values:
                    continue
                both = scores[arch, a].by_split[split].mean(axis=0), scores[arch, b].by_split[split].mean(axis=0)
                figures = evaluation.contrast(values[a], values[b], both, test, positive)
                metrics["contrasts"][arch][test_name][f"{a}-{b}"] = figures
                compared.append(figures)
    evaluation.adjust(compared)

    for plot, records in plots.items():
        state.write_json(paths.PLOTS / f"{plot}.json", records)
    _write_predictions(scores, tables, classes)
    state.write_json(paths.CLASSIFICATION_METRICS, metrics)
    say(f"results are in {paths.CLASSIFICATION_METRICS}, curves in {paths.PLOTS}")


def _predict(
    archs: list[str], mixes: list[str], seeds: list[int], tables: dict[str, pd.DataFrame], classes: tuple[str, ...]
) -> dict[tuple[str, str], Scores]:
    """Probabilities of every classifier; each image is decoded once per input size."""
    device = runtime.device()
    cache: dict[tuple[str, int], np.ndarray] = {}
    scores = {}
    for arch, mix in track([(a, m) for a in archs for m in mixes], "evaluate"):
        found: dict[str, list[np.ndarray]] = {split: [] for split in tables}
        for seed in seeds:
            folder = paths.classifier(arch, mix) / f"seed-{seed}"
            network = networks.load(folder, device)
            if network.classes != classes:
                raise UserError(
                    f"{folder} knows the classes {', '.join(network.classes)}, but data/splits has "
                    f"{', '.join(classes)}: run the stage `train` again."
                )
            for split, table in tables.items():
                if (split, network.size) not in cache:
                    cache[split, network.size] = data.read_images(table, network.size)
                found[split].append(network.predict(cache[split, network.size]))
        scores[arch, mix] = Scores(seeds, {split: np.stack(p).astype(np.float64) for split, p in found.items()})
    return scores


def _records(
    probabilities: np.ndarray, truth: np.ndarray, classes: tuple[str, ...], positive: list[int], bins: int
) -> dict[str, curves.Records]:
    """Plot records of one classifier on one test set: ROC and confusion of the seeds' mean probabilities."""
    mean = probabilities.mean(axis=0)
    findings = (
        {"+".join(classes[k] for k in positive): positive} if positive else {c: [k] for k, c in enumerate(classes)}
    )
    roc = [
        {"positive": name} | point
        for name, columns in findings.items()
        for point in curves.roc(mean[:, columns].sum(axis=1), np.isin(truth, columns))
    ]
    return {
        "roc": roc,
        "reliability": curves.reliability(probabilities, truth, bins),
        "confusion": curves.confusion(mean.argmax(axis=1), truth, classes),
    }


def _write_predictions(
    scores: dict[tuple[str, str], Scores], tables: dict[str, pd.DataFrame], classes: tuple[str, ...]
) -> None:
    """A row per image, classifier and seed: ``image_id, arch, mix, seed, test, label, p_<class>...``."""
    import pandas as pd

    parts = []
    for (arch, mix), score in scores.items():
        for test_name, split in TESTS.items():
            for seed, p in zip(score.seeds, score.by_split[split], strict=True):
                part = tables[split][["image_id", "label"]].assign(arch=arch, mix=mix, seed=seed, test=test_name)
                parts.append(part.assign(**{f"p_{c}": p[:, k].astype(np.float32) for k, c in enumerate(classes)}))
    table = pd.concat(parts, ignore_index=True)
    order = ["image_id", "arch", "mix", "seed", "test", "label", *(f"p_{c}" for c in classes)]
    buffer = io.BytesIO()
    table[order].to_parquet(buffer, index=False, compression="zstd")
    state.write_atomic(paths.PLOTS / "predictions.parquet", buffer.getvalue())
