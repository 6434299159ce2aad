"""What other draws of the generator give: the sweep that varies its seeds alone, beside the answer of this run.

Only where this run's images are one of the sweep's draws, which their KID tells. Classifiers may have more seeds there.
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
    return {of: found[of] for of in order if len(found[of]) > 1} if _own_draw(evidence) else {}


def _own_draw(evidence: Evidence) -> bool:
    """Whether the images of this run are among the sweep's draws."""
    here = flat(evidence.of("fidelity").get("all")).get("kid")
    drawn = [record.get("value") for record in evidence.swept.get(SWEEP, []) if record.get("figure") == "KID"]
    return words.is_number(here) and any(words.is_number(kid) and abs(kid - here) < SAME for kid in drawn)


def seeds(evidence: Evidence) -> str:
    """How many trainings of each classifier are behind a draw, in words."""
    counts = {int(record["seeds"]) for record in evidence.swept.get(SWEEP, []) if words.is_number(record.get("seeds"))}
    return " or ".join(map(str, sorted(counts))) or "an unknown number of"


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
