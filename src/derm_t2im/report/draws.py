"""What other draws of the generator give: the sweep that varies its seeds alone, beside the answer of this run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from derm_t2im.report import words
from derm_t2im.report.evidence import Evidence
from derm_t2im.report.tables import Cell, Row

SWEEP, FIGURE = "generator-seeds", "difference in AUC"


def table(evidence: Evidence) -> list[Row]:
    """Hybrid minus real in AUC per classifier and test set: mean over the draws with its t interval, least and most.

    The interval is Student's over the draws' differences, each of which is one fine-tuning and one set of images.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for record in evidence.swept.get(SWEEP, []):
        if (record.get("figure"), record.get("pair")) == (FIGURE, "hybrid-real") and words.is_number(
            record.get("value")
        ):
            found.setdefault((str(record.get("arch")), str(record.get("test"))), []).append(float(record["value"]))
    return [_row(*of, values) for of, values in sorted(found.items()) if len(values) > 1]


def _row(arch: str, test: str, values: Sequence[float]) -> Row:
    mean, half = statistics.mean(values), _half(values)
    found = words.bounds({"mean_low": mean - half, "mean_high": mean + half}, "mean", "difference")
    cells = [Cell(words.number(mean, "difference"), found)]
    cells += [Cell(words.number(value, "difference")) for value in (min(values), max(values))]
    return Row(words.arch(arch), cells, str(len(values)), words.test_set(test))


def _half(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of a sample."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


def not_shown(evidence: Evidence) -> str:
    """What the answer says nothing of, in words."""
    if table(evidence):
        return "what another draw of the generator gives: see below"
    return "what another draw of the generator gives, as all images come from one fine-tuning"
