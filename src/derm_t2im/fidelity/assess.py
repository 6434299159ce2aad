"""All metrics of a synthetic set against held-out real images, as they stand in metrics/fidelity.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from derm_t2im import seeds
from derm_t2im.fidelity import copies, pixels
from derm_t2im.fidelity.estimate import NONE, Estimate, share
from derm_t2im.fidelity.fid import fid_interval
from derm_t2im.fidelity.kid import kid_floor, kid_interval, unit
from derm_t2im.fidelity.prdc import prdc
from derm_t2im.fidelity.shortcuts import shortcuts
from derm_t2im.fidelity.vendi import vendi_interval

#: Keys beside the labels: a class of such a name would be mistaken for them.
RESERVED = ("all", "copies", "external", "shortcuts")

Encode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Images:
    """What is known of n images: features (n, d), labels (n,), thumbnails uint8 (n, s, s, 3), the
    class that the probe gives each (n,)."""

    features: np.ndarray
    labels: np.ndarray
    thumbs: np.ndarray
    predicted: np.ndarray

    def __len__(self) -> int:
        """Number of images."""
        return len(self.features)

    def of(self, label: str) -> Images:
        """Those of one class."""
        rows = self.labels == label
        return Images(self.features[rows], self.labels[rows], self.thumbs[rows], self.predicted[rows])


def flat(estimates: dict[str, Estimate]) -> dict[str, float]:
    """Estimates as metrics: name, name_low, name_high."""
    return {key: value for name, estimate in estimates.items() for key, value in estimate.keys(name).items()}


def compare(
    real: np.ndarray, synthetic: np.ndarray, neighbours: int = 5, seed: int = 0, equal_length: bool = False
) -> dict[str, Any]:
    """Every feature-space metric of ``synthetic`` (n, d) against held-out ``real`` (m, d).

    KID and FID depend on the features' scale: ``equal_length`` says that it means nothing (see
    :func:`derm_t2im.fidelity.kid.unit`) and is to be taken out.

    A metric ``x`` stands beside ``x_real``, the same of one random half of the real images against
    the other (``kid_floor`` for KID, over many halvings). The Vendi scores are of equally many
    images, ``vendi_n``. Metrics that the numbers of images do not allow are NaN.
    """
    m, n = len(real), len(synthetic)
    found: dict[str, Estimate] = {}
    order = np.random.default_rng(seed).permutation(m)
    one, other = real[order[: m // 2]], real[order[m // 2 :]]
    names = ("precision", "recall", "density", "coverage")
    scaled = unit if equal_length else np.asarray
    found["kid"] = kid_interval(scaled(synthetic), scaled(real)) if min(m, n) >= 3 else NONE
    found["kid_floor"] = kid_floor(scaled(real), seed=seed) if m >= 4 else NONE
    found["fid"] = fid_interval(scaled(synthetic), scaled(real), seed=seed) if min(m, n) >= 4 else NONE
    found["fid_real"] = fid_interval(scaled(one), scaled(other), seed=seed) if m >= 8 else NONE
    found.update(prdc(real, synthetic, neighbours) if min(m, n) > neighbours else dict.fromkeys(names, NONE))
    halves = prdc(one, other, neighbours) if m // 2 > neighbours else dict.fromkeys(names, NONE)
    found.update({f"{name}_real": halves[name] for name in names})
    alike = min(m, n)
    if alike:
        chosen = np.random.default_rng(seed).permutation(n)[:alike]
        found["vendi"] = vendi_interval(synthetic[chosen], seed=seed)
        found["vendi_real"] = vendi_interval(real[order[:alike]], seed=seed)
    else:
        found["vendi"] = found["vendi_real"] = NONE
    return {**flat(found), "vendi_n": alike, "n_real": m, "n_synthetic": n}


def disagreement(images: Images, known: tuple[str, ...]) -> Estimate:
    """Share of images to which the probe gives another class than their label; labels it never saw do not count."""
    judged = np.isin(images.labels, known)
    return share(images.predicted[judged] != images.labels[judged])


def assess(
    real: Images,
    synthetic: Images,
    known: tuple[str, ...],
    neighbours: int,
    bootstrap: int,
    seed: int,
    equal_length: bool = False,
) -> dict[str, Any]:
    """Metrics per class and of all, and shortcuts.

    Args:
        real: Held-out real images, which neither the generator nor the probe has learnt from.
        synthetic: The set to judge.
        known: Classes that the probe knows.
        neighbours: k of the nearest-neighbour metrics.
        bootstrap: Draws behind bootstrap intervals.
        seed: For all that is random.
        equal_length: As for :func:`compare`.

    Raises:
        ValueError: if a class bears a reserved name.
    """
    labels = sorted(set(real.labels) | set(synthetic.labels))
    clash = set(labels) & set(RESERVED)
    if clash:
        raise ValueError(f"classes must not be called {', '.join(sorted(clash))}")
    out: dict[str, Any] = {}
    for name in (*labels, "all"):
        a, b = (real, synthetic) if name == "all" else (real.of(name), synthetic.of(name))
        out[name] = {
            **compare(a.features, b.features, neighbours, seeds.derive(seed, "compare", name), equal_length),
            **disagreement(b, known).keys("label_disagreement"),
            **disagreement(a, known).keys("label_disagreement_real"),
        }
    probes = shortcuts(
        real.thumbs,
        real.labels,
        synthetic.thumbs,
        synthetic.labels,
        bootstrap,
        seeds.derive(seed, "shortcuts"),
    )
    out["shortcuts"] = {**flat(probes), "n": next(iter(probes.values())).n}
    return out


def views(batches: Iterator[np.ndarray], encode: Encode) -> dict[str, np.ndarray]:
    """References for :func:`copies.find`: space -> (views, m, d), from batches uint8 (b, h, w, 3).

    The encoder sees them in every turn; small pictures, which are cheap, are cropped too.
    """
    embedded: list[list[np.ndarray]] = []
    pictures: list[list[np.ndarray]] = []
    for images in batches:
        embedded.append([encode(view) for view in pixels.turns(images)])
        small = [pixels.thumbnails(crop) for crop in (images, *pixels.crops(images))]
        pictures.append([pixels.standardised(view) for crop in small for view in pixels.turns(crop)])
    return {
        "features": np.stack([np.concatenate(view) for view in zip(*embedded, strict=True)]).astype(np.float64),
        "pixels": np.stack([np.concatenate(view) for view in zip(*pictures, strict=True)]),
    }


def spaces(images: Images) -> dict[str, np.ndarray]:
    """Images as :class:`copies.Search` takes them: space -> (n, d)."""
    return {
        "features": images.features.astype(np.float64),
        "pixels": pixels.standardised(images.thumbs),
    }


def planted(originals: np.ndarray, search: copies.Search, encode: Encode, seed: int) -> dict[str, Any]:
    """Whether a search finds copies that are known to be copies.

    Args:
        originals: uint8 (n, h, w, 3), some of the references.
        search: The search.
        encode: The encoder.
        seed: For crops and turns.

    Returns:
        ``planted_recall`` over all kinds of :data:`copies.KINDS` with its interval, ``planted_n``,
        and ``planted.<kind>``; ``blended`` copies (80/20) are listed but do not count.
    """
    by_kind, hits = {}, []
    for kind in (*copies.KINDS, "blended"):
        made = copies.plant(originals, kind, seeds.generator(seed, "plant", kind))
        query = {
            "features": encode(made).astype(np.float64),
            "pixels": pixels.standardised(pixels.thumbnails(made)),
        }
        flagged = search.find(query).flagged
        by_kind[kind] = float(flagged.mean())
        if kind in copies.KINDS:
            hits.append(flagged)
    recall = share(np.concatenate(hits))
    return {**recall.keys("planted_recall"), "planted_n": recall.n, "planted": by_kind}
