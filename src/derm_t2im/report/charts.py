"""Which charts the page shows, from contrasts, metrics and plot records; drawn by `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from derm_t2im.report import figures, words
from derm_t2im.report.figures import Curve, Interval
from derm_t2im.vocabulary import TONES


def _by_panel(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[tuple[str, list[Mapping[str, Any]]]]]]:
    """(architecture, test set, [(mix, records in order)]) for records that name all three."""
    panels: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for record in records:
        panel = panels.setdefault((str(record["test"]), str(record["arch"])), {})
        panel.setdefault(str(record["mix"]), []).append(record)
    keys = sorted(panels, key=lambda k: (words.test_place(k[0]), k))
    return [
        (arch, test, sorted(panels[test, arch].items(), key=lambda m: words.mix_place(m[0]))) for test, arch in keys
    ]


Tested = Mapping[tuple[str, str], int]  # (architecture, test set) -> images


def _n(tested: Tested | None, arch: str, test: str) -> str:
    n = (tested or {}).get((arch, test))
    return words.count(n) if n else ""


def rocs(records: Sequence[Mapping[str, Any]], tested: Tested | None = None) -> list[str]:
    """A ROC chart per architecture and test set, and per finding where there is more than one."""
    charts = []
    findings = list(dict.fromkeys(str(r.get("positive", "")) for r in records))
    for finding in findings:
        for arch, test, mixes in _by_panel([r for r in records if str(r.get("positive", "")) == finding]):
            curves = [
                Curve(mix, words.mix(mix), [r["fpr"] for r in rows], [r["tpr"] for r in rows]) for mix, rows in mixes
            ]
            title = f"{words.arch(arch)}, {words.test_set(test)}" + (f", {finding}" if len(findings) > 1 else "")
            charts.append(figures.roc(curves, title, f"ROC curves of {len(curves)} training mixes",
                                      _n(tested, arch, test)))  # fmt: skip
    return charts


def reliabilities(
    records: Sequence[Mapping[str, Any]], tested: Tested | None = None, scaled: bool = False
) -> list[str]:
    """A reliability chart per architecture and test set; bins without images are left out."""
    charts = []
    for arch, test, mixes in _by_panel([r for r in records if r.get("n") and words.is_number(r.get("accuracy"))]):
        curves = [_curve(mix, rows, "confidence", sized=True) for mix, rows in mixes]
        title = f"{words.arch(arch)}, {words.test_set(test)}"
        said = "after temperature scaling" if scaled else "as trained"
        describe = f"Accuracy over confidence of {len(curves)} training mixes, {said}"
        charts.append(figures.reliability(curves, title, describe, _n(tested, arch, test), scaled))
    return charts


def abstentions(records: Sequence[Mapping[str, Any]], tested: Tested | None = None) -> list[str]:
    """Accuracy over coverage, a chart per architecture and test set."""
    charts = []
    for arch, test, mixes in _by_panel([r for r in records if words.is_number(r.get("accuracy"))]):
        curves = [_curve(mix, rows, "coverage") for mix, rows in mixes]
        title = f"{words.arch(arch)}, {words.test_set(test)}"
        describe = f"Accuracy over the share answered, of {len(curves)} training mixes, with 95 % bands"
        charts.append(figures.abstention(curves, title, describe, _n(tested, arch, test)))
    return charts


def _curve(mix: str, rows: Sequence[Mapping[str, Any]], x: str, sized: bool = False) -> Curve:
    bounded = all(words.is_number(r.get(end)) for r in rows for end in ("low", "high"))
    low, high = ([float(r[end]) for r in rows] if bounded else [] for end in ("low", "high"))
    sizes = [r["n"] for r in rows] if sized else []
    return Curve(mix, words.mix(mix), [r[x] for r in rows], [r["accuracy"] for r in rows], sizes, low, high)


def subgroups(records: Sequence[Mapping[str, Any]], attribute: str, most: int = 8) -> list[str]:
    """AUC in each group of an attribute, a chart per architecture and test set; none for more than ``most`` groups.

    Training mixes stand side by side. A group without an interval is named with its n only.
    """
    charts = []
    own = [r for r in records if r.get("attribute") == attribute]
    if len({r["group"] for r in own}) > most:
        return []
    ends = [float(r[f"auc_{end}"]) for r in own for end in ("low", "high") if words.is_number(r.get(f"auc_{end}"))]
    limits = (min(ends) - 0.02, min(1.01, max(ends) + 0.02)) if ends else None
    for arch, test, mixes in _by_panel(own):
        groups = list(dict.fromkeys(str(r["group"]) for _, rows in mixes for r in rows))
        order = sorted(groups, key=lambda g: (list(TONES).index(g) if g in TONES else -1, g))
        n = {str(r["group"]): r["n"] for _, rows in mixes for r in rows}
        series = []
        for mix, rows in mixes:
            by_group = {str(r["group"]): r for r in rows}
            series.append((mix, words.mix(mix), [_estimate(by_group.get(g, {}), "auc") for g in order]))
        labels = [f"{g}\nn = {words.count(n[g])}" for g in order]
        title = f"{words.arch(arch)}, {words.test_set(test)}"
        said = "; ".join(
            f"{g}, {name}: {row.value:.2f}"
            for _, name, rows in series
            for g, row in zip(order, rows, strict=True)
            if row
        )
        describe = f"AUC by {attribute} with 95 % intervals. {said}"
        charts.append(figures.grouped(labels, series, f"AUC, by {words.reason(attribute)}", title, describe, limits))
    return charts


def _estimate(record: Mapping[str, Any], key: str) -> Interval | None:
    if not all(words.is_number(record.get(f"{key}{end}")) for end in ("", "_low", "_high")):
        return None
    return Interval(str(record.get("group")), record[key], record[f"{key}_low"], record[f"{key}_high"])
