"""What other draws of the generator give: the sweep that varies its seeds alone, beside the answer of this run.

Only where this run's images are one of the sweep's draws, which their KID tells. Classifiers may have more seeds there.
"""

from __future__ import annotations

import statistics
from typing import NamedTuple

from derm_t2im.report import words
from derm_t2im.report.evidence import Evidence
from derm_t2im.report.tables import Cell, Row, flat

SWEEP, FIGURE = "generator-seeds", "difference in AUC"
SAME = 1e-5  # metrics have six digits


class Draws(NamedTuple):
    """Hybrid minus real in AUC of one classifier on one test set.

    ``values`` holds the difference of each draw. All have the same real-only classifiers: ``real_error`` is the
    standard error of these over ``real_seeds`` trainings, 0 and 0 where it is not known.
    """

    values: list[float]
    real_error: float
    real_seeds: int

    @property
    def mean(self) -> float:
        """Over the draws."""
        return statistics.mean(self.values)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean over draws and over trainings of the real-only classifiers (Welch 1947)."""
        from scipy.stats import t

        parts = [(statistics.variance(self.values) / len(self.values), len(self.values) - 1)]
        if self.real_seeds > 1:
            parts.append((self.real_error**2, self.real_seeds - 1))
        total = sum(part for part, _ in parts)
        if not total:
            return self.mean, self.mean
        freedom = total**2 / sum(part**2 / own for part, own in parts)
        half = float(t.ppf(0.975, freedom)) * total**0.5
        return self.mean - half, self.mean + half


def table(evidence: Evidence) -> list[Row]:
    """Per classifier and test set the mean over the draws with its interval, the least and the most of them."""
    return [_row(*of, drawn) for of, drawn in differences(evidence).items()]


def not_shown(evidence: Evidence) -> str:
    """What the answer says nothing of, in words."""
    found = list(differences(evidence).values())
    if not found:
        return "what another draw of the generator gives, as all images come from one fine-tuning"
    apart = sum(low > 0 or high < 0 for low, high in (each.interval for each in found))
    draws = "" if len({len(each.values) for each in found}) > 1 else f"{len(found[0].values)} "
    return (
        f"that other draws of the generator give the same: over {draws}of them a difference is shown in {apart} of "
        f"{len(found)} comparisons"
    )


def differences(evidence: Evidence) -> dict[tuple[str, str], Draws]:
    """The draws by classifier and test set, where there are two or more and this run's is one of them."""
    found: dict[tuple[str, str], list[float]] = {}
    real: dict[tuple[str, str], tuple[float, int]] = {}
    for record in evidence.swept.get(SWEEP, []):
        of = str(record.get("arch")), str(record.get("test"))
        if (record.get("figure"), record.get("pair")) == (FIGURE, "hybrid-real") and words.is_number(
            record.get("value")
        ):
            found.setdefault(of, []).append(float(record["value"]))
        if (record.get("figure"), record.get("mix")) == ("AUC", "real") and words.is_number(record.get("seed_sd")):
            trained = int(record.get("seeds", 0))
            real[of] = (float(record["seed_sd"]) / max(1, trained) ** 0.5, trained)
    order = sorted(found, key=lambda of: (words.test_place(of[1]), of[0]))  # as in the tables above it
    if not _own_draw(evidence):
        return {}
    return {of: Draws(found[of], *real.get(of, (0.0, 0))) for of in order if len(found[of]) > 1}


def _own_draw(evidence: Evidence) -> bool:
    """Whether the images of this run are among the sweep's draws."""
    here = flat(evidence.of("fidelity").get("all")).get("kid")
    drawn = [record.get("value") for record in evidence.swept.get(SWEEP, []) if record.get("figure") == "KID"]
    return words.is_number(here) and any(words.is_number(kid) and abs(kid - here) < SAME for kid in drawn)


def seeds(evidence: Evidence) -> str:
    """How many trainings of each classifier are behind a draw, in words."""
    counts = {int(record["seeds"]) for record in evidence.swept.get(SWEEP, []) if words.is_number(record.get("seeds"))}
    return " or ".join(map(str, sorted(counts))) or "an unknown number of"


def _row(arch: str, test: str, drawn: Draws) -> Row:
    low, high = drawn.interval
    interval = words.bounds({"mean_low": low, "mean_high": high}, "mean", "difference")
    cells = [Cell(words.number(drawn.mean, "difference"), interval)]
    cells += [Cell(words.number(value, "difference")) for value in (min(drawn.values), max(drawn.values))]
    return Row(words.arch(arch), cells, str(len(drawn.values)), words.test_set(test))
