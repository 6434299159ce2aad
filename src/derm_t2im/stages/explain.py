"""Stage `explain`: which parts of test images speak for the finding, and how much of that lies outside the lesion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import manifest, networks, paths, runtime, seeds, state
from derm_t2im.classify import data, evaluation, statistics
from derm_t2im.classify.chosen import best_seed
from derm_t2im.errors import UserError
from derm_t2im.explain import draw, maps, measure
from derm_t2im.imaging import lesion
from derm_t2im.imaging.io import square
from derm_t2im.params import load
from derm_t2im.params.evaluate import Evaluate
from derm_t2im.params.explain import Explain
from derm_t2im.params.mix import Mix
from derm_t2im.params.train import Train
from derm_t2im.progress import say, track

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("all", "hits", "misses")
PER_BLOCK = 6  # images that a picture shows of right, and of wrong answers


@dataclass(frozen=True)
class Sample:
    """Test images at one size: pixels (n, s, s, 3), lesion masks (n, s, s), how many masks are known truth."""

    images: np.ndarray
    masks: np.ndarray
    known: int


@dataclass(frozen=True)
class Seen:
    """What one network saw, image by image (n, ...); ``score`` is the probability of the finding."""

    heat: np.ndarray
    cells: int
    method: str
    score: np.ndarray
    hit: np.ndarray
    outside: np.ndarray
    uniform: np.ndarray
    floor: np.ndarray
    erasure: np.ndarray


def run() -> None:
    """Write ``metrics/explanations.json`` and a picture of each architecture, ``plots/explanations/<arch>.png``."""
    settings, judged = load("explain", Explain), load("evaluate", Evaluate)
    training, mixes = load("train", Train), load("mix", Mix).mixes
    splits = manifest.read(paths.SPLITS_MANIFEST)
    classes = data.class_names(splits[splits["split"] == "train"])
    positive = evaluation.positive_columns(classes, judged.positive)
    table = _draw(splits[splits["split"] == "test"], settings)
    if table.empty:
        raise UserError("explain needs test images: enlarge split.test or the source.")
    truth = data.encode(list(table["label"]), classes)
    # The finding; where none is named, each image's own class.
    target = np.isin(np.arange(len(classes)), positive)[None].repeat(len(truth), 0) if positive else (
        truth[:, None] == np.arange(len(classes)))  # fmt: skip
    groups = evaluation.groups_of(table)
    counts = evaluation.TestSet.draw(truth, groups, judged.bootstrap, settings.seed, "explain").counts
    device, samples = runtime.device(), dict[int, Sample]()

    def look(arch: str, mix: str, seed: int) -> Seen:
        folder = paths.classifier(arch, mix) / f"seed-{seed}"
        network = networks.load(folder, device)
        if network.classes != classes:
            raise UserError(
                f"{folder} knows the classes {', '.join(network.classes)}, but data/splits has {', '.join(classes)}: "
                "run the stage `train` again."
            )
        if network.size not in samples:
            samples[network.size] = _sample(table, network.size)
        return _see(network, samples[network.size], truth, target, positive, groups, settings)

    metrics: dict[str, Any] = {"contrasts": {}, "images": len(table)}
    work = state.work_folder("explain", "pictures", afresh=True)
    for arch in track(training.archs, "explain"):
        try:
            seen: dict[str, list[Seen]] = {mix: [look(arch, mix, seed) for seed in training.seeds] for mix in mixes}
        except maps.NoMap as error:
            say(f"explain: {error}")
            metrics[arch] = {"left_out": str(error)}
            continue
        metrics[arch] = {mix: _describe(found, counts) for mix, found in seen.items()}
        metrics["contrasts"][arch] = {
            f"{a}-{b}": _contrast(seen[a], seen[b], counts) for a, b in evaluation.CONTRASTS if a in seen and b in seen
        }
        picture = _picture(arch, samples, seen, training.seeds, truth, classes, judged.positive, settings)
        state.write_atomic(work / f"{arch}.png", picture)
    one = next(iter(samples.values()))
    found = int(one.masks.any(axis=(1, 2)).sum())
    metrics["masks"] = {"truth": one.known, "found": found - one.known, "none": len(table) - found}
    state.move_into_place(work, paths.EXPLANATIONS)
    state.write_json(paths.EXPLANATION_METRICS, metrics)
    say(f"figures are in {paths.EXPLANATION_METRICS}, pictures in {paths.EXPLANATIONS}")


def _draw(table: pd.DataFrame, settings: Explain) -> pd.DataFrame:
    """At most so many images, chosen by a seed that belongs to each."""
    if not settings.images or len(table) <= settings.images:
        return table
    order = np.argsort([seeds.derive(settings.seed, "explain", str(name)) for name in table["image_id"]])
    return table.iloc[np.sort(order[: settings.images])]


def _sample(table: pd.DataFrame, size: int) -> Sample:
    images = data.read_images(table, size)
    named = table["mask_path"].tolist() if "mask_path" in table else [None] * len(table)
    masks, known = np.zeros(images.shape[:3], bool), 0
    for i, path in enumerate(named):
        if isinstance(path, str) and path:
            masks[i] = square(_read_mask(Path(path)), size)
            known += bool(masks[i].any())
        else:
            masks[i] = lesion.lesion_mask(images[i])
    return Sample(images, masks, known)


def _read_mask(path: Path) -> np.ndarray:
    import cv2

    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise UserError(f"{path}, a lesion mask that data/splits names, cannot be read: run `dvc repro`.")
    return np.asarray(grey) > 127


def _see(
    network: networks.Network,
    sample: Sample,
    truth: np.ndarray,
    target: np.ndarray,
    positive: list[int],
    groups: np.ndarray,
    settings: Explain,
) -> Seen:
    from scipy.special import softmax

    found = maps.explain(network, sample.images, target, settings.attention)
    heat, cells, masks = found.values, found.cells, sample.masks
    p = softmax(found.logits.astype(np.float64), axis=1)
    score = np.where(target, p, 0).sum(axis=1)
    hit = (score > 0.5) == np.isin(truth, positive) if positive else p.argmax(axis=1) == truth
    beyond = measure.outside(heat, masks)
    known = np.isfinite(beyond)
    return Seen(
        heat,
        cells,
        found.method,
        score,
        hit,
        beyond,
        np.where(known, 1 - masks.mean(axis=(1, 2)), np.nan),
        np.where(known, measure.floor(masks, cells), np.nan),
        measure.erasure(network, sample.images, masks, heat, target, groups),
    )


def _describe(found: list[Seen], counts: np.ndarray) -> dict[str, Any]:
    """The figures of one architecture and mix: means over its seeds, with intervals."""
    out: dict[str, Any] = {"method": found[0].method, "cells": found[0].cells, "seeds": len(found)}
    for part in PARTS:
        chosen = [_part(one.hit, part) & np.isfinite(one.outside) for one in found]
        pairs = list(zip(found, chosen, strict=True))
        values = {
            "outside": [one.outside for one in found],
            "uniform": [one.uniform for one in found],
            "floor": [one.floor for one in found],
            "beyond_uniform": [one.outside - one.uniform for one in found],
            "erasure": [one.erasure for one in found],
        }
        alone = [one.outside[which].mean() for one, which in pairs if which.any()]
        out[part] = _means(values, chosen, counts) | {
            "outside_seed_sd": float(np.std(alone, ddof=1)) if len(alone) > 1 else None,
            "n": float(np.mean([which.sum() for which in chosen])),
            "no_map": float(np.mean([(_part(one.hit, part) & ~which).sum() for one, which in pairs])),
        }
    return out


def _contrast(a: list[Seen], b: list[Seen], counts: np.ndarray) -> dict[str, Any]:
    """How much more of a's attribution lies outside than of b's, on the same images, seed by seed.

    ``hits`` are the images that both answer rightly, ``misses`` those that both answer wrongly.
    """
    out: dict[str, Any] = {}
    for part in PARTS:
        differences = [one.outside - two.outside for one, two in zip(a, b, strict=True)]
        chosen = [
            _part(one.hit, part) & _part(two.hit, part) & np.isfinite(difference)
            for one, two, difference in zip(a, b, differences, strict=True)
        ]
        means = _means({"outside": differences}, chosen, counts)
        out[part] = means | {"n": float(np.mean([which.sum() for which in chosen]))}
    return out


def _part(hit: np.ndarray, part: str) -> np.ndarray:
    return {"all": np.ones_like(hit), "hits": hit, "misses": ~hit}[part]


def _means(values: dict[str, list[np.ndarray]], chosen: list[np.ndarray], counts: np.ndarray) -> dict[str, Any]:
    """Means over the chosen images of each seed, then over the seeds that have any, with intervals."""
    import warnings

    def one(value: np.ndarray, which: np.ndarray) -> np.ndarray:
        which = which & np.isfinite(value)
        return statistics.mean_over(value[which], counts[:, which])

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)  # no seed has such an image: NaN
        return evaluation.summary(
            {
                name: np.nanmean([one(v, which) for v, which in zip(per_seed, chosen, strict=True)], axis=0)[None]
                for name, per_seed in values.items()
            }
        )


def _picture(
    arch: str,
    samples: Mapping[int, Sample],
    seen: Mapping[str, list[Seen]],
    trained: list[int],
    truth: np.ndarray,
    classes: tuple[str, ...],
    positive: str,
    settings: Explain,
) -> bytes:
    """Images with the maps of the real- and the hybrid-trained network with the best validation AUC of its seeds.

    Right and wrong are those of the last one.
    """
    shown: dict[str, Seen] = {}
    for mix in [mix for mix in ("real", "hybrid") if mix in seen] or list(seen)[:1]:
        best = best_seed(arch, mix)
        shown[f"{mix}, seed {best}"] = seen[mix][trained.index(best) if best in trained else 0]
    last, judge = list(shown.items())[-1]
    sample = samples[judge.heat.shape[1]]

    def row(i: int) -> list[draw.Tile]:
        tiles = [draw.Tile(draw.overlay(sample.images[i], None, sample.masks[i]), classes[truth[i]])]
        for name, one in shown.items():
            said = f"{name.split(',')[0]}: {one.score[i]:.2f} {'right' if one.hit[i] else 'wrong'}"
            heat = one.heat[i] if one.heat[i].any() else None
            tile = draw.overlay(sample.images[i], heat, sample.masks[i])
            tiles.append(draw.Tile(tile, said if heat is not None else f"{said}, no map"))
        return tiles

    def drawn(i: int) -> int:
        return seeds.derive(settings.seed, "explain", "picture", arch, i)

    order, most = sorted(range(len(truth)), key=drawn), max(1, PER_BLOCK // len(classes))
    blocks = []
    for right, said in ((True, "right"), (False, "wrong")):
        rows = [
            i for k in range(len(classes)) for i in [i for i in order if judge.hit[i] == right and truth[i] == k][:most]
        ]
        blocks.append((f"{said}: {last}", [row(i) for i in rows]))
    what = f"p({positive})" if positive else "p(true class)"
    title = (
        f"{arch}: what speaks for {positive or 'the true class'}. Below a map: {what}. Maps of {' and '.join(shown)}"
    )
    return draw.grid(blocks, title)
