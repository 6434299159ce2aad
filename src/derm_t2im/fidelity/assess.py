"""All metrics of a synthetic set against held-out real images, as they stand in metrics/fidelity.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from derm_t2im import seeds
from derm_t2im.fidelity import copies, pixels
from derm_t2im.fidelity.class_score import inception_score
from derm_t2im.fidelity.cmmd import BANDWIDTH, bandwidth, cmmd_floor, cmmd_interval
from derm_t2im.fidelity.detail import Confirm
from derm_t2im.fidelity.estimate import NONE, Estimate, share
from derm_t2im.fidelity.fid import fid_infinity, fid_interval
from derm_t2im.fidelity.kid import kid_floor, kid_interval, unit
from derm_t2im.fidelity.prdc import PRDC, prdc
from derm_t2im.fidelity.shortcuts import shortcuts
from derm_t2im.fidelity.vendi import vendi_interval

#: Keys beside the labels: a class of such a name would be mistaken for them.
RESERVED = ("all", "copies", "external", "samplers", "shortcuts", "tones")
#: Metrics of two sets that have a ceiling: the same of noise against the real images.
COMPARED = ("kid", "cmmd", "fid", "fid_infinity", "precision", "recall", "density", "coverage")

Encode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Images:
    """What is known of n images.

    ``features`` (n, d), ``labels`` (n,), ``thumbs`` uint8 (n, s, s, 3), ``probabilities`` (n, k) that the probe gives
    each class, ``predicted`` (n,) its first choice; ``tones`` and ``samplers`` (n,), None where not known.
    """

    features: np.ndarray
    labels: np.ndarray
    thumbs: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    tones: np.ndarray
    samplers: np.ndarray

    def __len__(self) -> int:
        """Number of images."""
        return len(self.features)

    def where(self, rows: np.ndarray) -> Images:
        """Those of a mask (n,)."""
        return Images(**{name: values[rows] for name, values in vars(self).items()})


def flat(estimates: dict[str, Estimate]) -> dict[str, float]:
    """Estimates as metrics: name, name_low, name_high."""
    return {key: value for name, estimate in estimates.items() for key, value in estimate.keys(name).items()}


def compare(
    real: np.ndarray,
    synthetic: np.ndarray,
    noise: np.ndarray | None = None,
    neighbours: int = 5,
    seed: int = 0,
    equal_length: bool = False,
    bandwidth: float = BANDWIDTH,
) -> dict[str, Any]:
    """Every feature-space metric of ``synthetic`` (n, d) against held-out ``real`` (m, d).

    KID and FID depend on the features' scale: ``equal_length`` says that it means nothing (see
    :func:`derm_t2im.fidelity.kid.unit`) and is to be taken out. ``bandwidth`` is CMMD's.

    A metric ``x`` stands beside its floor ``x_real``, the same of one random half of the real images against
    the other (``kid_floor`` and ``cmmd_floor``, over many halvings), and its ceiling ``x_noise``, the same of ``noise``
    (h, d). The Vendi scores are of equally many images, ``vendi_n``. Metrics that the numbers of images do not allow
    are NaN.
    """
    m, n = len(real), len(synthetic)
    order = np.random.default_rng(seed).permutation(m)
    one, other = real[order[: m // 2]], real[order[m // 2 :]]
    scaled = unit if equal_length else np.asarray

    def measured(a: np.ndarray, b: np.ndarray) -> dict[str, Estimate]:
        fewest, x, y = min(len(a), len(b)), scaled(a), scaled(b)
        return {
            "kid": kid_interval(y, x) if fewest >= 3 else NONE,
            "cmmd": cmmd_interval(b, a, bandwidth) if fewest >= 3 else NONE,
            "fid": fid_interval(y, x, seed=seed) if fewest >= 4 else NONE,
            "fid_infinity": fid_infinity(y, x, seed=seed) if fewest >= 20 else NONE,
            **(prdc(a, b, neighbours) if fewest > neighbours else dict.fromkeys(PRDC, NONE)),
        }

    found = measured(real, synthetic)
    halves = measured(one, other)
    found["kid_floor"] = kid_floor(scaled(real), seed=seed) if m >= 4 else NONE
    found["cmmd_floor"] = cmmd_floor(real, bandwidth, seed=seed) if m >= 4 else NONE
    found.update({f"{name}_real": halves[name] for name in ("fid", "fid_infinity", *PRDC)})
    alike = min(m, n)
    if alike:
        chosen = np.random.default_rng(seed).permutation(n)[:alike]
        found["vendi"] = vendi_interval(synthetic[chosen], seed=seed)
        found["vendi_real"] = vendi_interval(real[order[:alike]], seed=seed)
    else:
        found["vendi"] = found["vendi_real"] = NONE
    out = {**flat(found), "vendi_n": alike, "n_real": m, "n_synthetic": n}
    if noise is not None and m:
        ceiling = measured(real, noise)
        out |= {f"{name}_noise": ceiling[name].value for name in COMPARED}
    return out


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
    noise: np.ndarray | None = None,
    clip: bool = False,
) -> dict[str, Any]:
    """Metrics per class, of all, per sampler and per skin-tone group, and shortcuts.

    Args:
        real: Held-out real images, which neither the generator nor the probe has learnt from.
        synthetic: The set to judge.
        known: Classes that the probe knows.
        neighbours: k of the nearest-neighbour metrics.
        bootstrap: Draws behind bootstrap intervals.
        seed: For all that is random.
        equal_length: As for :func:`compare`.
        noise: Features of noise (h, d), the ceiling.
        clip: Whether the features are CLIP's, for which CMMD's own bandwidth is meant.

    Raises:
        ValueError: if a class bears a reserved name.
    """
    labels = sorted(set(real.labels) | set(synthetic.labels))
    clash = set(labels) & set(RESERVED)
    if clash:
        raise ValueError(f"classes must not be called {', '.join(sorted(clash))}")
    width = BANDWIDTH if clip or len(real) < 2 else bandwidth(real.features)

    def judged(a: Images, b: Images, name: str) -> dict[str, Any]:
        part = seeds.derive(seed, "compare", name)
        return {
            **compare(a.features, b.features, noise, neighbours, part, equal_length, width),
            **inception_score(b.probabilities).keys("inception_score"),
            **inception_score(a.probabilities).keys("inception_score_real"),
            **disagreement(b, known).keys("label_disagreement"),
            **disagreement(a, known).keys("label_disagreement_real"),
        }

    out: dict[str, Any] = {
        label: judged(real.where(real.labels == label), synthetic.where(synthetic.labels == label), label)
        for label in labels
    }
    out["all"] = judged(real, synthetic, "all")
    out["samplers"] = {
        name: judged(real, synthetic.where(synthetic.samplers == name), f"sampler {name}")
        for name in _names(synthetic.samplers)
    }
    out["tones"] = {
        name: judged(real.where(real.tones == name), synthetic.where(synthetic.tones == name), f"tone {name}")
        for name in _names(synthetic.tones)
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


def _names(values: np.ndarray) -> list[str]:
    return sorted({name for name in values if isinstance(name, str)})


def views(batches: Iterator[np.ndarray], encode: Encode) -> dict[str, np.ndarray]:
    """References for :class:`copies.Search`: space -> (views, m, d), from batches uint8 (b, h, w, 3).

    The encoder sees them in every turn; the others are those of :func:`pixels.references`.
    """
    return pixels.joined(
        {"features": np.stack([encode(view) for view in pixels.turns(images)]).astype(np.float64)}
        | pixels.references(images)
        for images in batches
    )


def spaces(features: np.ndarray, thumbs: np.ndarray) -> dict[str, np.ndarray]:
    """Features (n, d) and thumbnails of images as :class:`copies.Search` takes them: space -> (n, d)."""
    return {"features": features.astype(np.float64), **pixels.spaces(thumbs)}


def planted(
    originals: np.ndarray, search: copies.Search, encode: Encode, seed: int, confirm: Confirm | None = None
) -> dict[str, Any]:
    """Whether a search finds copies that are known to be copies.

    Args:
        originals: uint8 (n, h, w, 3), some of the references.
        search: The search.
        encode: The encoder.
        seed: For crops and turns.
        confirm: The second look, if any.

    Returns:
        ``planted_recall`` over all kinds of :data:`copies.KINDS` with its interval, ``planted_n``,
        and ``planted.<kind>``.
    """
    by_kind, hits = {}, []
    for kind in copies.KINDS:
        made = copies.plant(originals, kind, seeds.generator(seed, "plant", kind))
        suspected = search.find(spaces(encode(made), pixels.thumbnails(made)))
        flagged = (confirm(made, suspected) if confirm else suspected).flagged
        by_kind[kind] = float(flagged.mean())
        hits.append(flagged)
    recall = share(np.concatenate(hits))
    return {**recall.keys("planted_recall"), "planted_n": recall.n, "planted": by_kind}
