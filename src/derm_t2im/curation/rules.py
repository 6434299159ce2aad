"""Which synthetic images stay: pure functions from measured columns to one decision and one reason each.

An image is rejected for the first reason that applies, in the order of :data:`REASONS`: what a
person decided, then what can be seen on the image itself (artefacts, blur), then its place among
the real images, then what the probe reads from it, then its place among the synthetic images. So a
near-duplicate is one of an image that would otherwise stay, and a surplus image has no other fault.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from derm_t2im import seeds
from derm_t2im.intervals import wilson

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.params.curate import Curate

KEPT = "kept"
REJECTED = "rejected"

#: Every reason for a rejection, first to last, and what it means.
REASONS: dict[str, str] = {
    "reviewer": "a person discarded it",
    "unmeasured": "a value that the rules need could not be measured",
    "ruler": "it shows a ruler",
    "ink": "it shows ink marks",
    "hair": "hair covers more of it than of real images as preprocessed",
    "blur": "it has less fine detail than its pool, given how much real images vary",
    "off_manifold": "it is farther from every real training image than held-out real images are",
    "copy": "it may repeat a real training image",
    "label_disagreement": "the probe does not see the label that the prompt asked for",
    "low_uniqueness": "too many others look like it",
    "near_duplicate": "another image that stays looks the same",
    "surplus": "drawn out to keep the classes equal and the total within curate.keep",
}

#: Columns that :func:`judge` reads.
MEASURED = (
    "hair_fraction",
    "ruler",
    "ink",
    "fine_detail",
    "nearest_real_distance",
    "label_probability",
    "uniqueness",
)


@dataclass(frozen=True)
class Limits:
    """The bounds behind the rules, in the units of the columns they bound.

    ``far_share`` is the share of held-out real images beyond ``off_manifold``, ``close_share`` that of
    those that the search for copies may flag.
    """

    hair: float
    ruler: float
    ink: float
    detail: float
    off_manifold: float
    label_probability: float
    uniqueness: float
    near_duplicate: float
    far_share: float
    close_share: float


def limits(
    settings: Curate,
    real_hair: np.ndarray,
    real_detail: np.ndarray,
    heldout_distances: np.ndarray,
    near_duplicate: float,
) -> Limits:
    """Bounds from the parameters and from what real images look like.

    Args:
        settings: Section `curate`.
        real_hair: ``hair_left`` of the real training images.
        real_detail: ``fine_detail`` of the real training images, scaled to the pool's median where that is lower.
        heldout_distances: Distance of each held-out real image to the nearest training image:
            the null that outliers are judged against.
        near_duplicate: Distance within which two synthetic images look the same.

    Raises:
        ValueError: if one of the arrays is empty or not finite.
    """
    for name, values in (("hair", real_hair), ("detail", real_detail), ("distances", heldout_distances)):
        if not len(values) or not np.isfinite(values).all():
            raise ValueError(f"the real images' {name} must be finite and not empty")
    return Limits(
        hair=max(settings.max_hair_fraction, float(np.quantile(real_hair, settings.hair_quantile))),
        ruler=settings.max_ruler,
        ink=settings.max_ink,
        detail=float(np.quantile(real_detail, settings.sharpness_quantile))
        if settings.sharpness_quantile > 0
        else -math.inf,
        # 0 above and 1 here turn the rule off: every distance is within the last quantile of an endless set
        off_manifold=float(np.quantile(heldout_distances, settings.off_manifold_quantile))
        if settings.off_manifold_quantile < 1
        else math.inf,
        label_probability=settings.min_label_probability,
        uniqueness=settings.min_uniqueness,
        near_duplicate=near_duplicate,
        far_share=1 - settings.off_manifold_quantile,
        close_share=settings.copy_quantile,
    )


@dataclass
class Findings:
    """Per image why it is rejected, None where it is not, and a sentence; object arrays (n,)."""

    reason: np.ndarray
    explanation: np.ndarray

    @classmethod
    def none(cls, n: int) -> Findings:
        """Nothing found against n images."""
        return cls(np.full(n, None, dtype=object), np.full(n, None, dtype=object))

    def note(self, i: int | np.integer, reason: str | None, explanation: str | None) -> None:
        """Replace what is said about image ``i``."""
        self.reason[i], self.explanation[i] = reason, explanation

    @property
    def passed(self) -> np.ndarray:
        """bool (n,), images that nothing speaks against."""
        return np.array([reason is None for reason in self.reason], dtype=bool)


def pair_share(settings: Curate, n: int) -> float:
    """Share of pairs that may be closer than the limit for near-duplicates, in a pool of ``n`` images.

    Chosen such that an image of a pool as varied as the real images has a neighbour within the
    limit with probability ``near_duplicate_quantile``.
    """
    return 1 - (1 - settings.near_duplicate_quantile) ** (1 / max(n - 1, 1))


def judge(table: pd.DataFrame, bounds: Limits) -> Findings:
    """The first rule that speaks against each row.

    The rules that look at one image at a time: all of :data:`REASONS` but the reviewer's,
    near-duplicates and the surplus.

    Args:
        table: Rows with the columns :data:`MEASURED`, ``label``, ``nearest_real_id``, ``probe_label`` and
            ``copy_of``, the id of a real image that it repeats, or None.
        bounds: The bounds.
    """
    value = {name: table[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in MEASURED}
    tests = (
        ("unmeasured", ~np.isfinite(np.stack(list(value.values()))).all(axis=0)),
        ("ruler", value["ruler"] > bounds.ruler),
        ("ink", value["ink"] > bounds.ink),
        ("hair", value["hair_fraction"] > bounds.hair),  # after ink, whose thin strokes count as hair too
        ("blur", value["fine_detail"] < bounds.detail),
        ("off_manifold", value["nearest_real_distance"] > bounds.off_manifold),
        ("copy", table["copy_of"].notna().to_numpy(dtype=bool)),
        ("label_disagreement", value["label_probability"] < bounds.label_probability),
        ("low_uniqueness", value["uniqueness"] < bounds.uniqueness),
    )
    found = Findings.none(len(table))
    open_ = np.ones(len(table), dtype=bool)
    for reason, applies in tests:
        hit = open_ & applies
        open_ &= ~hit
        for i in np.flatnonzero(hit):
            found.note(i, reason, _explain(reason, table.iloc[int(i)], bounds))
    return found


def _explain(reason: str, row: pd.Series, bounds: Limits) -> str:
    if reason == "unmeasured":
        measured = row[list(MEASURED)].to_numpy(dtype=np.float64, na_value=np.nan)
        missing = [name for name, value in zip(MEASURED, measured, strict=True) if not np.isfinite(value)]
        return f"Not measured: {', '.join(missing)}."
    if reason == "hair":
        return f"Hair covers {row['hair_fraction']:.1%} of it; at most {bounds.hair:.1%} is allowed."
    if reason in ("ruler", "ink"):
        what = {"ruler": "a ruler", "ink": "ink"}[reason]
        return f"The score for {what} is {row[reason]:.2f}; at most {getattr(bounds, reason):.2f} is allowed."
    if reason == "blur":
        return (
            f"Its finest detail has {row['fine_detail']:.4g} of the contrast of coarser detail; this pool, varying as "
            f"real images do, has at least {bounds.detail:.4g}."
        )
    if reason == "off_manifold":
        return (
            f"The nearest real image, {row['nearest_real_id']}, is {row['nearest_real_distance']:.4g} away; "
            f"only {bounds.far_share:.2%} of held-out real images are beyond {bounds.off_manifold:.4g}."
        )
    if reason == "copy":
        return (
            f"Suspected copy of the real training image {row['copy_of']}, maybe turned or cropped: only "
            f"{bounds.close_share:.2%} of held-out real images stand so much nearer to one than to the next ones."
        )
    if reason == "label_disagreement":
        return (
            f"The probe gives {row['label']} a probability of {row['label_probability']:.2f} (it sees "
            f"{row['probe_label']}); at least {bounds.label_probability:.2f} is needed."
        )
    return f"Its uniqueness is {row['uniqueness']:.3f}; at least {bounds.uniqueness:.3f} is needed."


@dataclass(frozen=True)
class Balance:
    """What balancing did.

    Attributes:
        kept: bool (n,), which images stay.
        target: Images wanted per class.
        per_class: Images kept per class, equal for all.
        available: Images per class that could have stayed.
        needed: Size of the pool that would meet the target, or the pool's own where it does; 0
            where no size would, because a class keeps nothing.
    """

    kept: np.ndarray
    target: int
    per_class: int
    available: dict[str, int]
    needed: int


def balance(
    image_ids: list[str],
    labels: list[str],
    passed: np.ndarray,
    first: np.ndarray,
    classes: list[str],
    keep: int,
    seed: int,
    tones: list[str] | None = None,
) -> Balance:
    """Equally many images of each class, ``keep`` in all at most, and within a class of each skin tone.

    A class that is short makes the others shrink: equal classes come before the total. A tone that is short does not:
    the others of its class take its place. Who stays is drawn, in an order that depends on the image's id alone.

    Args:
        image_ids: Ids, n of them.
        labels: The label asked for, n of them.
        passed: bool (n,), no rule applies.
        first: bool (n,), kept before the others of their class (a reviewer wants them).
        classes: All classes that are wanted.
        keep: Most images to keep.
        seed: Of the draw.
        tones: The measured skin tone, n of them; without it tones are as among those that passed.
    """
    label = np.array(labels, dtype=object)
    available = {name: int((passed & (label == name)).sum()) for name in classes}
    target = keep // len(classes)
    per_class = min([target, *available.values()])
    order = sorted(range(len(image_ids)), key=lambda i: (not first[i], seeds.derive(seed, "keep", image_ids[i])))
    kept = np.zeros(len(image_ids), dtype=bool)
    for name in classes:
        own = [i for i in order if passed[i] and label[i] == name]
        kept[_spread(own, first, tones or [""] * len(image_ids), per_class)] = True
    return Balance(kept, target, per_class, available, _needed(label, available, target))


def _spread(order: list[int], first: np.ndarray, tones: list[str], n: int) -> list[int]:
    """``n`` of the images in ``order``: those wanted first, then always one of the tone that has fewest so far."""
    taken = [i for i in order if first[i]][:n]
    waiting: dict[str, list[int]] = {}
    for i in order:
        if not first[i]:
            waiting.setdefault(tones[i], []).append(i)
    have = {tone: sum(tones[i] == tone for i in taken) for tone in sorted(waiting)}
    while len(taken) < n:
        tone = min((t for t in have if waiting[t]), key=lambda t: have[t])
        taken.append(waiting[tone].pop(0))
        have[tone] += 1
    return taken


def _needed(label: np.ndarray, available: dict[str, int], target: int) -> int:
    """Smallest pool, its classes equally large, in which each class can be expected to reach ``target``.

    Reckons with the lower 95 % limit of each class's share that passes, so that the next pool is
    short by bad luck only once in forty.
    """
    if all(count >= target for count in available.values()):
        return len(label)
    per_class = 0
    for name, count in available.items():
        if not count:
            return 0
        share = proportion(count, int((label == name).sum()))[1]
        per_class = max(per_class, int(np.ceil(target / share)))
    return max(per_class * len(available), len(label))


def proportion(k: int, n: int) -> tuple[float, float, float]:
    """A share ``k / n`` and its 95 % interval (Wilson 1927); NaN for n = 0."""
    if n == 0:
        return (float("nan"),) * 3
    return k / n, *wilson(k, n)
