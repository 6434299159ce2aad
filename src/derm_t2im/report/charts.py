"""Which charts the page shows, from contrasts, metrics and plot records; drawn by `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from derm_t2im.report import figures, words
from derm_t2im.report.figures import Curve, Interval


def contrasts(found: Sequence[words.Contrast]) -> list[str]:
    """Forest plots: a chart per measure and pair of mixes."""
    charts = []
    found = [c for c in found if c.a == "hybrid"]
    for b in dict.fromkeys(c.b for c in found):
        group = [c for c in found if c.b == b]
        for key, axis, factor in (
            ("auc", "difference in AUC", 1.0),
            ("accuracy", "difference in accuracy, percentage points", 100.0),
        ):
            rows = [
                Interval(
                    f"{words.arch(c.arch)}, n = {words.count(c.n)}\n{words.test_set(c.test)}",
                    factor * c.values[key],
                    factor * c.values[f"{key}_low"],
                    factor * c.values[f"{key}_high"],
                    "hybrid",
                )
                for c in group
                if c.outcome(key) != "not measured"
            ]
            if not rows:
                continue
            title = f"Hybrid {words.MINUS} {words.mix(b)}"
            said = "; ".join(
                f"{row.label}: {row.value:.3g} [{row.low:.3g}, {row.high:.3g}]".replace("\n", " ") for row in rows
            )
            describe = f"{axis} with 95 % intervals. {said}"
            charts.append(figures.forest(rows, axis, title, describe, limits=_limits(found, key, factor)))
    return charts


def _limits(found: Sequence[words.Contrast], key: str, factor: float) -> tuple[float, float] | None:
    """One axis for all charts of a measure, zero included, so that they can be compared."""
    ends = [
        factor * c.values[f"{key}_{end}"] for c in found if c.outcome(key) != "not measured" for end in ("low", "high")
    ]
    if not ends:
        return None
    low, high = min(0.0, *ends), max(0.0, *ends)
    margin = 0.06 * (high - low) or 0.01
    return low - margin, high + margin


def _by_panel(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[tuple[str, list[Mapping[str, Any]]]]]]:
    """(architecture, test set, [(mix, records in order)]) for records that name all three."""
    panels: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for record in records:
        panel = panels.setdefault((str(record["test"]), str(record["arch"])), {})
        panel.setdefault(str(record["mix"]), []).append(record)
    tests, mixes = list(words.TESTS), list(words.MIXES)
    keys = sorted(panels, key=lambda k: (tests.index(k[0]) if k[0] in tests else 9, k))
    return [
        (
            arch,
            test,
            sorted(panels[test, arch].items(), key=lambda m: (mixes.index(m[0]) if m[0] in mixes else 9, m[0])),
        )
        for test, arch in keys
    ]


def rocs(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A ROC chart per architecture and test set, and per finding where there is more than one."""
    charts = []
    findings = list(dict.fromkeys(str(r.get("positive", "")) for r in records))
    for finding in findings:
        for arch, test, mixes in _by_panel([r for r in records if str(r.get("positive", "")) == finding]):
            curves = [
                Curve(mix, words.mix(mix), [r["fpr"] for r in rows], [r["tpr"] for r in rows]) for mix, rows in mixes
            ]
            title = f"{words.arch(arch)}, {words.test_set(test)}" + (f", {finding}" if len(findings) > 1 else "")
            charts.append(figures.roc(curves, title, f"ROC curves of {len(curves)} training mixes"))
    return charts


def reliabilities(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A reliability chart per architecture and test set; bins without images are left out."""
    charts = []
    for arch, test, mixes in _by_panel([r for r in records if r.get("n") and words.is_number(r.get("accuracy"))]):
        curves = [
            Curve(
                mix,
                words.mix(mix),
                [r["confidence"] for r in rows],
                [r["accuracy"] for r in rows],
                [r["n"] for r in rows],
            )
            for mix, rows in mixes
        ]
        title = f"{words.arch(arch)}, {words.test_set(test)}"
        charts.append(figures.reliability(curves, title, f"Accuracy over confidence of {len(curves)} training mixes"))
    return charts


def kid(finetune: Mapping[str, Any], fidelity: Mapping[str, Any]) -> list[str]:
    """KID beside its floor: what fine-tuning did, and the images drawn; each against its own real images."""
    tuned = []
    for key, label, series in (
        ("kid_before", "base model", "synthetic"),
        ("kid_after", "after fine-tuning", "hybrid"),
        ("kid_floor", "real against real", "real"),
    ):
        tuned += _kid_row(finetune, key, label, series)
    drawn = []
    for label in sorted(name for name, values in fidelity.items() if isinstance(values, Mapping) and "kid" in values):
        if label not in ("all", "external"):
            drawn += _kid_row(fidelity[label], "kid", f"drawn images,\n{label}", "hybrid")
            drawn += _kid_row(fidelity[label], "kid_floor", f"real against real,\n{label}", "real")
    charts = []
    for title, rows in (("What fine-tuning changed", tuned), ("All images drawn", drawn)):
        if rows:
            said = "; ".join(f"{row.label}: {row.value:.3g}".replace("\n", " ") for row in rows)
            describe = f"KID with 95 % intervals. {said}"
            charts.append(figures.forest(rows, "KID (lower is better)", title, describe, zero=False))
    return charts


def _kid_row(values: Mapping[str, Any], key: str, label: str, series: str) -> list[Interval]:
    value = values.get(key)
    if not words.is_number(value):
        return []
    low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
    return [
        Interval(
            label,
            float(value),
            low if words.is_number(low) else value,
            high if words.is_number(high) else value,
            series,
        )
    ]
