"""Files in, a table of predictions out: each file answers for itself."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from derm_t2im.errors import UserError

if TYPE_CHECKING:
    from derm_t2im.deploy.runtime import Predictor

Format = Literal["csv", "jsonl"]
SUFFIXES: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


@dataclass(frozen=True)
class Prediction:
    """One file's answer: ``probabilities`` (k,), or a ``reason`` and ``detail`` why there are none."""

    path: Path
    probabilities: np.ndarray | None
    reason: str = ""
    detail: str = ""


def find_images(places: Iterable[Path]) -> list[Path]:
    """The files named, and the images below the folders named, each once, folders in order of name.

    A name that does not exist stays in the list, so that it gets its own error.
    """
    from derm_t2im.imaging.io import EXTENSIONS

    found: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            inside = (p for p in place.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
            found.update(dict.fromkeys(sorted(inside)))
        else:
            found[place] = None
    return list(found)


def predict_files(predictor: Predictor, files: Iterable[Path], batch: int = 64) -> Iterator[Prediction]:
    """A prediction for each file, in order; a file that cannot be read stops no other.

    Holds one batch in memory, however many files there are.
    """
    from derm_t2im.imaging.io import ImageError, read_rgb

    rest = iter(files)
    while part := list(islice(rest, batch)):
        images: list[np.ndarray] = []
        errors: dict[int, ImageError] = {}
        for i, path in enumerate(part):
            try:
                images.append(predictor.prepare(read_rgb(path)))
            except ImageError as error:
                errors[i] = error
        rows = iter(predictor.predict(np.stack(images), batch) if images else ())
        for i, path in enumerate(part):
            if i in errors:
                yield Prediction(path, None, errors[i].reason, errors[i].detail)
            else:
                yield Prediction(path, next(rows))


def record(
    prediction: Prediction, classes: Sequence[str], positive: Sequence[str], threshold: float | None
) -> dict[str, Any]:
    """One prediction as a flat record; the same keys whatever happened.

    ``label`` is the most probable class; ``above_threshold`` whether the probability of the positive
    finding reaches the operating point.
    """
    values = prediction.probabilities
    row: dict[str, Any] = {"path": prediction.path.as_posix(), "label": None}
    for i, name in enumerate(classes):
        row[f"p_{name}"] = None if values is None else round(float(values[i]), 6)
    row["above_threshold"] = None
    if values is not None:
        row["label"] = classes[int(values.argmax())]
        if positive and threshold is not None:
            row["above_threshold"] = sum(float(values[classes.index(name)]) for name in positive) >= threshold
    return {**row, "error": prediction.reason or None, "detail": prediction.detail or None}


def format_of(out: Path | None, wanted: str | None) -> Format:
    """The output format: as asked for, else by the file's suffix, else CSV.

    Raises:
        UserError: for a format or suffix that is not known.
    """
    allowed = "csv or jsonl"
    if wanted is not None:
        for known in ("csv", "jsonl"):
            if wanted == known:
                return known
        raise UserError(f"--format is {wanted!r}: use {allowed}.")
    if out is None:
        return "csv"
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{out}: cannot tell the format from {out.suffix!r}; end it in .csv or .jsonl, or give --format."
        )
    return SUFFIXES[out.suffix.lower()]


def lines(records: Iterable[dict[str, Any]], form: Format) -> Iterator[str]:
    """The records as text, line by line, each with its line end; a header first for CSV."""
    header = True
    for row in records:
        if form == "jsonl":
            yield json.dumps(row, ensure_ascii=False) + "\n"
            continue
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, row, lineterminator="\n")
        if header:
            writer.writeheader()
            header = False
        writer.writerow({key: str(value).lower() if isinstance(value, bool) else value for key, value in row.items()})
        yield buffer.getvalue()
