"""Forest plots as tables: name, drawn interval, numbers; drawn in percent of a column, so that any width fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from derm_t2im.report import words

TICKS = 5  # at most, on an axis


@dataclass(frozen=True)
class Estimate:
    """What one row shows, in the unit of the axis; ``wide`` is a second, wider interval (training runs)."""

    name: str
    value: float
    low: float
    high: float
    said: str
    detail: str = ""
    notes: tuple[str, ...] = ()
    tone: str = ""
    wide: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """An estimate with its places on the axis, percent of its length; ``cut`` says which ends of ``wide`` go on."""

    of: Estimate
    at: str
    start: str
    end: str
    wide: tuple[str, str] | None = None
    cut: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class Forest:
    """A whole figure: headings are those of the name, the axis, the numbers, then one per note."""

    caption: str
    headings: Sequence[str]
    ticks: list[tuple[str, str]]
    zero: str
    lines: list[Line]
    sides: tuple[str, str] = ("", "")

    @property
    def wide(self) -> bool:
        """Whether any line has a second interval."""
        return any(line.wide for line in self.lines)


def forest(
    estimates: Sequence[Estimate], caption: str, headings: Sequence[str], sides: tuple[str, str] = ("", "")
) -> Forest | None:
    """Place estimates on one axis with zero in it; None where there are none.

    Args:
        estimates: From top to bottom.
        caption: What the figure shows, with the meaning of its intervals.
        headings: Of the columns: name, axis with its unit, numbers, notes.
        sides: What left and right of zero mean, where the estimates are differences.
    """
    if not estimates:
        return None
    ends = [end for e in estimates for end in (e.low, e.value, e.high)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    pad = 0.06 * (high - low) if high - low > 1e-9 else 0.5
    low, high = (low - pad if low < 0 or sides[0] else low), high + pad

    def place(value: float) -> str:
        return f"{100 * (min(max(value, low), high) - low) / (high - low):.2f}%"

    lines = []
    for e in estimates:
        wide = None if e.wide is None else (place(e.wide[0]), place(e.wide[1]))
        cut = (False, False) if e.wide is None else (e.wide[0] < low, e.wide[1] > high)
        lines.append(Line(e, place(e.value), place(e.low), place(e.high), wide, cut))
    ticks, digits = _ticks(low, high)
    said = [(place(t), f"{t:.{digits}f}".replace("-", words.MINUS)) for t in ticks]
    return Forest(caption, headings, said, place(0.0), lines, sides)


def _ticks(low: float, high: float) -> tuple[list[float], int]:
    """Round numbers between two others, and how many decimals they need."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 5, 10) if power * f >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)], max(0, -math.floor(math.log10(step)))


def estimate(
    values: Mapping[str, Any], key: str, name: str, form: words.Form = "plain", digits: int = 3, tone: str = "",
    detail: str = "",
) -> list[Estimate]:  # fmt: skip
    """A row from ``key`` and its interval in metrics; none where it was not measured."""
    value, low, high = (values.get(f"{key}{end}") for end in ("", "_low", "_high"))
    if not words.is_number(value):
        return []
    factor = 100.0 if form in ("percent", "points") else 1.0
    ends = (low, high) if words.is_number(low) and words.is_number(high) else (value, value)
    said = f"{words.number(value, form, digits)} {words.bounds(values, key, form, digits)}".strip()
    return [Estimate(name, factor * value, factor * ends[0], factor * ends[1], said, detail, tone=tone)]
