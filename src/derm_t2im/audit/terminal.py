"""The findings as one table of text: with rules and colours on a terminal, plain elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO, Any

from derm_t2im.audit import words

WIDTH = 120  # where there is no terminal to ask
STYLES = {"bad": "bold red", "notice": "yellow", "": ""}


def show(found: Mapping[str, Any], file: IO[str], verbose: bool = False) -> None:
    """Print the headline, the table and the notes; every find and unusable file too where ``verbose``."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = file.isatty()
    console = Console(file=file, width=None if terminal else WIDTH, highlight=False, soft_wrap=False)
    table = Table(box=box.SIMPLE_HEAD if terminal else None, title_justify="left", pad_edge=False)
    for heading, style in (("", "bold"), ("what", ""), ("found", ""), ("sign", "")):
        # Ids and texts are a stranger's: never markup, never cut.
        table.add_column(heading, style=style, overflow="fold", no_wrap=heading == "sign")
    section = ""
    rows = words.rows(found)
    for row in rows:
        if row.section != section and section:
            table.add_section() if terminal else table.add_row()
        cells = (row.section if row.section != section else "", row.what, row.found, row.sign)
        table.add_row(*(Text(plain(cell), STYLES[row.tone] if k == 3 else "") for k, cell in enumerate(cells)))
        section = row.section
    console.print(Text(plain(f"Audit of {found['path']}"), "bold"))
    said, do = words.headline(found)
    style = "bold red" if found["failed"] else "bold yellow" if any(row.tone for row in rows) else "bold green"
    console.print(Text(plain(said), style))
    console.print(Text(plain(do)))
    console.print(table)
    for note in words.notes(found):
        console.print(Text(f"Note: {note}"))
    if verbose:
        for line in details(found):
            console.print(Text(plain(line)), soft_wrap=True)  # a line each, to be searched


def details(found: Mapping[str, Any]) -> Iterator[str]:
    """A line for every find and every unusable image."""
    same = found["duplicates"]
    for what, finds in (
        ("repeat", same["exact"]),
        ("repeat", same["near"]),
        ("CONTRADICTION", found["contradictions"]["examples"]),
        ("LEAK", found["leaks"]["examples"]),
        ("copy", found["copies"]["examples"]),
    ):
        for find in finds:
            yield f"{what}: {find['what']}: {' = '.join(image['file'] for image in find['images'])}"
    for one in found["unusable"]["examples"]:
        yield f"not usable: {one['image_id']}: {one['reason']}, {one['detail']}"


def plain(text: str) -> str:
    """Text without anything that could steer a terminal."""
    return "".join(mark if mark.isprintable() else " " for mark in text)
