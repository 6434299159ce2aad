"""What must hold, in words and as Great Expectations understands it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Rule:
    """One expectation on one column.

    Attributes:
        words: What is expected, as a sentence without a full stop.
        expectation: Name of the class in ``great_expectations.expectations``.
        column: The column it looks at.
        severity: ``critical`` stops the run, ``warning`` goes to the report.
        turn: What to do or which parameter to turn when it fails.
        arguments: Further arguments of the expectation.
    """

    words: str
    expectation: str
    column: str
    severity: Severity
    turn: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """Rules over one table, whose rows are named by ``image_id``.

    ``not_measured`` are columns that rules would need and the table has not.
    """

    name: str
    table: pd.DataFrame
    rules: tuple[Rule, ...]
    not_measured: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a rule: how many rows break it, of how many, the first of them, and a value they have."""

    suite: str
    rule: Rule
    passed: bool
    broken: int
    rows: int
    examples: tuple[str, ...]
    observed: Any = None


def unique(column: str, severity: Severity, words: str, turn: str) -> Rule:
    """No value twice."""
    return Rule(words, "ExpectColumnValuesToBeUnique", column, severity, turn)


def present(column: str, severity: Severity, words: str, turn: str) -> Rule:
    """No value missing."""
    return Rule(words, "ExpectColumnValuesToNotBeNull", column, severity, turn)


def one_of(column: str, values: list[Any], severity: Severity, words: str, turn: str) -> Rule:
    """Values from a set."""
    return Rule(words, "ExpectColumnValuesToBeInSet", column, severity, turn, {"value_set": values})


def matches(column: str, regex: str, severity: Severity, words: str, turn: str) -> Rule:
    """Values of a pattern."""
    return Rule(words, "ExpectColumnValuesToMatchRegex", column, severity, turn, {"regex": regex})


def between(
    column: str,
    low: float | None,
    high: float | None,
    severity: Severity,
    words: str,
    turn: str,
    mostly: float = 1.0,
) -> Rule:
    """Values within bounds, for at least the share ``mostly`` of rows."""
    arguments: dict[str, Any] = {"min_value": low, "max_value": high}
    if mostly < 1:
        arguments["mostly"] = mostly
    return Rule(words, "ExpectColumnValuesToBeBetween", column, severity, turn, arguments)
