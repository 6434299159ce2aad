"""What was found, in words and numbers for people: the terminal and the page say the same."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import IO, Any, NamedTuple

from derm_t2im import templates
from derm_t2im.drift.compare import verdict
from derm_t2im.report.words import MEASURES, NONE, count, number, p_value

WIDTH = 140  # where there is no terminal to ask
SECTIONS = {
    "features": "Features",
    "scores": "Scores",
    "artefacts": "Artefacts, share",
    "measures": "Pictures, median",
    "skin tone": "Skin tone, share",
}
NAMES = {
    "distribution": "mean score",
    "share at or above the threshold": "share above threshold",
    **MEASURES,
    "hair_fraction": "hair (over 5 % of it)",
    "lesion_area": "lesion, share",
}
HEADS = ("", "Reference", "New", "Apart", "p", "p, Holm", "")


class Row(NamedTuple):
    """One comparison, as it is printed."""

    section: str
    name: str
    ref: str
    new: str
    shift: str
    p: str
    adjusted: str
    drift: bool


def rows(found: Mapping[str, Any]) -> list[Row]:
    """A row per comparison, in order."""
    out = []
    for one in found["tests"]:
        share = one["section"] in ("artefacts", "skin tone") or one["name"].startswith("share")
        out.append(
            Row(
                SECTIONS[one["section"]], NAMES.get(one["name"], one["name"]), _said(one["ref"], share),
                _said(one["new"], share), _said(one["shift"], False), p_value(one["p"]), p_value(one["p_adjusted"]),
                one["drift"],
            )
        )  # fmt: skip
    return out


def _said(value: Mapping[str, float] | None, share: bool) -> str:
    if value is None:
        return NONE
    parts = [number(value[key], "percent" if share else "plain").removesuffix(" %") for key in ("value", "low", "high")]
    return f"{parts[0]}{' %' if share else ''} ({parts[1]} to {parts[2]})"


def sizes(found: Mapping[str, Any]) -> str:
    """Which sets, and how large."""
    ref, new = found["ref"], found["new"]
    return f"{ref['name']} ({count(ref['images'])} images) against {new['name']} ({count(new['images'])} images)"


def show(found: Mapping[str, Any], file: IO[str]) -> None:
    """Print the verdict, the table and the notes."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = file.isatty()
    console = Console(file=file, width=None if terminal else WIDTH, highlight=False)
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False)
    for at, head in enumerate(HEADS):
        table.add_column(head, justify="left" if at in (0, 6) else "right", overflow="fold")
    for section, some in groupby(rows(found), key=lambda row: row.section):
        table.add_row(Text(section, "bold"))
        for row in some:
            cells = (f"  {row.name}", row.ref, row.new, row.shift, row.p, row.adjusted)
            table.add_row(*map(Text, cells), Text("drift" if row.drift else "", "bold red"))
    console.print(Text(_plain(f"Drift: {sizes(found)}"), "bold"), soft_wrap=True)
    console.print(Text(verdict(found), "bold red" if found["drift"] else "bold green"))
    console.print(table)
    for note in found["notes"]:
        console.print(Text(_plain(f"Note: {note}")), soft_wrap=not terminal)


def page(found: Mapping[str, Any]) -> str:
    """The same as an HTML page: nothing is fetched, nothing runs in the browser."""
    from markupsafe import Markup

    pages = templates.environment("derm_t2im.drift", "derm_t2im.report")
    return pages.get_template("drift.html").render(
        style=Markup(templates.source(pages, "style.css")),
        found=found,
        verdict=verdict(found),
        sizes=sizes(found),
        heads=HEADS,
        sections=[(name, list(some)) for name, some in groupby(rows(found), key=lambda row: row.section)],
        threshold=number(found["threshold"]),
    )


def _plain(text: str) -> str:
    """Text without anything that could steer a terminal."""
    return "".join(mark if mark.isprintable() else " " for mark in text)
