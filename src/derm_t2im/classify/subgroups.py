"""Results per skin tone, age, sex and body site: how far the groups lie apart, and which is the worst.

Groups come from columns of the manifest, where it has them. A group smaller than a minimum is listed
with its n only. The best and the worst group are picked by what is seen, so the gap between them is
above zero even where all are equal: beside its interval (bootstrap of the difference of these two
groups) stands ``gap_by_chance``, the mean gap after the groups' names were dealt out at random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from derm_t2im import vocabulary
from derm_t2im.classify import evaluation, ranking, statistics

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.classify.evaluation import TestSet

AGES = (0, 30, 50, 70)  # years; the last band is open
LEAST_POSITIVES = 10  # in a group whose sensitivity is compared
DEALS = 200  # random deals of the groups' names
UNKNOWN = {"", "unknown", "unspecified", "not stated", "nan", "none", "na", "n/a"}


class Attribute(NamedTuple):
    """What images are grouped by: a name, the group of each image (n,), '' where unknown."""

    name: str
    group: np.ndarray


def attributes(table: pd.DataFrame) -> list[Attribute]:
    """What the manifest knows of its images that may divide them into groups: of two groups at least."""
    found = []
    if "ita" in table and table["ita"].notna().any():
        found.append(Attribute("tone", np.array([_tone(v) for v in table["ita"].to_numpy(float, na_value=np.nan)])))
    if "age" in table:
        found.append(Attribute("age", np.array([_age(v) for v in table["age"].to_numpy(float, na_value=np.nan)])))
    for name in ("sex", "site"):
        if name in table:
            found.append(Attribute(name, np.array([_word(v, name) for v in table[name].fillna("")])))
    return [one for one in found if len(set(one.group) - {""}) > 1]


def _word(value: str, column: str) -> str:
    """A word of metadata in small letters, '' where it says that it knows nothing; sites by one name each."""
    word = " ".join(value.split()).lower()
    if column == "site":
        word = vocabulary.site_of(word) or word
    return "" if word in UNKNOWN else word


def _tone(ita: float) -> str:
    return "" if np.isnan(ita) else vocabulary.tone_of(ita)


def _age(years: float) -> str:
    if np.isnan(years) or years < 0:
        return ""
    k = int(np.searchsorted(AGES, years, side="right")) - 1
    return f"{AGES[k]}+" if k + 1 == len(AGES) else f"{AGES[k]} to {AGES[k + 1] - 1}"


def compare(
    probabilities: np.ndarray,
    test: TestSet,
    thresholds: np.ndarray,
    attribute: Attribute,
    positive: list[int],
    least: int,
    rng: np.random.Generator,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One classifier (seeds, n, k) in the groups of one attribute.

    Returns the summary and a record per group. Records: ``group``, ``n``, ``positives``, and with at least ``least``
    images ``auc`` (of the positive finding; undefined where a class is missing), ``balanced_accuracy`` and
    ``sensitivity`` at the operating ``thresholds`` (seeds,), means over seeds with intervals. Summary: of ``auc``, or
    of ``balanced_accuracy`` where fewer than two groups have an AUC, the ``worst`` group, its value and the ``gap`` to
    the best one; what begins with ``sensitivity_`` says the same of sensitivity, over groups with enough positives.
    """
    names = sorted(set(attribute.group) - {""})
    records: list[dict[str, Any]] = []
    values: dict[str, dict[str, np.ndarray]] = {"auc": {}, "balanced_accuracy": {}, "sensitivity": {}}
    for name in names:
        mask = attribute.group == name
        true = np.isin(test.truth[mask], positive)
        record: dict[str, Any] = {"group": name, "n": int(mask.sum())}
        if positive:
            record["positives"] = int(true.sum())
        if record["n"] >= least:
            part = evaluation.TestSet(test.truth[mask], test.counts[:, mask], 0, 0)
            measured = _measure(probabilities[:, mask], part, thresholds, positive)
            record |= evaluation.summary({key: value[None] for key, value in measured.items()})
            for key, found in values.items():
                enough = key != "sensitivity" or true.sum() >= LEAST_POSITIVES
                if key in measured and np.isfinite(measured[key][0]) and enough:
                    found[name] = measured[key]
        records.append(record)
    measure = "auc" if len(values["auc"]) > 1 else "balanced_accuracy"
    known = values[measure]
    summary: dict[str, Any] = {"groups": len(known), "too_small": sum(r["n"] < least for r in records)}
    if len(known) > 1:
        summary |= {"measure": measure, **_gap(known)}
        summary |= {f"worst_{key}": float(found[summary["worst"]][0]) for key, found in values.items()
                    if summary["worst"] in found}  # fmt: skip
        if len(values["sensitivity"]) > 1:
            summary |= {f"sensitivity_{key}": value for key, value in _gap(values["sensitivity"]).items()}
        if measure == "auc":
            summary |= _by_chance(probabilities, test, attribute.group, list(known), positive, summary["gap"], rng)
    return summary, records


def _gap(known: dict[str, np.ndarray]) -> dict[str, Any]:
    """The worst and the best of some groups (1 + draws,), and the gap between these two with its interval.

    Ends picked anew in each draw would lie further apart than those of the sample: its own gap would lie near the lower
    end of such an interval, or below it.
    """
    stacked = np.stack(list(known.values()))
    worst, best = int(stacked[:, 0].argmin()), int(stacked[:, 0].argmax())
    gaps = stacked[best] - stacked[worst]
    low, high = statistics.interval(gaps[1:])
    names = list(known)
    return {"worst": names[worst], "best": names[best], "gap": float(gaps[0]), "gap_low": low, "gap_high": high}


def _measure(
    probabilities: np.ndarray, part: TestSet, thresholds: np.ndarray, positive: list[int]
) -> dict[str, np.ndarray]:
    """Metrics (1 + draws,) of one group, means over seeds."""
    rows: dict[str, list[np.ndarray]] = {}
    for p, threshold in zip(probabilities, thresholds, strict=True):
        found = {
            "balanced_accuracy": statistics.balanced_accuracy(p.argmax(axis=1), part.truth, p.shape[1], part.counts)
        }
        if positive:
            score, true = p[:, positive].sum(axis=1), np.isin(part.truth, positive)
            found["auc"] = ranking.ranked(score, true, part.counts).auc
            known = 1.0 if np.isfinite(threshold) else np.nan
            found["sensitivity"] = known * statistics.recall(score >= threshold, true, part.counts)
        for key, value in found.items():
            rows.setdefault(key, []).append(value)
    return {key: np.mean(value, axis=0) for key, value in rows.items()}


def _by_chance(
    probabilities: np.ndarray,
    test: TestSet,
    group: np.ndarray,
    names: list[str],
    positive: list[int],
    gap: float,
    rng: np.random.Generator,
) -> dict[str, float]:
    """The mean gap in AUC of random groups of the same sizes and shares of positives, and how often it is as large."""
    true = np.isin(test.truth, positive)
    codes = np.array([names.index(one) if one in names else -1 for one in group])
    dealt = np.tile(codes, (DEALS, 1))
    for side in (true, ~true):  # within positives and negatives, so that prevalence stays
        dealt[:, side] = rng.permuted(dealt[:, side], axis=1)
    areas = []
    for code in range(len(names)):
        counts = (dealt == code).astype(np.float64)
        areas.append(
            np.mean([ranking.ranked(p[:, positive].sum(axis=1), true, counts).auc for p in probabilities], axis=0)
        )
    gaps = np.max(areas, axis=0) - np.min(areas, axis=0)
    return {"gap_by_chance": float(gaps.mean()), "gap_p": float(((gaps >= gap - 1e-12).sum() + 1) / (DEALS + 1))}
