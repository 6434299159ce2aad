"""`derm-t2im sweep`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

sweep_app = typer.Typer(no_args_is_help=True, help="Named series of experiments, described in sweeps/.")

Name = Annotated[str, typer.Argument(help="A sweep; `derm-t2im sweep list` names them.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", "-S", help="key=value: a parameter for all points, as `dvc exp run -S`.")
]


@sweep_app.command("list")
def listed() -> None:
    """The sweeps that there are, and what each asks."""
    from derm_t2im.errors import UserError
    from derm_t2im.sweeps import plan

    for name in plan.known():
        try:
            sweep = plan.read(name)
        except UserError as error:
            print(f"{name:<16}  - points  cannot be read: {error}")
            continue
        print(f"{name:<16} {len(sweep.points):>2} {'points' if len(sweep.points) > 1 else 'point '}  {sweep.asks}")


@sweep_app.command()
def run(
    name: Name,
    set_: Set = None,
    jobs: Annotated[int, typer.Option(min=1, help="Points at a time.")] = 1,
    again: Annotated[
        bool, typer.Option("--again", help="Also the points that are finished; unchanged stages come from the cache.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and run nothing.")] = False,
) -> None:
    """Run each point of a sweep that has no finished experiment; started again, it goes on where it was."""
    from derm_t2im.errors import UserError
    from derm_t2im.progress import say
    from derm_t2im.sweeps import engine, plan, results

    sweep = plan.read(name)
    given = plan.parse(set_ or [])
    points = engine.look(sweep, given)
    if dry_run:
        for each in points:
            held = "finished" if each.revision and not again else "would run"
            if each.old:
                held += f" again, as {each.old[0]}" + (f" and {len(each.old) - 1} more" if len(each.old) > 1 else "")
            changes = " ".join(f"{key}={value}" for key, value in sweep.changes(each.point, given).items())
            print(f"{each.experiment}: {held}: {changes or 'params.yaml as it is'}")
        return
    try:
        failed = engine.run(sweep, given, jobs, again)
    except KeyboardInterrupt:
        say(f"sweep {name}: stopped. Finished points stay; `derm-t2im sweep run {name}` goes on.")
        raise
    found = results.collect(sweep, engine.look(sweep, given), given, failed)
    for path in results.write(sweep, found):
        say(f"sweep {name}: {path}")
    if failed:
        named = "; ".join(f"{label}: {why}" for label, why in failed.items())
        raise UserError(
            f"sweep {name}: {len(failed)} of {len(points)} points failed ({named}). Output: {engine.folder_of(sweep)}."
        )


@sweep_app.command()
def show(name: Name, set_: Set = None) -> None:
    """What a sweep found, as tables; also writes metrics/sweeps/NAME.json and plots/sweeps/NAME.{json,svg}."""
    from derm_t2im.progress import say
    from derm_t2im.sweeps import engine, plan, results, terminal

    sweep = plan.read(name)
    given = plan.parse(set_) if set_ else results.given_before(name)
    points = engine.look(sweep, given)
    found = results.collect(sweep, points, given, engine.failures(sweep, points))
    terminal.show(sweep, found, results.records(sweep, found), sys.stdout)
    if not results.known(sweep, found):
        return  # to look at what was never run leaves nothing behind
    for path in results.write(sweep, found):
        say(f"sweep {name}: {path}")
