"""What curation finds, and whether what it keeps beats chance: on a finished project folder, which is only read.

python benchmarks/curation.py --project FOLDER [--only planted|random|downstream] [--draws 500] [--seeds 5]

planted: defects of one kind at a time, as many as a tenth of the pool, are added to it; the stage's own
measures and rules judge the whole. Each is made of an image that passes unplanted, or of a seed image.
`found`: rejected, for any reason; `named`: for the reason that fits. `false`: images of the pool that
passed without the planted ones, and now do not. A near-duplicate counts as found where one of the two goes.
random: KID and FID to the held-out test images, of the kept images and of random ones, as many of each class.
downstream: AUC of the classifiers of params.yaml trained on the same real images with the kept, or with random images.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from figures import machine, share

from derm_t2im import features, manifest, networks, paths, seeds
from derm_t2im.classify import data, statistics
from derm_t2im.classify import train as training
from derm_t2im.curation import brain
from derm_t2im.curation.decide import Outcome, curate
from derm_t2im.fidelity import copies
from derm_t2im.fidelity.fid import fid
from derm_t2im.fidelity.kid import kid, unit
from derm_t2im.imaging import hashing, quality
from derm_t2im.imaging.io import read_stack, write_png
from derm_t2im.params import load
from derm_t2im.params.curate import Curate
from derm_t2im.params.evaluate import Evaluate
from derm_t2im.params.train import Train
from derm_t2im.sources import phantom_parts as parts
from derm_t2im.stages import curate as stage

Rng = np.random.Generator
OTHER = "random:resnet18"  # features that nothing here was chosen with


@dataclass(frozen=True)
class Kind:
    """One kind of defect: what it is made of, how, and the reasons that would name it rightly."""

    source: str  # pool | seeds | nothing
    make: Callable[[np.ndarray, Rng], np.ndarray]
    right: tuple[str, ...]


def each(change: Callable[[np.ndarray, Rng], np.ndarray]) -> Callable[[np.ndarray, Rng], np.ndarray]:
    """A change of one image, for many."""
    return lambda images, rng: np.stack([change(image, rng) for image in images])


def drawn(images: np.ndarray, rng: Rng, draw: Callable[[Rng, np.ndarray], np.ndarray]) -> np.ndarray:
    """Something drawn over images at twice their size, as phantoms are drawn."""
    out = []
    for image in images:
        large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
        out.append(np.rint(parts.shrink(draw(rng, large), 2) * 255).clip(0, 255).astype(np.uint8))
    return np.stack(out)


def hair(rng: Rng, rgb: np.ndarray) -> np.ndarray:
    """Hair as on phantoms that can be seen: it changes at least 2 % of the image by 20 grey levels or more."""
    while True:
        hairy = parts.hair(rng, rgb, int(rng.integers(2, 13)), rng.random() < 0.15)[0]
        if (parts.shrink(np.abs(hairy - rgb).max(axis=2), 2) * 255 >= 20).mean() >= 0.02:
            return hairy


def ink(rng: Rng, rgb: np.ndarray) -> np.ndarray:
    """A surgical marker's strokes."""
    rgb = rgb.copy()
    parts.ink(rng, rgb)
    return rgb


def ruler(rng: Rng, rgb: np.ndarray) -> np.ndarray:
    """Tick marks along one side."""
    overlay = np.zeros((*rgb.shape[:2], 4), np.float32)
    parts.ruler(rng, overlay)
    return rgb * (1 - overlay[..., 3:]) + overlay[..., :3] * overlay[..., 3:]


def blur(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Gaussian, sigma 2 to 4 % of the side."""
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.02, 0.04) * len(image))


def noise(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Nothing but noise, of one of three grains."""
    cells = len(image) // int(rng.choice([1, 4, 8]))
    return cv2.resize(rng.integers(0, 256, (cells, cells, 3), np.uint8), image.shape[1::-1])


def noisy(image: np.ndarray, rng: Rng) -> np.ndarray:
    """The image under noise of 30 to 60 grey levels."""
    return (image + rng.normal(0, rng.uniform(30, 60), image.shape)).clip(0, 255).astype(np.uint8)


def objects(images: np.ndarray, rng: Rng) -> np.ndarray:
    """Pieces of scikit-learn's two photographs: a temple, and a flower."""
    from sklearn.datasets import load_sample_images

    photos, out = load_sample_images().images, []
    for image in images:
        photo = photos[rng.integers(len(photos))]
        side = int(rng.integers(len(image), min(photo.shape[:2])))
        top, left = rng.integers(0, photo.shape[0] - side), rng.integers(0, photo.shape[1] - side)
        piece = photo[top : top + side, left : left + side]
        out.append(cv2.resize(piece, image.shape[1::-1], interpolation=cv2.INTER_AREA))
    return np.stack(out)


def colours(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Hue turned by a quarter to three quarters, or all colours inverted."""
    if rng.random() < 0.3:
        return 255 - image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + int(rng.integers(45, 136))) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def copied(kind: str) -> Callable[[np.ndarray, Rng], np.ndarray]:
    """A copy as fidelity plants them."""
    return lambda images, rng: copies.plant(images, kind, rng)


def shifted(images: np.ndarray, rng: Rng) -> np.ndarray:
    """The image a little lighter or darker, and compressed."""
    lighter = images * rng.uniform(0.92, 1.08, (len(images), 1, 1, 1))
    return copies.plant(lighter.clip(0, 255).astype(np.uint8), "recompressed", rng)


TWIN = ("near_duplicate",)
COPY = ("copy",)
KINDS = {
    "hair": Kind("pool", lambda images, rng: drawn(images, rng, hair), ("hair",)),
    "ruler": Kind("pool", lambda images, rng: drawn(images, rng, ruler), ("ruler",)),
    "ink": Kind("pool", lambda images, rng: drawn(images, rng, ink), ("ink",)),
    "blur": Kind("pool", each(blur), ("blur",)),
    "off-manifold: noise": Kind("pool", each(noise), ("off_manifold",)),
    "off-manifold: under noise": Kind("pool", each(noisy), ("off_manifold",)),
    "off-manifold: photographs": Kind("pool", objects, ("off_manifold",)),
    "off-manifold: wrong colours": Kind("pool", each(colours), ("off_manifold",)),
    "copy: exact": Kind("seeds", copied("exact"), COPY),
    "copy: flipped, turned": Kind("seeds", copied("flipped"), COPY),
    "copy: cropped to 90 %": Kind("seeds", copied("cropped"), COPY),
    "copy: JPEG, quality 50": Kind("seeds", copied("recompressed"), COPY),
    "copy: blended 80/20": Kind("seeds", copied("blended"), COPY),
    "near-duplicate: exact": Kind("pool", copied("exact"), TWIN),
    "near-duplicate: flipped, turned": Kind("pool", copied("flipped"), TWIN),
    "near-duplicate: cropped to 90 %": Kind("pool", copied("cropped"), TWIN),
    "near-duplicate: JPEG, light": Kind("pool", shifted, TWIN),
    "label swapped": Kind("pool", copied("exact"), ("label_disagreement",)),
}


class Project:
    """A finished project's tables, features and probe; the working directory is its folder."""

    def __init__(self, limit: int) -> None:
        self.settings = load("curate", Curate)
        self.real = manifest.read(paths.SPLITS_MANIFEST)
        self.real = self.real[self.real["split"] != "unused"].reset_index(drop=True)
        self.of_real = features.load(paths.FEATURES_REAL)
        self.table = manifest.read(paths.SYNTHETIC_MANIFEST)
        self.table = self.table.iloc[: limit or None].reset_index(drop=True)
        self.encode = features.encoder(self.of_real.encoder, self.of_real.weights)
        self.probe = networks.load(paths.PROBE)
        self.images = read_stack(self.table["path"].tolist())
        self.folder = Path(tempfile.mkdtemp())
        train = self.real[self.real["split"] == "train"]
        self.seeds = train[train["seed_image"].fillna(False).astype(bool)]

    def judge(self, table: pd.DataFrame, images: np.ndarray) -> Outcome:
        """The stage's decision about a pool."""
        ids = table["image_id"].tolist()
        order = np.argsort(np.array(ids, dtype=object))
        names = tuple(ids[i] for i in order)
        found = features.Features(
            names,
            self.encode(images[order]),
            tuple(self.probe.classes),
            self.probe.predict(images[order]),
            self.of_real.encoder,
            self.of_real.weights,
        )
        pool = stage.gather(table, found, self.real, self.settings)
        rows = self.of_real.rows(self.real["image_id"])
        return curate(pool, self.real, rows, [], self.settings, brain.uniqueness, brain.near_duplicates)

    @cached_property
    def before(self) -> pd.DataFrame:
        """The pool as judged without anything planted."""
        return self.judge(self.table, self.images).synthetic

    @cached_property
    def passed(self) -> np.ndarray:
        """bool (n,): nothing speaks against it."""
        return stands(self.before)


def stands(judged: pd.DataFrame) -> np.ndarray:
    """Images that no rule rejects, whether drawn out for balance or not."""
    reason = judged["reason"].to_numpy(dtype=object)
    return np.array([bool(pd.isna(value)) or value == "surplus" for value in reason])


def measured(folder: Path, image_id: str, image: np.ndarray, like: pd.Series) -> pd.Series:
    """The row of a planted image, which is written: measured as the stage `generate` measures."""
    write_png(folder / f"{image_id}.png", image)
    return pd.Series(
        {**like, "image_id": image_id, "path": str(folder / f"{image_id}.png"), "phash": hashing.phash(image),
         **quality.measure(image)}
    )  # fmt: skip


def planted(project: Project, only: str = "") -> None:
    """One line per kind of defect."""
    n, count = len(project.table), len(project.table) // 10
    print(f"pool {n}, planted {count} of each kind (copies: of {len(project.seeds)} seed images)")
    print(f"passed before planting: {project.passed.sum()}; rejected {dict(reasons(project.before))}")
    print(f"{'kind':34s}{'found':24s}{'named':24s}{'false':24s}  otherwise")
    labels = sorted(project.real.loc[project.real["split"] == "train", "label"].unique())
    totals = [0, 0]
    for name, kind in KINDS.items():
        if not name.startswith(only):
            continue
        rng = seeds.generator(0, "benchmark curation", name)
        if kind.source == "seeds":
            at = np.sort(rng.permutation(len(project.seeds))[:count])
            rows, originals = project.seeds.iloc[at], read_stack(project.seeds["path"].iloc[at].tolist())
            like = project.table.iloc[rng.integers(0, n, len(at))].copy()
            like["label"] = rows["label"].to_numpy()
        else:
            at = np.sort(rng.permutation(np.flatnonzero(project.passed))[:count])
            like, originals = project.table.iloc[at].copy(), project.images[at]
        made = kind.make(originals, rng)
        if name == "label swapped":
            like["label"] = [labels[1 - labels.index(label)] for label in like["label"]]
        ids = [f"planted-{i:06d}" for i in range(len(made))]
        rows = pd.DataFrame(
            [measured(project.folder, *one) for one in zip(ids, made, (r for _, r in like.iterrows()), strict=True)]
        )
        table, images, clean = project.table, project.images, np.ones(n, bool)
        if name == "label swapped":  # the very image, in its place
            clean[at] = False
            table, images = table[clean], images[clean]
        table = pd.concat([table, rows], ignore_index=True)[project.table.columns]
        outcome = project.judge(table, np.concatenate([images, made])).synthetic
        ok = stands(outcome)
        was = project.passed[clean]
        lost = was & ~ok[: len(was)]
        gone = ~ok[len(was) :]
        reason = outcome["reason"].to_numpy(dtype=object)
        named = gone & np.isin(reason[len(was) :].astype(str), kind.right)
        if kind.right == TWIN:  # which of the two goes does not matter
            swapped = lost[at] & (reason[at].astype(str) == "near_duplicate")
            gone, named = gone | swapped, named | swapped
            lost[at[swapped]] = False
        print(
            f"{name:34s}{share(int(gone.sum()), len(gone)):24s}{share(int(named.sum()), len(named)):24s}"
            f"{share(int(lost.sum()), int(was.sum())):24s}  "
            f"{dict(pd.Series(reason[len(was) :][gone & ~named]).value_counts())}",
            flush=True,
        )
        totals[0] += int(gone.sum())
        totals[1] += len(gone)
    print(f"{'all':34s}{share(*totals)}")
    real_images(project)


def real_images(project: Project) -> None:
    """What each rule would reject of real test images, which nothing was set with."""
    test = project.real[project.real["split"] == "test"].reset_index(drop=True)
    test = test.drop(columns=["copy_of"], errors="ignore")
    images = read_stack(test["path"].tolist())
    rows = pd.DataFrame([quality.measure(image) for image in images])
    table = test.drop(columns=list(rows.columns)).join(rows)
    outcome = project.judge(table, images).synthetic
    ok = stands(outcome)
    print(f"real test images (hair removed) rejected: {share(int((~ok).sum()), len(ok))} {dict(reasons(outcome))}")


def random_sets(project: Project, draws: int) -> None:
    """KID and FID of the kept images beside random ones, in the probe's features and in ones that no rule used."""
    test = project.real[project.real["split"] == "test"]
    held = read_stack(test["path"].tolist())
    kept = (project.before["decision"] == "kept").to_numpy(dtype=bool)
    print(f"kept {kept.sum()}, of random sets {draws}; held-out test images {len(test)}")
    print(f"{'features':26s}{'measure':8s}{'kept':>10s}  {'random (95 % of the sets)':30s}{'no worse than kept':>20s}")
    for name in (project.of_real.encoder, OTHER):
        own = name == "probe" or name.startswith(features.RANDOM)
        encode = project.encode if name == project.of_real.encoder else features.encoder(name)
        scaled = unit if own else np.asarray
        real, made = scaled(encode(held)), scaled(encode(project.images))
        for measure, most in ((kid, draws), (fid, draws // 5)):
            value = measure(made[kept], real)
            others = np.array([measure(made[drawn_like(project, kept, k)], real) for k in range(most)])
            low, high = np.percentile(others, (2.5, 97.5))
            line = f"{others.mean():.4g} ({low:.4g} to {high:.4g})"
            no_worse = f"{(others <= value).sum()} of {most}"
            print(f"{name:26s}{measure.__name__.upper():8s}{value:10.4g}  {line:30s}{no_worse:>20s}")


def drawn_like(project: Project, kept: np.ndarray, draw: int) -> np.ndarray:
    """Rows of the pool: at random, as many of each class as are kept."""
    rng, label = seeds.generator(0, "benchmark random", draw), project.table["label"].to_numpy(dtype=object)
    classes = sorted(set(label))
    return np.concatenate(
        [rng.permutation(np.flatnonzero(label == c))[: int((kept & (label == c)).sum())] for c in classes]
    )


def downstream(project: Project, arch: str, runs: int) -> None:
    """AUC on real test images: trained on real and kept against real and random images, seed by seed."""
    from scipy import stats

    how = load("train", Train)
    model, real = how.models[arch], project.real
    splits = {name: real[real["split"] == name] for name in ("train", "val", "test", "external")}
    classes = data.class_names(splits["train"])
    positive = classes.index(load("evaluate", Evaluate).positive)

    def images(table: pd.DataFrame) -> training.Images:
        return training.Images.of(data.read_images(table), data.encode(list(table["label"]), classes))

    shown = {name: images(table) for name, table in splits.items() if len(table)}
    own, label = shown["train"], data.encode(list(project.table["label"]), classes)
    kept = np.flatnonzero((project.before["decision"] == "kept").to_numpy(dtype=bool))
    gains: dict[str, list[tuple[float, float]]] = {name: [] for name in ("test", "external") if name in shown}
    for seed in range(runs):
        found: dict[str, list[float]] = {name: [] for name in gains}
        for rows in (kept, drawn_like(project, np.isin(np.arange(len(label)), kept), 10_000 + seed)):
            mix = training.Images.of(
                np.concatenate([own.pixels, project.images[rows]]), np.concatenate([own.labels, label[rows]])
            )
            start = seeds.derive(seed, "benchmark classifier", arch)
            network = networks.build(model.timm, model.options, classes, own.pixels.shape[1], model.weights, start)
            settings = training.Settings(
                steps=how.steps, batch=how.batch, lr=model.lr, weight_decay=how.weight_decay, warmup=how.warmup,
                label_smoothing=how.label_smoothing, evaluate_every=how.evaluate_every, augment=how.augment,
            )  # fmt: skip
            training.fit(network, mix, settings, start, shown["val"])
            for name in gains:
                truth = shown[name].labels == positive
                score = network.predict(shown[name].pixels)[:, positive]
                found[name].append(float(statistics.auc(score, truth, np.ones((1, len(truth))))[0]))
        for name, pair in found.items():
            gains[name].append((pair[0], pair[1]))
            print(f"  {arch} {name} seed {seed}: kept {pair[0]:.3f}, random {pair[1]:.3f}", flush=True)
    for name, pairs in gains.items():
        values = np.array(pairs)
        gain = values[:, 0] - values[:, 1]
        reach = float(stats.t.ppf(0.975, len(gain) - 1)) * gain.std(ddof=1) / np.sqrt(len(gain))
        print(
            f"{arch:14s}{name:10s}kept {values[:, 0].mean():.3f}  random {values[:, 1].mean():.3f}  difference "
            f"{gain.mean():+.3f} ({gain.mean() - reach:+.3f} to {gain.mean() + reach:+.3f}), {runs} pairs",
            flush=True,
        )


def reasons(judged: pd.DataFrame) -> pd.Series:
    """How many are rejected for each reason."""
    return judged.loc[~stands(judged), "reason"].value_counts()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, required=True, help="folder with data/, models/ and params.yaml")
    parser.add_argument("--only", choices=["planted", "random", "downstream"])
    parser.add_argument("--draws", type=int, default=500, help="random sets for KID and FID")
    parser.add_argument("--seeds", type=int, default=5, help="trainings on each set")
    parser.add_argument("--kinds", default="", help="only kinds of defects whose name starts so")
    parser.add_argument("--limit", type=int, default=0, help="of the pool; 0 = all")
    asked = parser.parse_args()
    os.chdir(asked.project)
    cv2.setNumThreads(1)
    print(machine())
    project = Project(asked.limit)
    if asked.only in (None, "planted"):
        planted(project, asked.kinds)
    if asked.only in (None, "random"):
        random_sets(project, asked.draws)
    if asked.only in (None, "downstream"):
        for arch in load("train", Train).archs:
            downstream(project, arch, asked.seeds)


if __name__ == "__main__":
    main()
