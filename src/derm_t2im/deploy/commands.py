"""`derm-t2im predict` and `derm-t2im opinions`."""

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


def opinions(
    models: Annotated[
        list[Path], typer.Argument(help="ONNX files, timm checkpoints or folders of networks.", metavar="MODEL...")
    ],
    manifest: Annotated[Path, typer.Option(help="Images to judge.")] = paths.SYNTHETIC_MANIFEST,
    real: Annotated[Path, typer.Option(help="Real images to compare with: those of its test split.")] = (
        paths.SPLITS_MANIFEST
    ),
    out: Annotated[Path, typer.Option(help="Folder for opinions.json and opinions.parquet.")] = Path(
        "reports/opinions"
    ),
    segmenter: Annotated[str, typer.Option(help="SAM, as a folder or hub id: its lesion beside our mask.")] = "",
) -> None:
    """Ask other classifiers what they see in each synthetic image, and in real ones.

    A model of one's own needs a description beside it: docs/opinions.md.
    """
    import pandas as pd

    from derm_t2im import manifest as tables
    from derm_t2im.deploy import opinions as other
    from derm_t2im.deploy import segment
    from derm_t2im.progress import say, track
    from derm_t2im.state import write_atomic, write_json

    classifiers = [other.load(path) for path in models]
    names = [one.name for one in classifiers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two models are called {', '.join(twice)}: rename a file, or its folder if it is model.onnx.")
    ask = segment.segmenter(segmenter) if segmenter else None
    made = tables.read(manifest)
    held = tables.read(real)
    held = held[held["split"] == "test"]
    found: dict[str, Any] = {"models": {}, "masks": {}}
    seen = pd.DataFrame({"image_id": made["image_id"].astype(str), "label": made["label"].astype(str)})
    for one in classifiers:
        view = other.view(one, track(other.read(made, manifest), one.name, len(made)), made["label"].tolist())
        beside = other.view(one, other.read(held, real), held["label"].tolist())
        seen[f"{one.name}_probability"], seen[f"{one.name}_class"] = view["probability"], view["class"].astype(str)
        said = view["class"].tolist()
        found["models"][one.name] = {
            **other.agreement(said, made["label"].tolist()),
            "per_class": other.by(said, made, "label"),
            "per_sampler": other.by(said, made, "sampler") if "sampler" in made else {},
            "real": other.agreement(beside["class"].tolist(), held["label"].tolist()) if len(held) else {},
        }
    found["masks"]["synthetic"] = segment.compare(other.read(made, manifest), [None] * len(made), ask)
    found["masks"]["real"] = segment.compare(other.read(held, real), other.truths(held), ask)
    write_atomic(out / "opinions.parquet", seen.to_parquet(index=False))
    write_json(out / "opinions.json", found)
    for name, figures in found["models"].items():
        of_them = f"; {figures['real']['agreement']:.1%} of {figures['real']['n']} real ones" if figures["real"] else ""
        low, high = figures["agreement_low"], figures["agreement_high"]
        say(
            f"{name}: sees the class asked for in {figures['agreement']:.1%} ({low:.1%} to {high:.1%}) of "
            f"{figures['n']} images{of_them}"
        )
    say(f"opinions of {len(classifiers)} models: {out}")


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
