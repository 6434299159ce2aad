"""Stage `evaluate`: every classifier on every test set, and what the mixes change."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from derm_t2im import manifest, networks, paths, plot_records, runtime, seeds, state
from derm_t2im.classify import curves, data, evaluation, statistics, subgroups, uncertainty
from derm_t2im.errors import UserError
from derm_t2im.params import load
from derm_t2im.params.evaluate import Evaluate
from derm_t2im.params.mix import Mix
from derm_t2im.params.train import Train
from derm_t2im.progress import say, track

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

PLOTS = ("roc", "reliability", "reliability_calibrated", "confusion", "abstention", "subgroups")
TESTS = {"in_domain": "test", "external": "external"}  # name in metrics -> split


class Scores(NamedTuple):
    """Probabilities (seeds, n, k) of one classifier on each split, and its seeds."""

    seeds: list[int]
    by_split: dict[str, np.ndarray]


def run() -> None:
    """Write ``metrics/{classification,subgroups}.json``; below ``plots`` :data:`PLOTS`, ``predictions.parquet``."""
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
    evaluation.check_labels(tables, classes)
    truth = {s: data.encode(list(table["label"]), classes) for s, table in tables.items()}
    if positive and not np.isin(truth["val"], positive).any():
        say(f"no validation image is {settings.positive}: there is no threshold for a sensitivity")
    scores = _predict(training.archs, list(mixes), training.seeds, tables, classes)

    found = Found({arch: {mix: {} for mix in mixes} for arch in training.archs}, {}, {plot: [] for plot in PLOTS})
    contrasts: dict[str, Any] = {arch: {} for arch in training.archs}
    compared: list[dict[str, Any]] = []
    for test_name, split in TESTS.items():
        if not len(tables[split]):
            continue
        if missing := [name for k, name in enumerate(classes) if not (truth[split] == k).any()]:
            say(f"the {test_name} test set has no image of {', '.join(missing)}: means over classes leave them out")
        groups = evaluation.groups_of(tables[split])
        test = evaluation.TestSet.draw(truth[split], groups, settings.bootstrap, settings.seed, test_name)
        case = Case(test_name, test, truth["val"], classes, positive, subgroups.attributes(tables[split]))
        for arch in training.archs:
            values = {}
            for mix in mixes:
                name = {"arch": arch, "mix": mix, "test": test_name}
                probabilities, val = (scores[arch, mix].by_split[s] for s in (split, "val"))
                values[mix] = _classifier(name, probabilities, val, case, settings, found)
            contrasts[arch][test_name] = {}
            for a, b in evaluation.CONTRASTS:
                if a not in values or b not in values:
                    continue
                ensembles = scores[arch, a].by_split[split].mean(axis=0), scores[arch, b].by_split[split].mean(axis=0)
                figures = evaluation.contrast(
                    values[a], values[b], ensembles, test, positive, settings.equivalence_margin, settings.gain
                )
                contrasts[arch][test_name][f"{a}-{b}"] = figures
                compared.append(figures)
    evaluation.adjust(compared)
    _adjust_ensembles(compared)

    for plot, rows in found.plots.items():
        plot_records.write(paths.PLOTS / f"{plot}.json", rows)
    _write_predictions(scores, tables, classes)
    state.write_json(paths.SUBGROUP_METRICS, found.subgroups)
    state.write_json(paths.CLASSIFICATION_METRICS, found.metrics | {"contrasts": contrasts})
    say(f"results are in {paths.CLASSIFICATION_METRICS} and {paths.SUBGROUP_METRICS}, curves in {paths.PLOTS}")


def _adjust_ensembles(compared: list[dict[str, Any]]) -> None:
    """Add Holm's adjustment of DeLong's and McNemar's p over all contrasts of the study."""
    for name in ("ensemble_p_delong", "ensemble_p_mcnemar"):
        for figures, value in zip(compared, statistics.holm([c[name] for c in compared]), strict=True):
            figures[f"{name}_holm"] = value


class Case(NamedTuple):
    """A test set with all that its classifiers are measured by."""

    name: str
    test: evaluation.TestSet
    val_truth: np.ndarray
    classes: tuple[str, ...]
    positive: list[int]
    attributes: list[subgroups.Attribute]


class Found(NamedTuple):
    """What is written at the end."""

    metrics: dict[str, Any]
    subgroups: dict[str, Any]
    plots: dict[str, curves.Records]


def _classifier(
    name: dict[str, str], probabilities: np.ndarray, val: np.ndarray, case: Case, settings: Evaluate, found: Found
) -> evaluation.Values:
    """Add the figures and plot records of one classifier, (seeds, n, k), on one test set to ``found``."""
    test, positive = case.test, case.positive
    values = evaluation.measure(probabilities, test, positive, settings.bins)
    figures = evaluation.describe(values, test)
    figures["calibrated"] = evaluation.calibrated(probabilities, test, val, case.val_truth, settings.bins)
    scaled, _ = evaluation.scale(probabilities, val, case.val_truth)
    thresholds = np.full(len(val), np.nan)
    if positive:
        thresholds = evaluation.thresholds(val, case.val_truth, positive, settings.sensitivity)
        figures["operating"] = evaluation.operating(
            probabilities, test, val, case.val_truth, positive, settings.sensitivity
        )
    if len(case.classes) > 2:
        figures |= evaluation.per_class(probabilities, test, case.classes)
    figures["abstention"], curve = uncertainty.abstention(probabilities, test)
    figures["conformal"] = uncertainty.conformal(
        probabilities, test, val, case.val_truth, case.classes, settings.conformal_coverage
    )
    found.metrics[name["arch"]][name["mix"]][case.name] = figures
    plots = _records(probabilities, test, case.classes, positive, settings.bins)
    plots["reliability_calibrated"] = curves.reliability(scaled, test.truth, settings.bins, test.counts[1:])
    plots["abstention"] = curve
    for attribute in case.attributes:
        # The same deals of names for every classifier.
        rng = seeds.generator(settings.seed, "subgroups", case.name, attribute.name)
        summary, records = subgroups.compare(
            probabilities, test, thresholds, attribute, positive, settings.subgroup_min, rng
        )
        place = found.subgroups.setdefault(name["arch"], {}).setdefault(name["mix"], {}).setdefault(case.name, {})
        place[attribute.name] = summary
        plots.setdefault("subgroups", []).extend({"attribute": attribute.name} | record for record in records)
    for plot, rows in plots.items():
        found.plots[plot] += [name | row for row in rows]
    return values


def _predict(
    archs: list[str], mixes: list[str], numbers: list[int], tables: dict[str, pd.DataFrame], classes: tuple[str, ...]
) -> dict[tuple[str, str], Scores]:
    """Probabilities of every classifier; each image is decoded once per input size."""
    device = runtime.device()
    cache: dict[tuple[str, int], np.ndarray] = {}
    scores = {}
    for arch, mix in track([(a, m) for a in archs for m in mixes], "evaluate"):
        found: dict[str, list[np.ndarray]] = {split: [] for split in tables}
        for seed in numbers:
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
                found[split].append(_finite(network.predict(cache[split, network.size]), folder, split))
        scores[arch, mix] = Scores(numbers, {split: np.stack(p).astype(np.float64) for split, p in found.items()})
    return scores


def _finite(probabilities: np.ndarray, folder: Path, split: str) -> np.ndarray:
    """``probabilities`` (n, k) as they are; refuses NaN, which would be ranked and counted like an answer."""
    wrong = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if wrong:
        raise UserError(
            f"{folder} gives no probability for {wrong} of {len(probabilities)} images of the split {split}: its "
            "weights are not finite. Lower the learning rate and run the stage `train` again."
        )
    return probabilities


def _records(
    probabilities: np.ndarray, test: evaluation.TestSet, classes: tuple[str, ...], positive: list[int], bins: int
) -> dict[str, curves.Records]:
    """Plot records of one classifier on one test set: ROC and confusion of the seeds' mean probabilities."""
    mean, truth = probabilities.mean(axis=0), test.truth
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
        "reliability": curves.reliability(probabilities, truth, bins, test.counts[1:]),
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
