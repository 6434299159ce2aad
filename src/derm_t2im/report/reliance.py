"""Tables on how far a classifier can be relied on: as in the paper, calibrated, per group, where it abstains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from derm_t2im.report import words
from derm_t2im.report.tables import Cell, Row, cell, flat, scored

#: Measures of the main table: key, heading, form, p of the difference from real images alone.
MAIN: tuple[tuple[str, str, words.Form, str], ...] = (
    ("accuracy", "Accuracy", "percent", "p"),
    ("auc", "AUC", "plain", "p_auc"),
)


@dataclass(frozen=True)
class Entry:
    """A cell of the main table: value, interval, and small lines below it."""

    value: str
    interval: str
    notes: list[str]


@dataclass(frozen=True)
class Main:
    """The paper's Table IV of one run: columns (test set, n), rows (training data, model, cells)."""

    tests: list[str]
    measures: list[str]
    rows: list[tuple[str, int, str, list[Entry]]]


def main(classification: Mapping[str, Any]) -> Main | None:
    """Training data by model down, test sets across, as the paper's Table IV; None before anything is evaluated.

    A row's second entry is how many models its training data spans, 0 for all but the first of them.
    """
    found = scored(classification)
    if not found:
        return None
    values = {(mix, arch, test): v for arch, mix, test, v in found}
    tests = sorted({test for _, _, test in values}, key=words.test_place)
    rows = []
    for mix in sorted({m for m, _, _ in values}, key=words.mix_place):
        archs = sorted({a for m, a, _ in values if m == mix})
        for k, arch in enumerate(archs):
            entries = []
            for test in tests:
                against = _against_real(classification, arch, mix, test)
                entries += [
                    _entry(values.get((mix, arch, test), {}), key, form, against, p, mix) for key, _, form, p in MAIN
                ]
            rows.append((words.mix(mix), len(archs) if k == 0 else 0, words.arch(arch), entries))
    return Main([words.test_set(test) for test in tests], [name for _, name, _, _ in MAIN], rows)


def _against_real(classification: Mapping[str, Any], arch: str, mix: str, test: str) -> Mapping[str, Any]:
    pairs = flat(flat(flat(classification.get("contrasts")).get(arch)).get(test))
    return flat(pairs.get(f"{mix}-real"))


def _entry(
    values: Mapping[str, Any], key: str, form: words.Form, against: Mapping[str, Any], p: str, mix: str
) -> Entry:
    notes = [f"n = {words.count(values['n'])}"] if words.is_number(values.get("n")) else []
    if mix != "real" and words.is_number(against.get(p)):
        notes = [", ".join([*notes, f"p {_equal(against[p])}"])]
        if words.is_number(against.get(f"{p}_seeds")):
            notes.append(f"with seeds: p {_equal(against[f'{p}_seeds'])}")
    return Entry(words.number(values.get(key), form), words.bounds(values, key, form), notes)


def _equal(p: float) -> str:
    said = words.p_value(p)
    return said if said.startswith("<") else f"= {said}"


def beyond(contrasts: Sequence[words.Contrast]) -> list[Row]:
    """Differences for new training runs as well, and what the margin of equivalence makes of them."""
    rows = []
    for c in contrasts:
        if not (c.values.get("auc_verdict") or c.values.get("accuracy_verdict")):
            continue
        cells = [_where(c.arch, c.test)]
        for key, form, p in (("auc", "difference", "p_auc"), ("accuracy", "points", "p")):
            of_seeds = f"{p}_seeds"
            holm = c.values.get(f"{of_seeds}_holm")
            cells += [
                Cell(words.bounds(c.values, f"{key}_seeds", form) or words.NONE),  # type: ignore[arg-type]
                Cell(
                    words.p_value(c.values.get(of_seeds)),
                    f"Holm {words.p_value(holm)}" if words.is_number(holm) else "",
                ),
                Cell(words.p_value(c.values.get(f"{p}_within_margin"))),
                Cell(str(c.values.get(f"{key}_verdict") or words.NONE)),
            ]
        rows.append(Row(f"{words.mix(c.a)} {words.MINUS} {words.mix(c.b)}", cells))
    return rows


def calibration(classification: Mapping[str, Any]) -> list[Row]:
    """ECE and Brier score as trained and after temperature scaling."""
    rows = []
    for arch, mix, test, values in scored(classification):
        after = flat(values.get("calibrated"))
        if not words.is_number(after.get("ece")):
            continue
        cells = [
            _where(arch, test),
            Cell(words.number(after.get("temperature"), digits=2)),
            cell(values, "ece"),
            cell(after, "ece"),
            cell(values, "brier"),
            cell(after, "brier"),
            Cell(words.count(values["n"])),
        ]
        rows.append(Row(words.mix(mix), cells))
    return rows


def abstention(classification: Mapping[str, Any]) -> list[Row]:
    """Accuracy where the least certain images are left to a reader."""
    rows = []
    for arch, mix, test, values in scored(classification):
        found = flat(values.get("abstention"))
        if words.is_number(found.get("aurc")):
            cells = [
                _where(arch, test),
                cell(values, "accuracy", "percent"),
                cell(found, "accuracy_at_90", "percent"),
                cell(found, "accuracy_at_80", "percent"),
                cell(found, "aurc"),
                Cell(words.count(values["n"])),
            ]
            rows.append(Row(words.mix(mix), cells))
    return rows


@dataclass(frozen=True)
class Sets:
    """The table of prediction sets: the coverage asked for, classes across, rows."""

    wanted: str
    val_n: str
    classes: list[str]
    rows: list[Row]


def sets(classification: Mapping[str, Any]) -> Sets | None:
    """What conformal prediction sets cover, over all and per class, and how large they are."""
    found = [(a, m, t, v, flat(v.get("conformal"))) for a, m, t, v in scored(classification)]
    found = [item for item in found if words.is_number(item[4].get("coverage"))]
    if not found:
        return None
    classes = sorted({name for item in found for name in flat(item[4].get("classes"))})
    rows = []
    for arch, mix, test, values, one in found:
        inside = flat(one.get("classes"))
        cells = [_where(arch, test), cell(one, "coverage", "percent")]
        for name in classes:
            each = flat(inside.get(name))
            bounds = words.bounds(each, "coverage", "percent")
            n = f"n = {words.count(each.get('n'))}"
            cells.append(Cell(words.number(each.get("coverage"), "percent"), f"{bounds} {n}".strip()))
        cells.append(cell(one, "set_size", digits=2))
        cells += [Cell(words.number(one.get(key), "percent")) for key in ("empty", "single", "double")]
        cells.append(Cell(words.count(values["n"])))
        rows.append(Row(words.mix(mix), cells))
    first = found[0][4]
    wanted = f"{100 * first['wanted']:.0f} %" if words.is_number(first.get("wanted")) else words.NONE
    return Sets(wanted, words.count(first.get("val_n")), classes, rows)


def subgroups(metrics: Mapping[str, Any]) -> list[tuple[str, list[Row]]]:
    """Per attribute: the worst group of each classifier on each test set, and the gap to the best."""
    found = [
        (attribute, test, arch, mix, flat(values))
        for arch, mixes in metrics.items()
        for mix, tests in flat(mixes).items()
        for test, attributes in flat(tests).items()
        for attribute, values in flat(attributes).items()
    ]
    found.sort(
        key=lambda item: (item[0] != "tone", item[0], words.test_place(item[1]), item[2], words.mix_place(item[3]))
    )
    blocks: dict[str, list[Row]] = {}
    for attribute, test, arch, mix, values in found:
        if not words.is_number(values.get("gap")):
            continue
        by = "AUC" if values.get("measure") == "auc" else "balanced accuracy"
        chance = Cell(words.number(values.get("gap_by_chance")), _p(values.get("gap_p")))
        cells = [
            _where(arch, test),
            Cell(f"{values['groups']}", f"{values['too_small']} too small" if values.get("too_small") else ""),
            Cell(str(values["worst"]), f"{by} {words.number(values.get('worst_' + str(values.get('measure'))))}"),
            Cell(str(values["best"])),
            cell(values, "gap"),
            chance,
            Cell(str(values.get("sensitivity_worst") or words.NONE)),
            cell(values, "sensitivity_gap", "plain"),
        ]
        blocks.setdefault(attribute, []).append(Row(words.mix(mix), cells))
    return list(blocks.items())


def _p(p: Any) -> str:
    return f"p {_equal(p)}" if words.is_number(p) else ""


def _where(arch: str, test: str) -> Cell:
    return Cell(f"{words.arch(arch)}, {words.test_set(test)}")


def tested(classification: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """Test images behind each (architecture, test set)."""
    return {(arch, test): int(values["n"]) for arch, _, test, values in scored(classification)}


def margin(contrasts: Sequence[words.Contrast]) -> tuple[str, str]:
    """The margin of equivalence and the gain planned for, in words; empty where they are not known."""
    for c in contrasts:
        if words.is_number(c.values.get("margin")) and words.is_number(c.values.get("gain")):
            return f"{c.values['margin']:.3g}", f"{c.values['gain']:.3g}"
    return "", ""
