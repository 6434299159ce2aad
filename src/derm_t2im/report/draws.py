"""What other draws of the generator give: the sweep that varies its seeds alone, beside the answer of this run.

Only where the sweep is of this run's study: its classifiers of real images alone, which no draw of the generator
touches, have the AUC that they have here. Other images, parameters or versions give another one.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from derm_t2im.report import words
from derm_t2im.report.evidence import Evidence
from derm_t2im.report.tables import Cell, Row, flat

SWEEP, FIGURE = "generator-seeds", "difference in AUC"
SAME = 1e-5  # metrics have six digits


def table(evidence: Evidence) -> list[Row]:
    """Hybrid minus real in AUC per classifier and test set: mean over the draws with its t interval, least and most.

    The interval is Student's over the draws' differences, each of which is one fine-tuning and one set of images.
    """
    return [_row(*of, values) for of, values in _differences(evidence).items()]


def not_shown(evidence: Evidence) -> str:
    """What the answer says nothing of, in words."""
    found = list(_differences(evidence).values())
    if not found:
        return "what another draw of the generator gives, as all images come from one fine-tuning"
    apart = sum(low > 0 or high < 0 for low, high in map(_interval, found))
    draws = "" if len({len(values) for values in found}) > 1 else f"{len(found[0])} "
    return (
        f"that other draws of the generator give the same: over {draws}of them a difference is shown in {apart} of "
        f"{len(found)} comparisons"
    )


def _differences(evidence: Evidence) -> dict[tuple[str, str], list[float]]:
    """The difference of each draw by classifier and test set, where there are two or more."""
    found: dict[tuple[str, str], list[float]] = {}
    for record in evidence.swept.get(SWEEP, []):
        if (record.get("figure"), record.get("pair")) == (FIGURE, "hybrid-real") and words.is_number(
            record.get("value")
        ):
            found.setdefault((str(record.get("arch")), str(record.get("test"))), []).append(float(record["value"]))
    order = sorted(found, key=lambda of: (words.test_place(of[1]), of[0]))  # as in the tables above it
    return {of: found[of] for of in order if len(found[of]) > 1 and _of_this_study(evidence, *of)}


def _of_this_study(evidence: Evidence, arch: str, test: str) -> bool:
    """Whether the sweep's classifiers of real images alone are as good as those of this run, to the last digit."""
    here = flat(flat(flat(evidence.of("classification").get(arch)).get("real")).get(test)).get("auc")
    there = [
        record.get("value")
        for record in evidence.swept.get(SWEEP, [])
        if (record.get("figure"), record.get("arch"), record.get("mix"), record.get("test"))
        == ("AUC", arch, "real", test)
    ]
    return bool(there) and words.is_number(here) and all(words.is_number(t) and abs(t - here) < SAME for t in there)


def _row(arch: str, test: str, values: Sequence[float]) -> Row:
    low, high = _interval(values)
    interval = words.bounds({"mean_low": low, "mean_high": high}, "mean", "difference")
    cells = [Cell(words.number(statistics.mean(values), "difference"), interval)]
    cells += [Cell(words.number(value, "difference")) for value in (min(values), max(values))]
    return Row(words.arch(arch), cells, str(len(values)), words.test_set(test))


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of a sample, Student's t."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values) - half, statistics.mean(values) + half
