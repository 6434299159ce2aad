"""What must hold, in words and as Great Expectations understands it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
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
        tell: Columns whose values say, beside an id, what is wrong with it; the rule's own where empty.
        behind: For one number of a whole set: ids of the images that it comes from, the worst first.
        where: For the same: the group in which it is worst, in words.
    """

    words: str
    expectation: str
    column: str
    severity: Severity
    turn: str
    arguments: dict[str, Any] = field(default_factory=dict)
    tell: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    where: str = ""


@dataclass(frozen=True)
class Suite:
    """Rules over one table, whose rows are named by ``image_id``.

    ``not_measured`` are columns that rules would need and the table has not; ``files`` the images behind the ids.
    """

    name: str
    table: pd.DataFrame
    rules: tuple[Rule, ...]
    not_measured: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of a rule: how many rows break it, of how many, and a value they have.

    ``examples`` are the ids of the first of them, or of the images behind a number of the whole set; ``told`` what is
    wrong with each, in words or empty.
    """

    suite: str
    rule: Rule
    passed: bool
    broken: int
    rows: int
    examples: tuple[str, ...]
    told: tuple[str, ...]
    observed: Any = None


def unique(column: str, severity: Severity, words: str, turn: str, tell: tuple[str, ...] = ()) -> Rule:
    """No value twice."""
    return Rule(words, "ExpectColumnValuesToBeUnique", column, severity, turn, tell=tell)


def present(column: str, severity: Severity, words: str, turn: str) -> Rule:
    """No value missing."""
    return Rule(words, "ExpectColumnValuesToNotBeNull", column, severity, turn)


def one_of(
    column: str, values: list[Any], severity: Severity, words: str, turn: str, tell: tuple[str, ...] = ()
) -> Rule:
    """Values from a set."""
    return Rule(words, "ExpectColumnValuesToBeInSet", column, severity, turn, {"value_set": values}, tell)


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
    tell: tuple[str, ...] = (),
) -> Rule:
    """Values within bounds, for at least the share ``mostly`` of rows."""
    arguments: dict[str, Any] = {"min_value": low, "max_value": high}
    if mostly < 1:
        arguments["mostly"] = mostly
    return Rule(words, "ExpectColumnValuesToBeBetween", column, severity, turn, arguments, tell)
