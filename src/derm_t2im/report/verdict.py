"""The answer in words, as far as the intervals carry it and no further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from derm_t2im.report import words
from derm_t2im.report.forest import Forest, estimate, forest
from derm_t2im.report.tables import flat
from derm_t2im.report.words import Contrast

#: The measure that the verdict goes by, and what it falls back on where it is not measured.
MEASURES = ("auc", "accuracy")
NAMES = {"auc": "AUC", "accuracy": "accuracy"}
FORMS: dict[str, words.Form] = {"auc": "difference", "accuracy": "points"}
LEVELS: dict[str, words.Form] = {"auc": "plain", "accuracy": "percent"}
MOST = 2  # differences that a sentence names one by one

QUESTIONS = {
    "real": "Hybrid against real images alone",
    "oversampled": "Hybrid against repeated real images",
    "synthetic": "Hybrid against synthetic images alone",
}


@dataclass(frozen=True)
class Verdict:
    """The answer to one question: ``tone`` is improvement, deterioration or none (for the colour).

    ``answer`` holds for these trained networks and other test images; ``beyond`` for other networks, trained anew, as
    well; empty where there is one seed.
    """

    question: str
    answer: str
    tone: str
    beyond: str = ""
    forest: Forest | None = None


def verdicts(contrasts: Sequence[Contrast], levels: Mapping[str, Any] | None = None) -> list[Verdict]:
    """A verdict per pair of mixes that starts with hybrid, in order.

    ``levels`` are the metrics of the classifiers, for what the differences are of.
    """
    pairs = dict.fromkeys(c.b for c in contrasts if c.a == "hybrid")
    return [_verdict(b, [c for c in contrasts if c.a == "hybrid" and c.b == b], levels or {}) for b in pairs]


def measure_of(contrast: Contrast) -> str:
    """The measure that decides: AUC, or accuracy where there is no AUC."""
    return next((m for m in MEASURES if contrast.outcome(m) != "not measured"), MEASURES[0])


def _verdict(b: str, group: Sequence[Contrast], levels: Mapping[str, Any]) -> Verdict:
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
    return Verdict(question, answer, tone, _beyond(group), _forest(b, group, levels))


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
        parts = [f"{what} in {k}" for what, k in (("improvement", better), ("deterioration", worse)) if k]
        return f"With the spread of training runs: {', '.join(parts)} of {of}."
    equal = known.count("equivalent")
    same = f", shown to be equivalent in {equal}" if equal else ""
    return f"With the spread of training runs: no difference shown in {_comparisons(len(known))}{same}."


def _comparisons(n: int) -> str:
    return "1 comparison" if n == 1 else f"{n} comparisons"


def _forest(b: str, group: Sequence[Contrast], levels: Mapping[str, Any]) -> Forest | None:
    """The differences of one pair of mixes, a row per architecture and test set."""
    known = [c for c in group if c.outcome(measure_of(c)) != "not measured"]
    if not known:
        return None
    measure = min((measure_of(c) for c in known), key=MEASURES.index)
    name, form = NAMES[measure], FORMS[measure]
    factor = 100.0 if form == "points" else 1.0
    rows = []
    for c in known:
        if measure_of(c) != measure:
            continue
        low, high = (c.values.get(f"{measure}_seeds_{end}") for end in ("low", "high"))
        wide = (factor * low, factor * high) if words.is_number(low) and words.is_number(high) else None
        before, after = (
            words.number(flat(flat(flat(levels.get(c.arch)).get(mix)).get(c.test)).get(measure), LEVELS[measure])
            for mix in (c.b, c.a)
        )
        (row,) = estimate(c.values, measure, words.arch(c.arch), form)
        outcome = c.outcome(measure)
        detail = f"{words.test_set(c.test)}, n = {words.count(c.n)}"
        rows.append(replace(row, detail=detail, notes=(f"{before} → {after}", outcome), tone=outcome, wide=wide))
    of = words.mix(b)
    unit = ", percentage points" if form == "points" else ""
    caption = f"Hybrid {words.MINUS} {of}: difference in {name}{unit}, mean over the seeds. Thick: 95 % interval over "
    caption += "test images."
    if any(row.wide for row in rows):
        caption += " Thin: 95 % interval with the spread of training runs as well; an arrow where it goes on."
    if other := len(known) - len(rows):
        caption += f" {_comparisons(other)} without an AUC, judged by accuracy, in the table of differences only."
    headings = ("Classifier", f"Difference in {name}{unit}", "Difference [95 %]", f"{name} without → with", "Reading")
    return forest(rows, caption, headings, ("← worse", "better →"))


@dataclass(frozen=True)
class Answer:
    """The answer of the whole page: a word, one sentence with figure and interval, and what does not follow from it."""

    lead: str
    sentence: str
    not_shown: list[str]
    tone: str


def answer(contrasts: Sequence[Contrast]) -> Answer | None:
    """The answer to whether hybrid beats real images alone (or the first control there is); None without any."""
    found = verdicts(contrasts)
    if not found:
        return None
    b = "real" if any(c.a == "hybrid" and c.b == "real" for c in contrasts) else next(c.b for c in contrasts)
    group = [c for c in contrasts if c.a == "hybrid" and c.b == b and c.outcome(measure_of(c)) != "not measured"]
    verdict = _verdict(b, group, {})
    better, worse = ([c for c in group if c.outcome(measure_of(c)) == o] for o in ("improvement", "deterioration"))
    rest = len(group) - len(better) - len(worse)
    parts = [_moved("higher", better, len(group)), _moved("lower", worse, len(group))]
    if not group:
        lead, parts = "Not measured", ["no difference has an interval"]
    elif not better and not worse:
        most = max(group, key=lambda c: abs(c.values[measure_of(c)]))
        contains = "the 95 % interval of the difference contains zero"
        all_of_them = f"in all {rest} comparisons {contains}; the largest is {_said(most)}"
        lead, parts = "Not shown", [all_of_them if rest > 1 else f"{contains} {_said(most)}"]
    elif better and worse:
        lead = "Mixed"
    elif worse:
        lead = "No, worse" if not rest else "No, worse in part"
    else:
        lead = "Yes, on these test images" if not rest else "In part"
    if rest and (better or worse):
        parts.append(f"no improvement is shown in the other {_comparisons(rest).removeprefix('1 ')}")
    open_ = []
    known = _comparisons(sum(bool(words.bounds(c.values, f"{measure_of(c)}_seeds")) for c in group))
    anew = [c for c in (*better, *worse) if _holds_anew(c)]
    if verdict.beyond and anew and len(anew) < len(better) + len(worse):
        open_.append(
            "that all of this holds for classifiers trained anew: with the spread of training runs a difference is "
            f"shown in {len(anew)} of {known}"
        )
    elif verdict.beyond and not anew:
        open_.append(
            f"that classifiers trained anew would differ: with the spread of training runs nothing is shown in {known}"
        )
    control = [c for c in contrasts if c.a == "hybrid" and c.b == "oversampled"]
    if better and control and not any(c.outcome(measure_of(c)) == "improvement" for c in control):
        open_.append("that synthetic images do more than the same real images shown more often")
    return Answer(lead, "; ".join(part for part in parts if part) + ".", open_, verdict.tone)


def _holds_anew(c: Contrast) -> bool:
    """Whether the difference is there when the seeds are taken for a sample of all training runs."""
    return str(c.values.get(f"{measure_of(c)}_verdict")).startswith(("better", "worse"))


def _moved(how: str, group: Sequence[Contrast], of: int) -> str:
    """Where a measure is higher (or lower), each with its figure and interval; the largest only, if they are many."""
    if not group:
        return ""
    name = NAMES[measure_of(group[0])]
    if len(group) > MOST:
        order = sorted(group, key=lambda c: abs(c.values[measure_of(c)]))
        return (
            f"{name} is {how} in {len(group)} of {_comparisons(of)}: least {_said(order[0])}, most {_said(order[-1])}"
        )
    return f"{name} is {how} " + " and ".join(_said(c) for c in group)


def _said(c: Contrast) -> str:
    measure = measure_of(c)
    form = FORMS[measure]
    unit = " points" if form == "points" else ""
    value = f"{words.number(c.values[measure], form)}{unit}{words.NBSP}{words.bounds(c.values, measure, form)}"
    return f"for {words.arch(c.arch)} on the {words.test_set(c.test)} ({value})"
