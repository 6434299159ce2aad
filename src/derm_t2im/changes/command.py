"""`derm-t2im report diff`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from derm_t2im.errors import UserError

report_app = typer.Typer(help="Results beside those of another revision.", no_args_is_help=True)


@report_app.callback()
def _group() -> None:
    """Keeps `diff` a command of its own."""


@report_app.command("diff")
def diff(
    rev: Annotated[str, typer.Argument(help="What to compare with: a branch, tag, commit or experiment of DVC.")],
    to: Annotated[str | None, typer.Option(help="The later one; default: the working tree.")] = None,
    html: Annotated[bool, typer.Option("--html", help="A page of its own, with curves and pictures.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    md: Annotated[bool, typer.Option("--md", help="Markdown for a pull request; the default.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to write; default: stdout.")] = None,
    samples: Annotated[
        str, typer.Option(help="--md: address before PATH of a file at a commit, with {commit} in it, for pictures.")
    ] = "",
    latency: Annotated[bool, typer.Option("--latency", help="Time the exported classifiers on this machine.")] = False,
    page: Annotated[str, typer.Option(help="--md: address of the page that --html made.")] = "",
) -> None:
    """Compare metrics, parameters and samples with another revision, as a comment for a pull request."""
    from derm_t2im.changes import compare, predictions, render, rerun, snapshot
    from derm_t2im.changes import latency as timing
    from derm_t2im.progress import say
    from derm_t2im.state import write_atomic

    if html + json + md > 1:
        raise UserError("choose one of --md, --html and --json.")
    if out is not None and out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file in it.")
    before, after = snapshot.read(rev), snapshot.read(to)
    if not before.metrics and not after.metrics:
        raise UserError(f"neither {before.short} nor {after.short} has metrics: run `dvc repro` and commit metrics/.")
    old, new = predictions.fetch(before), predictions.fetch(after)
    same = predictions.paired(old, new, predictions.groups()) if old is not None and new is not None else {}
    stale = rerun.stale(after) if not after.commit or _is_checked_out(after.commit) else []
    times = timing.measure((before, after)) if latency else ({}, {})
    found = compare.compare(before, after, same, rerun.changed(before, after), stale, times)
    if html:
        text = render.html(found)
    elif json:
        text = render.as_json(found)
    else:
        text = render.markdown(found, _addresses(samples, before, after), page)
    if out is None:
        sys.stdout.write(text)
    else:
        write_atomic(out, text)
        say(render.verdict(found))


def _is_checked_out(commit: str) -> bool:
    from derm_t2im.git import commit_of

    return commit_of("HEAD") == commit


def _addresses(base: str, *both: object) -> tuple[str, str] | None:
    from derm_t2im.changes.snapshot import Snapshot

    if not base:
        return None
    if "{commit}" not in base:
        raise UserError("--samples needs {commit} in the address, such as https://host/owner/repo/{commit}.")
    found = [f"{base.format(commit=one.commit)}/{one.sheet}" for one in both if isinstance(one, Snapshot) and one.sheet]
    return (found[0], found[1]) if len(found) == 2 else None
