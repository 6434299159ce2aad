"""Commands `browse` and `review`: look at the curated set, and say what should stay."""

from __future__ import annotations

import getpass
import subprocess
import webbrowser
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from derm_t2im import paths
from derm_t2im.errors import UserError
from derm_t2im.progress import say

app = typer.Typer(no_args_is_help=True)
review_app = typer.Typer(no_args_is_help=True, help="Decisions of people on synthetic images.")
app.add_typer(review_app, name="review")

Reviewer = Annotated[str, typer.Option(help="Who decides; default: user.name of Git.")]


def _reviewer(name: str) -> str:
    if name:
        if not name.strip() or not name.isprintable() or set(name) & set('",;'):
            raise UserError(f"--reviewer {name!r}: use a name of letters, digits, spaces and simple signs.")
        return name.strip()
    try:
        said = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, timeout=10, check=False)
        name = said.stdout.strip()
    except OSError:
        name = ""
    try:
        return name or getpass.getuser()
    except (KeyError, OSError):
        raise UserError("Who decides? Give --reviewer NAME.") from None


@app.command()
def browse(
    port: Annotated[
        int | None, typer.Option(help="Port of the App; default: 5151 or the next free one.", min=1, max=65535)
    ] = None,
    address: Annotated[str, typer.Option(help="Address to serve on; 0.0.0.0 lets the whole network in.")] = "127.0.0.1",
    rev: Annotated[str, typer.Option(help="Look at the set of this Git revision instead of the one here.")] = "",
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open a web browser.")] = True,
    reviewer: Reviewer = "",
) -> None:
    """Open the FiftyOne App on the curated set until Ctrl-C.

    Select synthetic images and press Keep or Discard, or tag them `keep`, `discard` or
    `discard: why`; on closing, the tags go to data/review/decisions.csv, which `curate` obeys.
    """
    from derm_t2im.curation import browse as room
    from derm_t2im.curation import revision, sessions

    root = revision.checkout(rev) if rev else Path.cwd()
    name = _reviewer(reviewer)
    _recover()
    say("Opening the FiftyOne App ...")
    with room.serve(root, port, address, rev or "HEAD", name) as opened:
        say(f"{opened.images} images at {opened.url} (saved views: top left; tick images to decide). Ctrl-C ends.")
        if opened.note:
            say(opened.note)
        if open_:
            webbrowser.open(opened.url)
        ended = room.wait(opened)
        if ended:
            say(
                f"Error: the App's {ended} ended (killed, or memory or disk ran out). What was tagged in its last "
                "seconds may be lost: run `derm-t2im browse` again."
            )
        changed, both = sessions.take(opened.tagged, name, paths.REVIEW_DECISIONS)
        sessions.written()
    _say_both(both)
    if changed:
        say(f"{changed} decisions of {name} written to {paths.REVIEW_DECISIONS}: `dvc repro curate` obeys them.")
    _say_conflicts()
    if ended:
        raise typer.Exit(1)


def _recover() -> bool:
    """Write what was tagged in Apps that were killed, and say so."""
    from derm_t2im.curation import sessions

    left = sessions.recover(paths.REVIEW_DECISIONS)
    for name, changed, both in left:
        _say_both(both)
        say(f"From an App that was killed: {changed} decisions of {name} new or changed, {paths.REVIEW_DECISIONS}")
    return bool(left)


def _say_both(both: list[str]) -> None:
    if both:
        say(f"{len(both)} images are tagged keep and discard at once, left out: {', '.join(both[:5])}")


def _say_conflicts() -> None:
    """Who differs with whom on images of the present pool."""
    from derm_t2im import manifest
    from derm_t2im.curation import review

    decisions = review.read(paths.REVIEW_DECISIONS)
    if not decisions or not paths.SYNTHETIC_MANIFEST.is_file():
        return
    verdicts = review.settle(decisions, manifest.read(paths.SYNTHETIC_MANIFEST))
    last = {(d.image_id, d.reviewer): d for d in decisions}
    for name in verdicts.conflicts:
        words = (
            f"{d.reviewer} {d.decision}" + (f" ({d.reason})" if d.reason else "")
            for d in last.values()
            if d.image_id == name
        )
        say(f"Reviewers differ on {name}, so neither is obeyed: {'; '.join(words)}")


@review_app.command("pull")
def pull(
    reviewer: Annotated[str, typer.Option(help="Whose decisions; default, and checked: who opened the App.")] = "",
) -> None:
    """Write the tags of an App that is open now, or was killed, to data/review/decisions.csv."""
    from derm_t2im.curation import sessions

    recovered = _recover()
    changed, both, names = sessions.pull(reviewer, paths.REVIEW_DECISIONS)
    _say_both(both)
    if names:
        whose = ", ".join(dict.fromkeys(names))
        say(f"{len(names)} open App(s): {changed} decisions of {whose} new or changed, {paths.REVIEW_DECISIONS}")
    elif not recovered:
        raise UserError("No App is open in this project: run `derm-t2im browse`, decide, then pull.")
    _say_conflicts()


@review_app.command("add")
def add(
    image_id: Annotated[str, typer.Argument(help="Id of a synthetic image.")],
    decision: Annotated[str, typer.Argument(help="keep or discard")],
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    reviewer: Reviewer = "",
) -> None:
    """Write one decision to data/review/decisions.csv."""
    from derm_t2im import manifest
    from derm_t2im.curation import review, sessions

    if decision not in (review.KEEP, review.DISCARD):
        raise UserError(f"The decision is {decision!r}; allowed: {review.KEEP}, {review.DISCARD}.")
    pool = manifest.read(paths.SYNTHETIC_MANIFEST)
    row = pool[pool["image_id"] == image_id]
    if not len(row):
        raise UserError(f"{image_id} is not in {paths.SYNTHETIC_MANIFEST}.")
    digest = str(row["sha256"].iat[0]) if "sha256" in row.columns else ""
    today = datetime.now(UTC).date().isoformat()
    said = review.Decision(image_id, decision, reason, _reviewer(reviewer), today, digest)
    changed = sessions.write(paths.REVIEW_DECISIONS, [said])
    say(f"{'Written to' if changed else 'Already in'} {paths.REVIEW_DECISIONS}: {decision} {image_id}")


@review_app.command("status")
def status() -> None:
    """Say which decisions count for the present images, and which do not."""
    from derm_t2im import manifest
    from derm_t2im.curation import review

    verdicts = review.settle(review.read(paths.REVIEW_DECISIONS), manifest.read(paths.SYNTHETIC_MANIFEST))
    say(f"{verdicts.given} decisions; {len(verdicts.counting)} images follow them.")
    _say_conflicts()
    for ids, what in (
        (verdicts.outdated, "Decided about an earlier image of that name"),
        (verdicts.unknown, "No such image in the pool"),
    ):
        if ids:
            say(f"{what}: {', '.join(ids)}")
