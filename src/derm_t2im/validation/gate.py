"""From outcomes to numbers and to words: what failed, and what a person can do about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from derm_t2im import state
from derm_t2im.errors import UserError
from derm_t2im.progress import say
from derm_t2im.validation import docs as pages
from derm_t2im.validation import expectations
from derm_t2im.validation.rules import Outcome, Suite

SHOWN = 4  # failures in a message of at most ten lines
NAMED = 3  # offending images in one of its sentences


def hold(checked: Sequence[Suite], docs: Path, figures: Path) -> None:
    """Run the suites; leave Data Docs in ``docs`` and numbers in ``figures``.

    Raises:
        UserError: where a critical expectation failed; docs and numbers are there by then.
    """
    work = state.work_folder(docs.name, state.fingerprint("docs"))
    state.discard(work)
    outcomes = expectations.run(checked, work)
    found = metrics(outcomes, checked)
    # Before the gate shuts: whoever it stops wants to read why.
    state.move_into_place(work, docs)
    state.write_json(figures, found)
    warned = ", ".join(f["column"] for f in found["failures"] if f["severity"] == "warning")
    say(
        f"{docs.name}: {found['passed']} of {found['expectations']} expectations hold, {found['critical_failures']} "
        f"critical failures, {found['warnings']} warnings{f' ({warned})' if warned else ''}, {docs / 'index.html'}"
    )
    stop = message(outcomes, docs)
    if stop:
        raise UserError(stop)


def metrics(outcomes: Sequence[Outcome], suites: Sequence[Suite]) -> dict[str, Any]:
    """metrics/validation.json: how many expectations there were, and which failed."""
    failed = [outcome for outcome in outcomes if not outcome.passed]
    return {
        "expectations": len(outcomes),
        "passed": len(outcomes) - len(failed),
        "critical_failures": sum(outcome.rule.severity == "critical" for outcome in failed),
        "warnings": sum(outcome.rule.severity == "warning" for outcome in failed),
        "suites": {
            suite.name: {
                "expectations": len(suite.rules),
                "passed": sum(outcome.passed for outcome in outcomes if outcome.suite == suite.name),
                "rows": len(suite.table),
            }
            for suite in suites
        },
        "failures": [
            {
                "suite": outcome.suite,
                "severity": outcome.rule.severity,
                "expectation": outcome.rule.words,
                "column": outcome.rule.column,
                "broken": outcome.broken,
                "rows": outcome.rows,
                "examples": list(outcome.examples[:NAMED]),
                "observed": outcome.observed,
                "turn": outcome.rule.turn,
            }
            for outcome in failed
        ],
        "not_measured": [f"{suite.name}: {column}" for suite in suites for column in suite.not_measured],
    }


def sentence(outcome: Outcome) -> str:
    """A failed outcome in plain words: what was expected, what is, and which images or group it is about."""
    expected = f"{outcome.suite}: expected that {outcome.rule.words}"
    names = zip(outcome.examples[:NAMED], outcome.told, strict=False)
    examples = ", ".join(f"{name} ({told})" if told else name for name, told in names)
    if outcome.rows > 1:
        more = ", ..." if outcome.broken > NAMED else ""
        return f"{expected}; {outcome.broken} of {outcome.rows} break it: {examples}{more}."
    where = f", {outcome.rule.where}" if outcome.rule.where else ""
    images = f"; look at {examples}" if examples else ""
    return f"{expected}; it is {pages.value(outcome.observed)}{where}{images}."


def message(outcomes: Sequence[Outcome], docs: Path) -> str:
    """What a person reads when the gate is shut: at most ten lines. Empty where nothing critical failed."""
    failed = [outcome for outcome in outcomes if not outcome.passed and outcome.rule.severity == "critical"]
    if not failed:
        return ""
    hidden = len(failed) - SHOWN
    which = f", the first {SHOWN} of them" if hidden > 0 else ""
    lines = [f"{len(failed)} critical expectation{'s' if len(failed) > 1 else ''} failed, the run stops here{which}:"]
    for outcome in failed[:SHOWN]:
        lines += [f"- {sentence(outcome)}", f"  What to do: {outcome.rule.turn}."]
    lines.append(f"All results with the images behind them: {docs / 'index.html'}")
    return "\n".join(lines)
