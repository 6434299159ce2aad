"""Files in, a table of predictions out: each file answers for itself."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from derm_t2im import runtime as machine
from derm_t2im.errors import UserError
from derm_t2im.imaging import pool
from derm_t2im.imaging.io import MAX_PIXELS

if TYPE_CHECKING:
    from derm_t2im.deploy.runtime import Predictor
    from derm_t2im.imaging.hair import Method

Format = Literal["csv", "jsonl", "parquet"]
SUFFIXES: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
MIN_SIDE = 32  # as `preprocess.min_side`: there is no lesion to see in less


@dataclass(frozen=True)
class Prediction:
    """One file's answer: ``probabilities`` (k,), or a ``reason`` and ``detail`` why there are none.

    ``embedding`` (d,) where the model has that output; ``measures`` (:mod:`derm_t2im.imaging.quality`) where
    they were asked for.
    """

    path: Path
    probabilities: np.ndarray | None
    reason: str = ""
    detail: str = ""
    embedding: np.ndarray | None = None
    measures: dict[str, Any] = field(default_factory=dict)


def find_images(places: Iterable[Path | str], left_out: Counter[str] | None = None) -> list[Path]:
    """The files named, the images below the folders named, and what patterns match, each once.

    Folders and patterns in order of name; linked folders are not entered. A file that several names lead to has the
    first of them. A name that does not exist, a pattern that matches nothing and a folder that cannot be read stay in
    the list, so that they get errors of their own.

    Args:
        places: Files, folders and patterns.
        left_out: Counts the files below folders that are taken for no images, by suffix.
    """
    found: dict[str, Path] = {}
    for place in map(Path, places):
        matches = [place]
        if not os.path.lexists(place) and glob.has_magic(str(place)):
            matches = sorted(Path(place.anchor).glob(str(place.relative_to(place.anchor)))) or [place]
        for match in matches:
            for path in _below(match, Counter() if left_out is None else left_out) if _is_folder(match) else [match]:
                found.setdefault(identity(path), path)
    return list(found.values())


def _below(folder: Path, left_out: Counter[str]) -> list[Path]:
    from derm_t2im.imaging.io import EXTENSIONS

    found: list[Path] = []
    # A folder that cannot be read is listed itself.
    for root, _, names in os.walk(folder, onerror=lambda error: found.append(Path(error.filename))):
        for name in names:
            suffix = Path(name).suffix.lower()
            if suffix in EXTENSIONS:
                found.append(Path(root, name))
            elif not name.startswith("."):
                left_out[suffix] += 1
    return sorted(found)


def of_other_kinds(left_out: Counter[str], most: int = 8) -> str:
    """How many files were left out, in words: the commonest suffixes one by one."""
    n = left_out.total()
    told = [f"{suffix.encode('unicode_escape').decode() or 'without a suffix'} {k}"
            for suffix, k in left_out.most_common(most)]  # fmt: skip
    if rest := n - sum(k for _, k in left_out.most_common(most)):
        told.append(f"others {rest}")
    return f"{n:,} file{'s' if n > 1 else ''} of other kinds left out: {', '.join(told)}"


def identity(path: Path | str) -> str:
    """What all names of a file have in common: its folder, through links, and its own name.

    A linked file counts as a file of its own: DVC can link equal images of different names to one.
    """
    path = Path(path)
    return str(_real(Path.cwd(), path.parent) / path.name)


@lru_cache(maxsize=4096)
def _real(start: Path, folder: Path) -> Path:
    try:
        return Path(os.path.realpath(start / folder))
    except ValueError:  # a name that no file can have
        return folder


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that no file can have gets its own error, as one that is missing
        return False


def listed(text: bytes) -> list[Path]:
    """The paths of a list: one a line, or ended by NUL (`find -print0`) where there is one."""
    names = text.split(b"\0") if b"\0" in text else text.splitlines()
    return [Path(os.fsdecode(name)) for name in names if name.strip()]


def predict_files(
    predictor: Predictor,
    files: Iterable[Path],
    batch: int = 64,
    workers: int | None = None,
    measure: bool = False,
    max_pixels: int = MAX_PIXELS,
    processes: bool = False,
) -> Iterator[Prediction]:
    """A prediction for each file, in order; a file that cannot be read stops no other.

    Images are read and prepared while the model works on the batch before. Holds a few batches in memory, however
    many files there are.

    Args:
        predictor: The model.
        files: Images.
        batch: Images at once; where memory runs out, half as many from then on.
        workers: Who read; default: ``DERM_T2IM_WORKERS``, else the cores of this machine.
        measure: Measure what lies on each image as well, which takes about twice the time of hair removal.
        max_pixels: Of a larger image nothing is decoded.
        processes: Read in processes from a hundred files on: threads share Python's lock, and more than two are
            no faster. A script that asks for it starts under ``if __name__ == "__main__":``.

    Raises:
        UserError: if memory runs out.
    """
    read = partial(_read, predictor.card.size, predictor.card.hair_removal, measure, max_pixels)
    first: list[Path] = []
    if processes:
        rest = iter(files)
        first = list(islice(rest, pool.WORTHWHILE))
        files = chain(first, rest)
    if len(first) == pool.WORTHWHILE:
        found = pool.each(read, files, workers)
    else:
        found = _in_threads(read, files, workers or machine.workers(), batch)
    while part := list(islice(found, batch)):
        yield from _answers(predictor, part, batch)


def _in_threads(read: Callable[[Path], _Read], files: Iterable[Path], count: int, batch: int) -> Iterator[_Read]:
    import cv2
    import PIL.Image  # noqa: F401 (threads that import at the same time wait for each other)

    cv2.setNumThreads(1)  # our threads share the cores already
    rest = iter(files)
    waiting: deque[Future[_Read]] = deque()
    with ThreadPoolExecutor(count, "read") as threads:
        try:
            for path in islice(rest, 2 * batch + count):
                waiting.append(threads.submit(read, path))
            while waiting:
                found = waiting.popleft().result()
                waiting.extend(threads.submit(read, path) for path in islice(rest, 1))
                yield found
        finally:
            for future in waiting:
                future.cancel()


@dataclass(frozen=True)
class _Read:
    """A file as read: an image, or why there is none."""

    path: Path
    image: np.ndarray | None
    reason: str = ""
    detail: str = ""
    measures: dict[str, Any] = field(default_factory=dict)


def _read(size: int, hair_removal: Method, measure: bool, max_pixels: int, path: Path) -> _Read:
    from derm_t2im.imaging.io import ImageError, read_rgb
    from derm_t2im.imaging.prepare import as_trained, bare_and_measured
    from derm_t2im.sources.intake import verify

    try:
        rgb = read_rgb(path, max_pixels, MIN_SIDE)
        verify(path)
        if measure:
            small, measures = bare_and_measured(rgb, size, hair_removal)
            return _Read(path, small, measures=measures)
        return _Read(path, as_trained(rgb, size, hair_removal))
    except ImageError as error:
        return _Read(path, None, error.reason, error.detail)


def _answers(predictor: Predictor, part: list[_Read], batch: int) -> Iterator[Prediction]:
    images = [one.image for one in part if one.image is not None]
    found = predictor.run(np.stack(images), batch) if images else None
    k = 0
    for one in part:
        if one.image is None or found is None:
            yield Prediction(one.path, None, one.reason, one.detail)
            continue
        # Copies: a row of the batch would keep all of it alive.
        embedding = None if found.embeddings is None else found.embeddings[k].copy()
        yield Prediction(one.path, found.probabilities[k].copy(), embedding=embedding, measures=one.measures)
        k += 1


def record(
    prediction: Prediction, classes: Sequence[str], positive: Sequence[str], threshold: float | None
) -> dict[str, Any]:
    """One prediction as a flat record; the same keys whatever happened.

    ``label`` is the most probable class; ``above_threshold`` whether the probability of the positive
    finding reaches the operating point.
    """
    values = prediction.probabilities
    row: dict[str, Any] = {"path": name_of(prediction.path), "label": None}
    for i, name in enumerate(classes):
        row[f"p_{name}"] = None if values is None else round(float(values[i]), 6)
    row["above_threshold"] = None
    if values is not None:
        row["label"] = classes[int(values.argmax())]
        if positive and threshold is not None:
            row["above_threshold"] = sum(float(values[classes.index(name)]) for name in positive) >= threshold
    return {**row, "error": prediction.reason or None, "detail": prediction.detail or None}


def name_of(path: Path) -> str:
    """A path as text that any table can hold: bytes that are no UTF-8 become escapes."""
    return path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def format_of(out: Path | None, wanted: str | None) -> Format:
    """The output format: as asked for, else by the file's suffix, else CSV.

    Raises:
        UserError: for a format or suffix that is not known, or Parquet without a file.
    """
    if wanted is not None:
        if wanted not in ("csv", "jsonl", "parquet"):
            raise UserError(f"--format is {wanted!r}: use csv, jsonl or parquet.")
        if wanted == "parquet" and out is None:
            raise UserError("--format parquet needs a file: give --out.")
        return wanted  # type: ignore[return-value]
    if out is None:
        return "csv"
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{out}: cannot tell the format from {out.suffix!r}; end it in .csv, .jsonl or .parquet, or give --format."
        )
    return SUFFIXES[out.suffix.lower()]


def lines(records: Iterable[dict[str, Any]], form: Format, header: bool = True) -> Iterator[str]:
    """The records as text, line by line, each with its line end; for CSV with a header first, unless not wanted."""
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
