"""Two sets side by side: each difference with its interval, its p, and that p after Holm's adjustment.

All tests of one comparison are one family: where both sets come from one distribution, any drift at all is found in at
most :data:`ALPHA` of the comparisons. Images are taken as independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from derm_t2im import vocabulary
from derm_t2im.classify.statistics import holm
from derm_t2im.drift.sets import Set, check_alike
from derm_t2im.fidelity import estimate, kid
from derm_t2im.fidelity.blocks import row_blocks
from derm_t2im.fidelity.estimate import NONE, Estimate

ALPHA = 0.05
SHUFFLES = 999  # of the two sets' images, for the p of KID: at least 1 / (SHUFFLES + 1)
MOST = 5_000  # images of a set behind KID; more are drawn from at random
DRAWS = 1_000  # of the bootstrap
FEW = 100

#: An artefact is there above this: half of the score's range, as in curation; hair where it covers a twentieth.
ARTEFACTS = {"hair_fraction": 0.05, "ruler": 0.5, "ink": 0.5, "gel_bubble": 0.5, "dark_corner": 0.5}
#: Compared as they are.
MEASURES = ("sharpness", "exposure", "colour_cast", "ita", "lesion_area")


class Test(NamedTuple):
    """One comparison.

    Attributes:
        section: ``features``, ``scores``, ``artefacts``, ``measures`` or ``skin tone``.
        name: What is compared.
        ref: Its value in the reference set, with interval; NONE where it is of both sets only.
        new: The same in the new set.
        shift: How far apart the sets are, with interval; NONE where the two values say it.
        p: Of no difference; NaN where the row only says how large a difference is.
    """

    section: str
    name: str
    ref: Estimate
    new: Estimate
    shift: Estimate
    p: float


def compare(ref: Set, new: Set, threshold: float | None = None, seed: int = 0) -> dict[str, Any]:
    """Everything found, as JSON-serialisable values.

    Args:
        ref: What the model was made for.
        new: What it meets.
        threshold: Operating point on the scores, if there is one.
        seed: Of the draws.

    Raises:
        UserError: if the sets cannot be compared.
    """
    check_alike(ref, new)
    tests = [*_features(ref, new, seed), *_scores(ref, new, threshold, seed), *_measured(ref, new, seed)]
    adjusted = holm([test.p for test in tests])
    rows: list[dict[str, Any]] = []
    for test, p in zip(tests, adjusted, strict=True):
        values = {key: _values(getattr(test, key)) for key in ("ref", "new", "shift")}
        rows.append({"section": test.section, "name": test.name, **values, "p": test.p, "p_adjusted": p,
                     "drift": bool(p < ALPHA)})  # fmt: skip
    return {
        "ref": _about(ref),
        "new": _about(new),
        "model": ref.model or new.model,
        "threshold": threshold,
        "alpha": ALPHA,
        "tests": rows,
        "drift": sorted({row["section"] for row in rows if row["drift"]}),
        "notes": list(_notes(ref, new, threshold)),
    }


def _about(images: Set) -> dict[str, Any]:
    return {"name": images.name, "images": images.n, "unusable": dict(images.unusable)}


def _values(of: Estimate) -> dict[str, float] | None:
    return None if of is NONE else {"value": of.value, "low": of.low, "high": of.high}


def _notes(ref: Set, new: Set, threshold: float | None) -> Iterator[str]:
    if ref.embeddings is None:
        yield "features: neither set has embeddings, so they were not compared; the model has no output for them."
    if ref.scores is None:
        yield "scores: neither set has them, so they were not compared."
    elif threshold is None:
        yield "share above the threshold: no threshold is known; give --model or --threshold."
    missing = [one.name for one in (ref, new) if not one.measures]
    if missing:
        yield (f"artefacts and skin tone: not measured in {' and '.join(missing)}; give the folder of images, or write "
               "the file with --measure.")  # fmt: skip
    for one in (ref, new):
        if one.n < FEW:
            yield f"{one.name} has {one.n} images: only large shifts can be seen in so few."
        if one.unusable:
            told = ", ".join(f"{reason} {count}" for reason, count in one.unusable.items())
            yield f"{one.name}: {sum(one.unusable.values())} images could not be used ({told})."
    if ref.name == new.name:
        yield "both sets are the same: there is nothing to find."


def _features(ref: Set, new: Set, seed: int) -> Iterator[Test]:
    if ref.embeddings is None or new.embeddings is None:
        return
    rng = np.random.default_rng(seed)
    x, y = (
        kid.unit(values if len(values) <= MOST else values[rng.choice(len(values), MOST, replace=False)])
        for values in (ref.embeddings, new.embeddings)
    )
    found = kid.kid_interval(x, y)
    yield Test("features", "KID", NONE, NONE, found, kid_p(x, y, found.value, seed))


def kid_p(x: np.ndarray, y: np.ndarray, value: float, seed: int) -> float:
    """p of KID by shuffling the images of both sets, (m, d) and (n, d): exact whatever the features look like.

    The interval of KID is too wide where both distributions are the same; this is not.
    """
    both, m = np.concatenate([x, y]), len(x)
    total, n = len(both), len(y)
    rng = np.random.default_rng(seed)
    inside = np.zeros((total, SHUFFLES))
    for i in range(SHUFFLES):
        inside[rng.permutation(total)[:m], i] = 1.0
    # Sums within and across are quadratic forms of one pass over the kernel.
    product, sums, diagonal = np.empty_like(inside), np.empty(total), np.empty(total)
    for rows in row_blocks(total, total):
        block = kid.kernel(both[rows], both)
        product[rows], sums[rows] = block @ inside, block.sum(axis=1)
        diagonal[rows] = block[np.arange(len(block)), np.arange(rows.start, rows.stop)]
    first = (inside * product).sum(axis=0)
    across = sums @ inside - first
    second = sums.sum() - first - 2 * across
    trace = diagonal @ inside
    values = (first - trace) / (m * (m - 1)) + (second - (diagonal.sum() - trace)) / (n * (n - 1))
    values -= 2 * across / (m * n)
    return float((1 + np.sum(values >= value - 1e-12 * max(1.0, abs(value)))) / (1 + SHUFFLES))


def _scores(ref: Set, new: Set, threshold: float | None, seed: int) -> Iterator[Test]:
    if ref.scores is None or new.scores is None:
        return
    from scipy.stats import ks_2samp, wasserstein_distance

    a, b = ref.scores, new.scores
    yield Test("scores", "distribution", estimate.mean(a), estimate.mean(b), NONE, float(ks_2samp(a, b).pvalue))

    def draw(rng: np.random.Generator) -> float:
        return float(wasserstein_distance(rng.choice(a, len(a)), rng.choice(b, len(b))))

    apart = estimate.percentile(draw, float(wasserstein_distance(a, b)), len(a) + len(b), DRAWS, seed)
    yield Test("scores", "Wasserstein distance", NONE, NONE, apart, float("nan"))
    if threshold is not None:
        yield _shares("scores", "share at or above the threshold", a >= threshold, b >= threshold)


def _measured(ref: Set, new: Set, seed: int) -> Iterator[Test]:
    from scipy.stats import ks_2samp

    common = [name for name in ref.measures if name in new.measures]
    for name, bound in ARTEFACTS.items():
        if name in common:
            yield _shares("artefacts", name, ref.measures[name] > bound, new.measures[name] > bound)
    for name in MEASURES:
        if name in common:
            a, b = (_known(one.measures[name]) for one in (ref, new))
            if len(a) > 1 and len(b) > 1:
                p = float(ks_2samp(a, b).pvalue)
                yield Test("measures", name, _median(a, seed), _median(b, seed), NONE, p)
    if "tone" in common:
        for tone in vocabulary.TONES:
            a, b = ref.measures["tone"] == tone, new.measures["tone"] == tone
            if a.any() or b.any():
                yield _shares("skin tone", tone, a, b)


def _known(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return values[np.isfinite(values)]


def _median(values: np.ndarray, seed: int) -> Estimate:
    def draw(rng: np.random.Generator) -> float:
        return float(np.median(rng.choice(values, len(values))))

    return estimate.percentile(draw, float(np.median(values)), len(values), 200, seed)


def _shares(section: str, name: str, a: np.ndarray, b: np.ndarray) -> Test:
    """Shares of true values, Wilson's intervals, Fisher's exact p: it holds for rare artefacts, too.

    What is in neither set is no test: Fisher's p is one, whatever else is true, and would only cost Holm's others.
    """
    from scipy.stats import fisher_exact

    ref, new = estimate.share(a), estimate.share(b)
    counts = [[int(a.sum()), len(a) - int(a.sum())], [int(b.sum()), len(b) - int(b.sum())]]
    p = float(fisher_exact(counts).pvalue) if a.any() or b.any() else float("nan")
    return Test(section, name, ref, new, NONE, p)


def verdict(found: Mapping[str, Any]) -> str:
    """The outcome in one line."""
    if not found["drift"]:
        return f"No drift found in any of {sum(row['p'] == row['p'] for row in found['tests'])} comparisons."
    return f"Drift found in {', '.join(found['drift'])}."
