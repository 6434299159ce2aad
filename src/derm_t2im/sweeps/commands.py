"""`derm-t2im sweep`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from derm_t2im.sweeps.plan import Sweep

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

    names = plan.known()
    width = max(map(len, names), default=0)
    for name in names:
        try:
            sweep = plan.read(name)
        except UserError as error:
            print(f"{name:<{width}}  - points  cannot be read: {error}")
            continue
        print(f"{name:<{width}} {len(sweep.points):>2} {'points' if len(sweep.points) > 1 else 'point '}  {sweep.asks}")


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
        found = results.collect(sweep, engine.look(sweep, given), given, {})
        if results.known(found):
            _write(sweep, found)  # `show` goes by the parameters that were given here
        again_as = shlex.join(
            ["derm-t2im", "sweep", "run", name, *(word for each in set_ or [] for word in ("-S", each))]
        )
        say(f"sweep {name}: stopped. Finished points stay; `{again_as}` goes on.")
        raise
    _write(sweep, results.collect(sweep, engine.look(sweep, given), given, failed))
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
    known, before = results.known(found), results.recorded(name)
    if not known and before.get("points") and before.get("given") == given:
        at = str(before.get("revision", ""))[:7]
        say(f"sweep {name}: no point was run in this repository; what follows was recorded, at commit {at}")
        found = before
    terminal.show(sweep, found, results.records(sweep, found), sys.stdout)
    if not known:
        return  # to look at what was never run here changes nothing
    _write(sweep, found)


def _write(sweep: Sweep, found: Mapping[str, Any]) -> None:
    from derm_t2im.progress import say
    from derm_t2im.sweeps import results

    for key in results.absent(sweep, found):
        say(f"sweep {sweep.name}: no finished point has a figure {key}: correct `draw` and run `derm-t2im sweep show`")
    for path in results.write(sweep, found):
        say(f"sweep {sweep.name}: {path}")
