"""The answer in words, as far as the intervals carry it and no further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from derm_t2im.report import words
from derm_t2im.report.words import Contrast

#: The measure that the verdict goes by, and what it falls back on where it is not measured.
MEASURES = ("auc", "accuracy")

QUESTIONS = {
    "real": "Hybrid against real images alone",
    "oversampled": "Hybrid against repeated real images",
    "synthetic": "Hybrid against synthetic images alone",
}


@dataclass(frozen=True)
class Line:
    """One comparison: where, what was found, and the numbers behind it."""

    where: str
    outcome: words.Outcome
    numbers: str


@dataclass(frozen=True)
class Verdict:
    """The answer to one question: ``tone`` is improvement, deterioration or none (for the colour).

    ``answer`` holds for these trained networks and other test images; ``beyond`` for other networks, trained anew, as
    well; empty where there is one seed.
    """

    question: str
    answer: str
    tone: str
    lines: list[Line]
    beyond: str = ""


def verdicts(contrasts: Sequence[Contrast]) -> list[Verdict]:
    """A verdict per pair of mixes that starts with hybrid, in order."""
    pairs = dict.fromkeys(c.b for c in contrasts if c.a == "hybrid")
    return [_verdict(b, [c for c in contrasts if c.a == "hybrid" and c.b == b]) for b in pairs]


def measure_of(contrast: Contrast) -> str:
    """The measure that decides: AUC, or accuracy where there is no AUC."""
    return next((m for m in MEASURES if contrast.outcome(m) != "not measured"), MEASURES[0])


def _verdict(b: str, group: Sequence[Contrast]) -> Verdict:
    outcomes = [c.outcome(measure_of(c)) for c in group]
    better, worse = outcomes.count("improvement"), outcomes.count("deterioration")
    measured = len(outcomes) - outcomes.count("not measured")
    if measured == 0:
        answer, tone = "Not measured.", "none"
    elif better and worse:
        answer, tone = f"Improvement in {better}, deterioration in {worse} of {_comparisons(measured)}.", "none"
    elif better:
        answer = f"Improvement shown in {better} of {_comparisons(measured)}."
        tone = "improvement" if better == measured else "none"
    elif worse:
        answer, tone = f"Deterioration shown in {worse} of {_comparisons(measured)}.", "deterioration"
    else:
        answer, tone = f"No improvement shown in {_comparisons(measured)}.", "none"
    question = QUESTIONS.get(b, f"Hybrid against {words.mix(b)}")
    return Verdict(question, answer, tone, [_line(c) for c in group], _beyond(group))


def _beyond(group: Sequence[Contrast]) -> str:
    """What is left of the answer when the seeds are taken for a sample of all training runs."""
    known = [
        str(c.values.get(f"{m}_verdict"))
        for c in group
        for m in (measure_of(c),)
        if words.bounds(c.values, f"{m}_seeds") and c.values.get(f"{m}_verdict")
    ]
    if not known:
        return ""
    better, worse = (sum(v.startswith(w) for v in known) for w in ("better", "worse"))
    if better or worse:
        of = _comparisons(len(known))
        return f"With the spread of training runs: improvement in {better}, deterioration in {worse} of {of}."
    equal = known.count("equivalent")
    same = f", shown to be equivalent in {equal}" if equal else ""
    return f"With the spread of training runs: no difference shown in {_comparisons(len(known))}{same}."


def _comparisons(n: int) -> str:
    return "1 comparison" if n == 1 else f"{n} comparisons"


def _line(c: Contrast) -> Line:
    parts = []
    if words.is_number(c.values.get("auc")):
        difference = words.number(c.values["auc"], "difference")
        parts.append(f"AUC {difference} {words.bounds(c.values, 'auc', 'difference')}{_p(c, 'p_auc')}")
    if words.is_number(c.values.get("accuracy")):
        points = words.number(c.values["accuracy"], "points")
        parts.append(f"accuracy {points} points {words.bounds(c.values, 'accuracy', 'points')}{_p(c, 'p')}")
    if c.n is not None:
        parts.append(f"n = {words.count(c.n)}".replace(" ", words.NBSP))
    if seeds := words.bounds(c.values, "auc_seeds", "difference"):
        parts.append(f"AUC with the spread of training runs {seeds}")
    return Line(f"{words.arch(c.arch)}, {words.test_set(c.test)}", c.outcome(measure_of(c)), "; ".join(parts))


def _p(c: Contrast, key: str) -> str:
    p = c.values.get(key)
    if not words.is_number(p):
        return ""
    said = words.p_value(p)
    said = said if said.startswith("<") else f"= {said}"
    return f", p {said}".replace(" ", words.NBSP).replace(f",{words.NBSP}", ", ")
