"""How numbers are said: estimates with their intervals, differences with their sign, outcomes in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

MINUS = "\N{MINUS SIGN}"
NONE = "–"
NBSP = "\N{NO-BREAK SPACE}"

Outcome = Literal["improvement", "deterioration", "no improvement shown", "not measured"]
Form = Literal["percent", "plain", "points", "difference"]

MIXES = {
    "real": "real only",
    "hybrid": "hybrid",
    "oversampled": "oversampled real",
    "synthetic": "synthetic only",
    "augmented": "real, strongly augmented",
    "unfiltered": "real and uncurated synthetic",
}
#: What is measured on an image, and its unit.
MEASURES = {
    "ruler": "ruler",
    "ink": "ink",
    "gel_bubble": "gel bubbles",
    "dark_corner": "dark corners",
    "sharpness": "sharpness",
    "exposure": "exposure",
    "colour_cast": "colour cast, °",
    "ita": "skin tone (ITA), °",
}
TESTS = {"in_domain": "in-domain test", "external": "external test"}
ARCHS = {"mobilenetv2": "MobileNetV2", "vit": "ViT"}


def is_number(value: Any) -> TypeGuard[float]:
    """A finite number (metrics write NaN as null)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, form: Form = "plain", digits: int = 3) -> str:
    """One value: ``percent`` 87.4 %, ``points`` +1.2 (percentage points), ``difference`` +0.012, ``plain`` 0.934."""
    if not is_number(value):
        return NONE
    if form == "percent":
        return f"{100 * value:.1f} %"
    if form == "points":
        return _signed(100 * value, 1)
    if form == "difference":
        return _signed(value, digits)
    return f"{value:.{digits}f}".replace("-", MINUS)


def _signed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{'+' if value > 0 else MINUS}{text}"


def bounds(values: Mapping[str, Any], key: str, form: Form = "plain", digits: int = 3) -> str:
    """The 95 % interval of ``key`` as ``[low, high]``, unbreakable; empty where there is none."""
    low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
    if not (is_number(low) and is_number(high)):
        return ""
    said = (number(low, form, digits).removesuffix(" %"), number(high, form, digits).removesuffix(" %"))
    return f"[{said[0]},{NBSP}{said[1]}]"


def p_value(p: Any) -> str:
    """A p value as it is printed."""
    if not is_number(p):
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def count(value: Any) -> str:
    """A whole number with thin thousands separators."""
    return f"{round(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if is_number(value) else NONE


def mix(name: str) -> str:
    """Name of a training mix for people."""
    return MIXES.get(name, reason(name))


def test_set(name: str) -> str:
    """Name of a test set for people."""
    return TESTS.get(name, name)


def mix_place(name: str) -> tuple[int, str]:
    """Where a training mix stands among others: in the order of :data:`MIXES`, others behind them by name."""
    known = list(MIXES)
    return (known.index(name), "") if name in known else (len(known), name)


def test_place(name: str) -> tuple[int, str]:
    """Where a test set stands among others."""
    known = list(TESTS)
    return (known.index(name), "") if name in known else (len(known), name)


def arch(name: str) -> str:
    """Name of an architecture for people."""
    return ARCHS.get(name, name)


def reason(name: str) -> str:
    """A machine-readable reason for people."""
    return name.replace("_", " ")


@dataclass(frozen=True)
class Contrast:
    """Mix ``a`` minus mix ``b``: one architecture, one test set."""

    arch: str
    test: str
    a: str
    b: str
    n: int | None
    values: Mapping[str, Any]

    def outcome(self, measure: str) -> Outcome:
        """What the 95 % interval of ``measure`` says, nothing more."""
        low, high = self.values.get(f"{measure}_low"), self.values.get(f"{measure}_high")
        if not (is_number(low) and is_number(high)):
            return "not measured"
        if low > 0:
            return "improvement"
        return "deterioration" if high < 0 else "no improvement shown"


def contrasts(classification: Mapping[str, Any]) -> list[Contrast]:
    """All contrasts of ``metrics/classification.json``, by pair of mixes, architecture, test set."""
    found = []
    for arch_name, by_test in (classification.get("contrasts") or {}).items():
        if not isinstance(by_test, Mapping):
            continue
        for test, pairs in by_test.items():
            for pair, values in pairs.items():
                a, _, b = pair.partition("-")
                n = values.get("n") or _n(classification, arch_name, a, test)
                found.append(Contrast(arch_name, test, a, b, n, values))
    order = {name: i for i, name in enumerate(MIXES)}
    tests = {name: i for i, name in enumerate(TESTS)}
    return sorted(
        found, key=lambda c: (c.a != "hybrid", order.get(c.b, 9), c.a, c.b, tests.get(c.test, 9), c.test, c.arch)
    )


def _n(classification: Mapping[str, Any], arch_name: str, mix_name: str, test: str) -> int | None:
    value = classification.get(arch_name, {}).get(mix_name, {}).get(test, {}).get("n")
    return int(value) if is_number(value) else None
