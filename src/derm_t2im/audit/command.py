"""`derm-t2im audit`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Scheme(StrEnum):
    """How labels become classes."""

    as_is = "as_is"
    binary = "binary"
    ham10000 = "ham10000"


def audit(
    path: Annotated[
        Path,
        typer.Argument(
            help="A folder with a sub-folder per class (below train/, test/, ... where it has splits), a folder with a "
            "table (CSV, Parquet; HAM10000 as distributed), or a table itself, such as one of our manifest.parquet."
        ),
    ],
    json: Annotated[Path | None, typer.Option(help="Write everything found to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures, one file, to read offline.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Most images to look at, classes in proportion; 0: all.")] = 0,
    table: Annotated[
        str | None, typer.Option(help="Name of the table in the folder; `none`: go by its sub-folders.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label, where it has an unusual name.")] = None,
    labels: Annotated[
        Scheme, typer.Option(help="Classes: labels as they are, benign and malignant, or HAM10000's seven.")
    ] = Scheme.as_is,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Name every find and every unusable image.")] = False,
) -> None:
    """Look at a set of images before anything is trained on it.

    Repeats, contradictory labels, leaks between splits, artefacts and shortcuts per class, diversity, generation
    settings. Exits with 1 on contradictions or leaks, or if the set cannot be audited at all.
    """
    from derm_t2im.audit import findings, page, terminal
    from derm_t2im.progress import say
    from derm_t2im.state import write_atomic, write_json

    found = findings.audit(path, limit, table, label, labels.value)
    terminal.show(found, sys.stdout, verbose)
    if json is not None:
        write_json(json, found)
        say(f"audit: {json}")
    if html is not None:
        write_atomic(html, page.render(found))
        say(f"audit: {html}")
    if found["failed"]:
        raise typer.Exit(1)
