"""The command line. Commands import what they need when they run, so that help is instant."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import typer

from derm_t2im import distributed, profiles
from derm_t2im import doctor as checks
from derm_t2im.audit import command as auditing
from derm_t2im.changes import command as changes
from derm_t2im.classify import confusion
from derm_t2im.curation import commands as curation
from derm_t2im.deploy import commands as deploy
from derm_t2im.deploy.serve import command as serving
from derm_t2im.diffusion import commands as diffusion
from derm_t2im.drift import command as drifting
from derm_t2im.errors import UserError, exhausted, no_memory
from derm_t2im.publish import commands as publish
from derm_t2im.study import commands as study
from derm_t2im.sweeps import commands as sweeps

app = typer.Typer(
    help="Synthetic dermoscopic images, and honest evidence of whether they help.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
base_app = typer.Typer(help="Base models: the embedded one, and your own.", no_args_is_help=True)
app.add_typer(base_app, name="base")
base_app.command("train")(diffusion.base_train)
app.command()(curation.browse)
app.add_typer(curation.review_app, name="review")
app.command()(deploy.predict)
app.command()(serving.serve)
app.command()(deploy.opinions)
app.command()(auditing.audit)
app.command()(drifting.drift)
app.add_typer(study.study_app, name="study")
app.command("confusion")(confusion.command)
app.add_typer(changes.report_app, name="report")
app.command()(publish.export_dataset)
app.command()(publish.export_lora)
app.add_typer(sweeps.sweep_app, name="sweep")
app.command("doctor")(checks.command)
app.command("profile")(profiles.command)

STAGES = (
    "check", "acquire", "preprocess", "split", "validate_data", "probe", "finetune", "generate", "embed", "fidelity",
    "validate", "curate", "mix", "train", "evaluate", "explain", "export", "report",
)  # fmt: skip


@app.callback()
def settings(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""
    _State.verbose = verbose


class _State:
    verbose = False


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(STAGES)}.")],
    arch: Annotated[str | None, typer.Option(help="train and export: a name in train.archs.")] = None,
    mix: Annotated[str | None, typer.Option(help="train: a name in mix.mixes.")] = None,
) -> None:
    """Run one stage of the pipeline; `dvc repro` calls this for whatever has changed."""
    from derm_t2im.params.schema import load_all

    if name not in STAGES:
        raise UserError(f"there is no stage {name!r}; stages: {', '.join(STAGES)}.")
    params = load_all()  # a wrong parameter anywhere stops the run before any work
    wanted: dict[str, str | None] = {"train": {"arch": arch, "mix": mix}, "export": {"arch": arch}}.get(name, {})
    for key, value in wanted.items():
        allowed = params.train.archs if key == "arch" else params.mix.mixes
        if value not in allowed:
            said = "is missing" if value is None else f"is {value!r}"
            raise UserError(f"stage {name}: --{key} {said}; allowed by params.yaml: {', '.join(allowed)}.")
    distributed.start_again(name)
    importlib.import_module(f"derm_t2im.stages.{name}").run(**wanted)


def main() -> Any:
    """Run the command line; errors meant for people become one line."""
    try:
        app()
    except UserError as error:
        if _State.verbose:
            raise
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:  # a full disk, no more memory, a missing permission: met anywhere
        told = str(exhausted(error) or no_memory() or "")
        if type(error).__name__ == "ImageError":
            told = f"an image of this pipeline is damaged: {error}; run `dvc repro`, which makes it again."
        if isinstance(error, PermissionError):
            told = f"{error.filename}: {error.strerror}; give yourself the right to it and start again."
        elif isinstance(error, OSError) and not told and error.filename and error.strerror:
            told = f"{error.filename}: {error.strerror}."
        if not told or _State.verbose:
            raise
        print(f"Error: {told}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)
