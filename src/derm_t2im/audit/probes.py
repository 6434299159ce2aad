"""What gives a class away: single measures, colours alone, the border alone; and how alike its images are."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from derm_t2im.fidelity import pixels, shortcuts
from derm_t2im.fidelity.estimate import NONE, Estimate, mean, share

CORRELATION = 0.9  # of two grey thumbnails, from which they count as alike
EVEN = 100  # images of a class among which likeness is compared between sets of any size
MUCH = 0.8  # a class by one probe or measure; in real sets (HAM10000) the lesions' own colours reach about as much
FEW = 100  # a class with fewer images than this: the interval is what counts

#: A probe sees nothing else of an image's thumbnail than this. 3 px of 32 are the strip that 12 px are of 128.
PROBES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"colour": pixels.colours, "border": pixels.borders}


class Area(NamedTuple):
    """An AUC of a class against the rest, its interval, the images behind it, and what it says.

    ``sign`` is ``differs`` where chance is excluded, allowing for the number of comparisons of its kind, and
    ``differs much`` where so is all up to :data:`MUCH`; else empty.
    """

    auc: float
    low: float
    high: float
    n: int
    sign: str


def interval(auc: float, members: int, others: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of an AUC from the sizes of both sides alone (Newcombe 2006, method 5).

    Holds for few images and for an AUC of 1, where a bootstrap would claim certainty. (0, 1) for an empty side.
    """
    if not members or not others:
        return 0.0, 1.0
    return _bound(auc, members, others, level), 1 - _bound(1 - auc, members, others, level)


def _bound(auc: float, members: int, others: int, level: float) -> float:
    """The lower bound: the smallest area from which ``auc`` is not too far."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    z, extra = float(norm.ppf(0.5 + level / 2)), (members + others) / 2 - 1

    def ahead(area: float) -> float:
        spread = area * (1 - area) * (1 + extra * ((1 - area) / (2 - area) + area / (1 + area)))
        return auc - area - z * float(np.sqrt(spread / (members * others)))

    top = min(auc, 1 - 1e-9)
    return float(brentq(ahead, 0.0, top)) if top > 0 else 0.0


def compared(classes: list[str]) -> list[str]:
    """The classes to set against the rest: all, or of two the second."""
    return classes[1:] if len(classes) == 2 else classes


def measure_areas(values: dict[str, np.ndarray], labels: np.ndarray, groups: np.ndarray) -> dict[str, dict[str, Area]]:
    """For each measure and class the AUC of that number alone; images where it is NaN are left out.

    Args:
        values: Measures by name, each (n,).
        labels: Class names (n,).
        groups: (n,), shared by images that are not independent; the intervals count each group once.
    """
    classes = sorted(set(labels))
    names = compared(classes)
    out: dict[str, dict[str, Area]] = {}
    for measure, numbers in values.items():
        known = np.isfinite(numbers)
        out[measure] = {
            name: _area(labels[known] == name, numbers[known], groups[known], len(values) * len(names))
            for name in names
        }
    return out


def _area(
    member: np.ndarray, scores: np.ndarray, groups: np.ndarray, comparisons: int, either_way: bool = True
) -> Area:
    """``either_way``: an area under 0.5 tells as much as one above it; of a cross-validated score it tells nothing."""
    auc = shortcuts.auc(member.astype(int), np.column_stack([-scores, scores]))
    if not np.isfinite(auc):
        return Area(float("nan"), float("nan"), float("nan"), len(scores), "")
    sizes = len(np.unique(groups[member])), len(np.unique(groups[~member]))
    low, high = interval(auc, *sizes, level=1 - 0.05 / max(1, comparisons))
    surely = max(low, 1 - high) if either_way else low
    sign = "differs much" if surely > MUCH else "differs" if surely > 0.5 else ""
    return Area(auc, *interval(auc, *sizes), len(scores), sign)


def probe_areas(
    thumbs: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int = 0
) -> dict[str, dict[str, Area]]:
    """For each of :data:`PROBES` and class, the cross-validated AUC of a classifier that sees that alone.

    Images of one group are never on both sides of a fold. Classes with fewer than ten groups are left
    out; nothing where fewer than two remain.

    Args:
        thumbs: uint8 (n, s, s, 3).
        labels: Class names (n,).
        groups: (n,), shared by images that are not independent.
        seed: Of the folds.
    """
    large = {str(name) for name in set(labels) if len(np.unique(groups[labels == name])) >= shortcuts.MIN_PER_CLASS}
    classes = sorted(large)
    if len(classes) < 2:
        return {}
    used = np.isin(labels, classes)
    codes = np.searchsorted(classes, labels[used])
    names = compared(classes)
    out: dict[str, dict[str, Area]] = {}
    for probe, describe in PROBES.items():
        scores = shortcuts.out_of_fold(describe(thumbs[used]), codes, seed, groups[used])
        out[probe] = {
            name: _area(codes == at, scores[:, at], groups[used], len(names), either_way=False)
            for at, name in enumerate(classes)
            if name in names
        }
    return out


class Alike(NamedTuple):
    """Share of images that have another one like them: in the class, and in ``EVEN`` images of it on average."""

    share: Estimate
    share_of_even: Estimate


def alike(thumbs: np.ndarray, labels: np.ndarray) -> dict[str, Alike]:
    """For each class, how many images resemble another of it: grey thumbnails correlated above 0.9.

    The more images, the more find another; ``share_of_even`` is free of that, and is :data:`NONE` for smaller classes.

    Args:
        thumbs: uint8 (n, s, s, 3).
        labels: Class names (n,).
    """
    import cv2
    from scipy.stats import hypergeom

    if not len(thumbs):
        return {}
    grey = np.stack([cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY) for thumb in thumbs])
    vectors = grey.reshape(len(grey), -1).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    out = {}
    for name in sorted(set(labels)):
        mine = vectors[labels == name]
        others = np.zeros(len(mine), dtype=np.int64)
        for start in range(0, len(mine), 1024):
            product = mine[start : start + 1024] @ mine.T
            product[np.arange(len(product)), start + np.arange(len(product))] = -1  # itself
            others[start : start + 1024] = (product > CORRELATION).sum(axis=1)
        even = NONE
        if len(mine) >= EVEN:
            # that at least one of the image's likes is among EVEN - 1 others drawn at random
            even = mean(hypergeom.sf(0, len(mine) - 1, others, EVEN - 1))
        out[str(name)] = Alike(share(others > 0), even)
    return out
