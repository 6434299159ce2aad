"""`derm-t2im predict`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from derm_t2im import paths
from derm_t2im.errors import UserError


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", metavar="PATH...")],
    model: Annotated[
        Path | None, typer.Option(help="Exported ONNX file; default: the one in models/onnx, if there is one.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV or JSON lines (.csv, .jsonl); default: stdout.")] = None,
    form: Annotated[str | None, typer.Option("--format", help="csv or jsonl; default: by the name of --out.")] = None,
    device: Annotated[str, typer.Option(help="auto (CUDA where there is an NVIDIA device), cuda or cpu.")] = "auto",
    allow_cpu: Annotated[bool, typer.Option("--allow-cpu", help="Go on with the CPU if CUDA does not load.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 64,
) -> None:
    """Classify images with an exported model. Research only, not a medical device."""
    from derm_t2im.deploy.predict import find_images, format_of, lines, predict_files, record
    from derm_t2im.deploy.runtime import Predictor
    from derm_t2im.progress import say, track
    from derm_t2im.state import write_atomic

    wanted = format_of(out, form)
    chosen = model or default_model()
    predictor = Predictor(chosen, device=device, allow_cpu=allow_cpu)  # type: ignore[arg-type]
    card = predictor.card
    files = find_images(images)
    if not files:
        raise UserError(f"no image files below {', '.join(map(str, images))}.")
    failed = 0

    def records() -> Iterator[dict[str, Any]]:
        nonlocal failed
        for found in track(predict_files(predictor, files, batch), "predict", total=len(files)):
            failed += found.probabilities is None
            yield record(found, card.classes, card.positive, card.threshold)

    if out is None:
        for line in lines(records(), wanted):
            sys.stdout.write(line)
    else:
        write_atomic(out, "".join(lines(records(), wanted)))
    where = "" if out is None else f" -> {out}"
    with_what = f"{chosen} on {predictor.provider.removesuffix('ExecutionProvider')}"
    say(f"{len(files) - failed} of {len(files)} images predicted with {with_what}{where}. {card.intended_use}")
    if failed == len(files):
        raise typer.Exit(1)


def default_model() -> Path:
    """The one exported model of this repository.

    Raises:
        UserError: if there is none, or more than one.
    """
    models = sorted(paths.ONNX.glob("*/model.onnx"))
    if len(models) == 1:
        return models[0]
    if not models:
        raise UserError(f"no model in {paths.ONNX}: run `dvc repro` (or `dvc pull`), or name one with --model.")
    raise UserError(f"more than one model: choose one with --model, e.g. --model {models[0]}; there are "
                    f"{', '.join(map(str, models))}.")  # fmt: skip
