"""`derm-t2im study`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

study_app = typer.Typer(no_args_is_help=True, help="A blinded reader study: real or synthetic, and which diagnosis.")


@study_app.command("create")
def create(
    out: Annotated[Path, typer.Option(help="Folder of the study; must not be there yet.")] = Path("study/reading"),
    images: Annotated[int, typer.Option(min=2, help="Images to read, half of them real.")] = 100,
    per_class: Annotated[
        int, typer.Option(min=0, help="Images of each class and kind instead of --images; 0: --images, spread evenly.")
    ] = 0,
    repeats: Annotated[int, typer.Option(min=0, help="Images that are shown twice, for intra-reader agreement.")] = 10,
    practice: Annotated[int, typer.Option(min=0, help="Further images first, which do not count.")] = 4,
    size: Annotated[int, typer.Option(min=0, help="Side of the images, pixels; 0: of the smallest one.")] = 0,
    seed: Annotated[int, typer.Option(help="Another seed draws other images.")] = 0,
) -> None:
    """Make a study: a page for readers, and a key that they must not get.

    Real images come from the test split, synthetic ones from those that curation kept.
    """
    from derm_t2im import duplicates, manifest, paths
    from derm_t2im.progress import say
    from derm_t2im.study import design, pack

    plan = design.Plan(images, per_class, repeats, practice, seed)
    candidates = design.pools(
        manifest.read(paths.SPLITS_MANIFEST),
        manifest.read(paths.CURATED_MANIFEST),
        manifest.read(paths.CURATED_REAL),
    )
    chosen = design.choose(candidates, plan, lambda table: duplicates.search(table["path"].tolist()).at)
    made = pack.write(out, chosen, plan, size)
    for line in _told(made, out):
        say(line)


def _told(made: dict[str, Any], out: Path) -> list[str]:
    from derm_t2im.study import pack

    lines = [
        f"study: {made['images']} images ({made['images'] // 2} real, {made['images'] // 2} synthetic; "
        f"{', '.join(made['classes'])}), {made['repeats']} shown twice, {made['practice']} for practice -> {out}",
        f"Give readers {out / pack.PAGE} and nothing else; keep {pack.KEY} and {pack.PLAN} to yourself.",
    ]
    able = made["detectable_accuracy"]
    best = able["mean_of_readers"]["5"]["best"]
    if able["one_reader"] == able["one_reader"]:
        lines.append(
            f"With {made['images']} images one reader's accuracy must be {able['one_reader']:.2f} to be told from "
            f"chance with 80 % power; five readers' mean between {best:.2f} and {able['one_reader']:.2f}."
        )
    if made["resized"]["real"] != made["resized"]["synthetic"]:
        lines.append(
            f"Note: {made['resized']['real']} real and {made['resized']['synthetic']} synthetic images had to be "
            f"resized to {made['size']} px; resizing shows. A smaller --size would resize all of them."
        )
    return lines


@study_app.command("score")
def score(
    study: Annotated[Path, typer.Argument(help="Folder of the study.")],
    answers: Annotated[list[Path], typer.Argument(help="Files of answers, one per reader.", metavar="ANSWERS...")],
    out: Annotated[Path | None, typer.Option(help="Where the figures go; default: score.json in the study.")] = None,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws of the images.")] = 2000,
) -> None:
    """Compare readers' answers with the key: accuracy against chance, agreement, diagnoses, times."""
    from derm_t2im.progress import say
    from derm_t2im.state import write_json
    from derm_t2im.study import answers as reading
    from derm_t2im.study import score as scoring
    from derm_t2im.study import terminal

    plan, key = reading.read_study(study)
    readers, unread = reading.read_all(answers, plan, key)
    found = scoring.score(plan, key, readers, draws) | {"unread": [path.name for path in unread]}
    target = out or study / "score.json"
    write_json(target, found)
    terminal.show(found, sys.stdout)
    say(f"study: {target}")
