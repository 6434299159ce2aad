"""The section on sweeps: what each asked, its figure, and its figures in numbers."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from derm_t2im import paths
from derm_t2im.report import words
from derm_t2im.report.evidence import Evidence
from derm_t2im.report.pictures import Picture
from derm_t2im.report.tables import Cell, Row, flat

_SAID = {"arch": words.arch, "mix": words.mix, "test": words.test_set}


class Swept(NamedTuple):
    """One sweep: its question, which points there are, what they differ in, its picture and a row per figure."""

    name: str
    asks: str
    state: str
    axis: str
    picture: Picture | None
    rows: list[Row]


def section(evidence: Evidence) -> list[Swept]:
    """The sweeps of which a point is finished, by name."""
    found = []
    for name, values in evidence.sweeps.items():
        points = [flat(point) for point in flat(values.get("points")).values()]
        finished = [point for point in points if point.get("state") == "finished"]
        if not finished:
            continue
        asks = str(values.get("asks") or name)
        axis = str(flat(values.get("axis")).get("name") or "point")
        picture = _picture(evidence.root / paths.SWEEP_PLOTS / f"{name}.svg", asks)
        rows = _rows(evidence.swept.get(name, []))
        found.append(Swept(name, asks, _state(values, len(finished), len(points)), axis, picture, rows))
    return found


def _state(values: Mapping[str, Any], finished: int, points: int) -> str:
    """How much of it there is, of which commit, and with which parameters of the user's own."""
    said = f"{finished} of {points} points finished" if points > 1 else "Finished"
    if values.get("revision"):
        said += f", at commit {str(values['revision'])[:12]}"
    given = ", ".join(f"{key} = {value}" for key, value in sorted(flat(values.get("given")).items()))
    return f"{said}; with {given}." if given else f"{said}."


def _picture(path: Path, asks: str) -> Picture | None:
    if not path.is_file():
        return None
    source = "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
    return Picture(source, f"Figure of the sweep: {asks}", f"{path.parent.name}/{path.name}", path.stem, "")


def _rows(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row per figure and point, those of one figure together."""
    rows: dict[tuple[str, str], list[Row]] = {}
    for record in records:
        if not words.is_number(record.get("value")):
            continue
        name, where = str(record.get("figure")), _where(record)
        bounds = words.bounds({**record, "value_low": record.get("low"), "value_high": record.get("high")}, "value")
        cells = [
            Cell(where or words.NONE),
            Cell(str(record.get("point"))),
            Cell(words.number(record["value"]), bounds),
            Cell(words.number(record.get("seed_sd"))),
            Cell(words.count(record.get("seeds"))),
            Cell(words.count(record.get("n"))),
        ]
        rows.setdefault((name, where), []).append(Row(name, cells))
    return [row for group in rows.values() for row in group]


def _where(record: Mapping[str, Any]) -> str:
    said = [say(str(record[key])) for key, say in _SAID.items() if key in record]
    if "pair" in record:
        first, _, second = str(record["pair"]).partition("-")
        said.append(f"{words.mix(first)} {words.MINUS} {words.mix(second)}")
    return ", ".join(said)
