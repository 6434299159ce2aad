"""`derm-t2im predict` and `derm-t2im opinions`."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from derm_t2im import paths
from derm_t2im.errors import UserError, no_room

INTERRUPTED = 130  # exit code, as shells have it for SIGINT
PIXELS = 178_000_000  # more than this Pillow takes for a bomb
SOME_FAILED = 3  # exit code: some images could not be predicted


def predict(
    context: typer.Context,
    images: Annotated[
        list[str],
        typer.Argument(help="Image files, folders, quoted patterns; - reads paths from stdin.", metavar="PATH..."),
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            envvar="DERM_T2IM_MODEL", help="Exported ONNX file; default: the one in models/onnx, if there is one."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Table (.csv, .jsonl, .parquet); default: CSV on stdout.")] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="csv, jsonl or parquet; default: by the name of --out.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from what --out, or a killed run, holds.")] = False,
    embeddings: Annotated[
        Path | None, typer.Option(help="Embeddings and scores as well (.parquet, .npz), for `derm-t2im drift`.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="With --embeddings: measure artefacts and skin tone, too; slower.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="auto (CUDA where there is an NVIDIA device), cuda, tensorrt or cpu.")
    ] = "auto",
    allow_cpu: Annotated[
        bool, typer.Option("--allow-cpu", help="Go on with the CPU if the device asked for does not load.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images per batch; halved where memory runs out.")] = 64,
    max_pixels: Annotated[
        int, typer.Option(min=1, max=PIXELS, help="Most pixels of an image; larger ones are not decoded.")
    ] = 100_000_000,
    engine_cache: Annotated[Path | None, typer.Option(help="Folder for TensorRT's engines.")] = None,
) -> None:
    """Classify images with an exported model. Research only, not a medical device.

    Ends with 0 if every image was predicted, 3 if some were not (their rows say why), 1 if none was, 130 if it was
    interrupted.
    """
    from derm_t2im.deploy.predict import (
        Prediction,
        find_images,
        format_of,
        identity,
        lines,
        listed,
        name_of,
        of_other_kinds,
        predict_files,
        record,
    )
    from derm_t2im.deploy.results import COMMIT, Embeddings, Rows, alone
    from derm_t2im.deploy.runtime import Predictor
    from derm_t2im.imaging.io import EXTENSIONS
    from derm_t2im.progress import say, track

    asked = [path for path in (out, embeddings) if path]
    wanted = format_of(out, form)
    if resume and out is None:
        raise UserError("--resume needs the file to go on from: give --out.")
    if measure and embeddings is None:
        raise UserError("--measure needs a file for what it measures: give --embeddings.")
    if out is not None and embeddings is not None and out.resolve() == embeddings.resolve():
        raise UserError(f"--out and --embeddings are the same file, {out}.")
    chosen = model or default_model()
    predictor = Predictor(chosen, device, allow_cpu, engine_cache=engine_cache)  # type: ignore[arg-type]
    card = predictor.card
    tag = card.sha256[:16]  # of the file: another precision decides otherwise
    vectors = Embeddings(Path(os.path.realpath(embeddings)), tag, card.classes, card.columns) if embeddings else None
    if vectors and not predictor.embeds:
        raise UserError(f"{chosen} has no output `embedding`: export it again with it (stage export).")
    if "" in images:
        raise UserError("one of the paths is empty: is a variable unset?")
    places = [p for place in images for p in (listed(sys.stdin.buffer.read()) if place == "-" else [Path(place)])]
    left_out: Counter[str] = Counter()
    files = find_images(places, left_out)
    if not places:
        raise UserError("the list on stdin names no file.")
    if not files:
        others = f" ({of_other_kinds(left_out)})" if left_out else ""
        raise UserError(f"no image files below {', '.join(images)}{others}: {', '.join(EXTENSIONS)} are looked for.")
    inputs = {Path(os.path.realpath(path)) for path in (*files, chosen)}  # a circle of links is an input, too
    out = target_file("--out", out, inputs) if out else None
    if embeddings:  # its writer is open already, and has written nothing
        target_file("--embeddings", embeddings, inputs)
        context.with_resource(alone(Path(os.path.realpath(embeddings))))
    if out:
        context.with_resource(alone(out))
    usable = vectors.start(resume, measure) if vectors else None
    columns = [*record(Prediction(Path(), None), card.classes, card.positive, None), "model"]
    rows = Rows(out, wanted, tag, columns) if out else None
    if rows and rows.journal.is_file() and not resume:
        say(f"predict: the rows of an unfinished run for {out} are dropped; --resume would go on from them.")
    done = rows.start(resume, usable) if rows else set()
    todo = [path for path in files if identity(name_of(path)) not in done] if done else files
    reasons: Counter[str] = Counter()
    written = 0
    header = True
    stopped = False

    def commit(part: list[Any]) -> None:
        nonlocal written, header
        reasons.update(found.reason for found in part if found.probabilities is None)
        if vectors:
            vectors.add(part)  # before their rows, see `results`
        records = [record(found, card.classes, card.positive, card.threshold) for found in part]
        records = [{**row, "model": tag} for row in records]
        if rows:
            rows.add(records)
        else:
            sys.stdout.writelines(lines(records, wanted, header))
            sys.stdout.flush()
            header = False
        written += len(records)

    with _quiet_pipe():
        part: list[Any] = []
        try:
            answers = predict_files(predictor, todo, batch, measure=measure, max_pixels=max_pixels, processes=True)
            for found in track(answers, "predict", total=len(todo)):
                part.append(found)
                if len(part) >= (COMMIT if rows or vectors else 1):
                    ready, part = part, []
                    with _uninterrupted():
                        commit(ready)
        except KeyboardInterrupt:
            stopped = True
        except UserError as error:  # no more memory, a reader that was killed
            kept = f" The rows so far are kept beside {asked[0]}; go on with --resume." if rows else ""
            raise UserError(f"{error}{kept}") from error
        finally:  # what is computed is kept
            if part:
                commit(part)
    if stopped:
        have = f"interrupted: {len(files) - len(todo) + written:,} of {len(files):,} rows"
        how = f"are kept beside {asked[0]}; go on with --resume." if rows else "were written; with --out one can go on."
        say(f"{have} {how}")
        raise typer.Exit(INTERRUPTED)
    if rows:
        rows.finish()
    failed = reasons.total()
    if vectors and failed < len(files):
        vectors.finish()
    where = f" -> {', '.join(map(str, asked))}" if asked else ""
    before = f" ({len(files) - len(todo):,} of them before)" if len(todo) < len(files) else ""
    with_what = f"{chosen} on {predictor.provider.removesuffix('ExecutionProvider')}"
    what = f"{len(files) - failed:,} of {len(files):,} images predicted{before}"
    say(f"{what} with {with_what}{where}. {card.intended_use}")
    if failed:
        told = ", ".join(f"{reason} {n:,}" for reason, n in reasons.most_common())
        say(f"{failed:,} could not be predicted: {told}; their rows say why.")
    if left_out:
        say(f"{of_other_kinds(left_out)}.")
    if failed:
        raise typer.Exit(1 if failed == len(files) else SOME_FAILED)


def target_file(option: str, path: Path, inputs: set[Path]) -> Path:
    """Where results may be written: they take the place of a file whole, so only of one that is no input.

    Raises:
        UserError: for an input, a device, a pipe or a folder, none of which may be replaced.
    """
    real = Path(os.path.realpath(path))  # through links: the file that they name is meant
    if real in inputs:
        raise UserError(f"{option} {path} is among what is read: name another file.")
    try:
        if real.exists() and not real.is_file():
            raise UserError(f"{option} {path} is no regular file: name one, or leave it out.")
        real.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=real.parent):
            pass
    except OSError as error:
        if told := no_room(error, real.parent):
            raise told from None
        raise UserError(f"{option} {path} cannot be written there ({error.strerror}): name another place.") from None
    return real


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until this is done: half a commit would be neither kept nor told."""
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


@contextmanager
def _quiet_pipe() -> Iterator[None]:
    """A reader that has seen enough (`| head`) is no error to tell of."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None


def opinions(
    models: Annotated[
        list[Path], typer.Argument(help="ONNX files, timm checkpoints or folders of networks.", metavar="MODEL...")
    ],
    manifest: Annotated[Path, typer.Option(help="Images to judge.")] = paths.SYNTHETIC_MANIFEST,
    real: Annotated[Path, typer.Option(help="Real images to compare with: those of its test split.")] = (
        paths.SPLITS_MANIFEST
    ),
    out: Annotated[Path, typer.Option(help="Folder for opinions.json and opinions.parquet.")] = paths.OPINIONS,
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
    if "sha256" in made:
        seen["sha256"] = made["sha256"].astype(str)
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
    overlaps = segment.compare(other.read(made, manifest), [None] * len(made), ask)
    if ask:
        seen["segmenter_dice"] = [one["segmenter_own"][0] if "segmenter_own" in one else None for one in overlaps]
    found["masks"]["synthetic"] = segment.summary(overlaps)
    found["masks"]["real"] = segment.summary(segment.compare(other.read(held, real), other.truths(held), ask))
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
    raise UserError(f"more than one model: choose one with --model (or DERM_T2IM_MODEL), e.g. --model {models[0]}; "
                    f"there are {', '.join(map(str, models))}.")  # fmt: skip
