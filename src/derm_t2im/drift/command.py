"""`derm-t2im drift`."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from derm_t2im.errors import UserError

if TYPE_CHECKING:
    from derm_t2im.deploy.runtime import Predictor

FOUND = 3  # exit code with --fail-on-drift; 1 and 2 are errors


def drift(
    ref: Annotated[
        Path,
        typer.Argument(help="What the model was made for: a folder of images, or a file of `predict --embeddings`."),
    ],
    new: Annotated[Path, typer.Argument(help="What it meets now: the same.")],
    model: Annotated[
        Path | None,
        typer.Option(
            envvar="DERM_T2IM_MODEL",
            help="Exported ONNX file, for folders; default: the one in models/onnx, if there is one.",
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Operating point on the scores; default: the model's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write everything found to this JSON file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page, one file, to read offline.")] = None,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help=f"Exit with {FOUND} if drift was found.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto (CUDA where there is an NVIDIA device), cuda or cpu.")] = "auto",
    allow_cpu: Annotated[bool, typer.Option("--allow-cpu", help="Go on with the CPU if CUDA does not load.")] = False,
) -> None:
    """Compare two sets of images: features, scores, artefacts, skin tone."""
    from derm_t2im.deploy.commands import default_model, target_file
    from derm_t2im.drift import sets, words
    from derm_t2im.drift.compare import compare
    from derm_t2im.progress import say
    from derm_t2im.state import write_atomic, write_json

    @lru_cache(maxsize=1)
    def predictor() -> Predictor:
        from derm_t2im.deploy.runtime import Predictor

        return Predictor(model or default_model(), device=device, allow_cpu=allow_cpu)  # type: ignore[arg-type]

    read = {Path(os.path.realpath(path)) for path in (ref, new, model) if path}
    targets = [target_file(option, path, read) for option, path in (("--out", out), ("--html", html)) if path]
    if len(targets) > len(set(targets)):
        raise UserError(f"--out and --html are the same file, {out}.")
    first, second = sets.load(ref, predictor), sets.load(new, predictor)
    if threshold is None and (model is not None or ref.is_dir() or new.is_dir()):
        card = predictor().card
        if other := [one for one in (first, second) if one.model and one.model != card.sha256[:16]]:
            raise UserError(
                f"{other[0].name} was seen by model {other[0].model}, not by {model or default_model()} "
                f"({card.sha256[:16]}), whose threshold would be taken: name that model, or give --threshold."
            )
        threshold = card.threshold
    found = compare(first, second, threshold)
    words.show(found, sys.stdout)
    if out is not None:
        write_json(out, found)
        say(f"drift: {out}")
    if html is not None:
        write_atomic(html, words.page(found))
        say(f"drift: {html}")
    if fail_on_drift and found["drift"]:
        raise typer.Exit(FOUND)
