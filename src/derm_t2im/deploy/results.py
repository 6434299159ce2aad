"""Predictions on disk: whole files at the end, and on the way rows that a later run goes on from.

Until a run is finished its rows lie beside the file to be, in ``.NAME.rows`` (JSON lines, whatever the
format asked for), its embeddings in the folder ``.NAME.parts``. Embeddings are written before their rows, so
a row that is there needs nothing more. While a run lasts, ``.NAME.lock`` keeps others from the same file.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im.deploy.predict import Format, Prediction, identity, lines, name_of
from derm_t2im.errors import UserError
from derm_t2im.state import write_atomic

if TYPE_CHECKING:
    import pyarrow as pa

COMMIT = 256  # rows between two writes: what a killed run loses at most
MODEL_KEY = b"derm_t2im_model"


def embeddings_format(path: Path) -> str:
    """``parquet`` or ``npz``, by the suffix.

    Raises:
        UserError: for another one.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in ("parquet", "npz"):
        raise UserError(f"--embeddings {path}: end it in .parquet or .npz.")
    return form


class Rows:
    """The table of predictions, ``out``.

    Args:
        out: File to write.
        form: Its format.
        model: What marks the model in every row; rows of another are not gone on from.
        columns: Of every row, in order.
    """

    def __init__(self, out: Path, form: Format, model: str, columns: list[str]) -> None:
        """Nothing is written yet."""
        self.out, self._form, self._model, self._columns = out, form, model, columns
        self.journal = out.with_name(f".{out.name}.rows")

    def start(self, resume: bool, usable: set[str] | None = None) -> set[str]:
        """Begin, and return the images (`identity`) that need not be computed again.

        Args:
            resume: Go on from the rows of ``out`` and of an unfinished run. All are kept; those with an error are
                replaced if the image is tried again.
            usable: Paths whose embeddings are there; None: all.

        Raises:
            UserError: if they are of another model, or not rows of `predict`.
        """
        self.out.parent.mkdir(parents=True, exist_ok=True)
        done: set[str] = set()
        with _whole(self.journal) as fresh, fresh.open("w", encoding="utf-8") as file:
            for row in _newest(self._before) if resume else ():
                file.writelines(lines([row], "jsonl"))
                if row["error"] is None and (usable is None or row["path"] in usable):
                    done.add(identity(row["path"]))
        return done

    def add(self, records: list[dict[str, Any]]) -> None:
        """Append rows."""
        with self.journal.open("a", encoding="utf-8") as file:
            file.writelines(lines(records, "jsonl"))

    def finish(self) -> None:
        """Put all rows into the file asked for, the newest one of each image."""
        rows = _newest(lambda: _json_lines(self.journal))
        with _whole(self.out) as fresh:
            if self._form == "parquet":
                _to_parquet(rows, fresh)
            else:
                with fresh.open("w", encoding="utf-8", newline="") as file:
                    file.writelines(lines(rows, self._form))
        self.journal.unlink()

    def _before(self) -> Iterator[dict[str, Any]]:
        both: tuple[tuple[Path, Format], ...] = ((self.out, self._form), (self.journal, "jsonl"))  # oldest first
        for path, form in both:
            if not path.is_file():
                continue
            try:
                if _header(path, form) not in (None, self._columns):
                    raise ValueError("other columns")
                for row in _READ[form](path):
                    if list(row) != self._columns or not isinstance(row["path"], str):
                        raise ValueError("other columns")
                    if row["model"] != self._model:
                        raise UserError(
                            f"{path} holds rows of another model ({row['model']}, now {self._model}): give another "
                            "--out, or leave out --resume."
                        )
                    yield {**row, "error": row["error"] or None}
            except (KeyError, ValueError, TypeError) as error:
                raise UserError(
                    f"{path} is no whole table of `derm-t2im predict` for these classes ({error}): give another --out, "
                    "or leave out --resume."
                ) from None


class Embeddings:
    """Embeddings, scores and measures of the images that were predicted, for `derm-t2im drift`.

    Args:
        out: ``.parquet`` (columns ``path``, ``embedding``, ``p_<class>``, ``score``, measures) or ``.npz``
            (arrays ``ids``, ``embeddings``, ``p_<class>``, ``score``, measures, ``model``).
        model: What marks the model.
        classes: Names of the classes.
        columns: Those of the positive finding; their probabilities add up to ``score``.
    """

    def __init__(self, out: Path, model: str, classes: tuple[str, ...], columns: list[int]) -> None:
        """Nothing is written yet."""
        self.out, self._form, self._model = out, embeddings_format(out), model
        self._classes, self._columns = classes, columns
        self._parts = out.with_name(f".{out.name}.parts")

    def start(self, resume: bool, measure: bool) -> set[str]:
        """Begin, and return the paths whose embeddings are there.

        Raises:
            UserError: if they are of another model, or were written with other columns.
        """
        if not resume:
            shutil.rmtree(self._parts, ignore_errors=True)
        fresh = not self._parts.exists()
        self._parts.mkdir(parents=True, exist_ok=True)
        if resume and self.out.is_file():
            try:
                self._adopt(measure)
            except UserError:
                if fresh:
                    shutil.rmtree(self._parts, ignore_errors=True)
                raise
        have: set[str] = set()
        for part in self._tables():
            self._check(part, self._parts, measure)
            have.update(part["path"].to_pylist())
        return have

    def add(self, predictions: list[Prediction]) -> None:
        """Write what those that succeeded say."""
        import pyarrow as pa

        good = [p for p in predictions if p.probabilities is not None and p.embedding is not None]
        if not good:
            return
        probabilities = np.stack([p.probabilities for p in good if p.probabilities is not None]).astype(np.float32)
        vectors = np.stack([p.embedding for p in good if p.embedding is not None]).astype(np.float32)
        columns: dict[str, Any] = {"path": [name_of(p.path) for p in good], "embedding": _vectors(vectors)}
        columns |= {f"p_{name}": probabilities[:, k] for k, name in enumerate(self._classes)}
        columns["score"] = probabilities[:, self._columns].sum(axis=1)
        columns |= {name: [p.measures[name] for p in good] for name in good[0].measures}
        self._write(pa.table(columns).replace_schema_metadata({MODEL_KEY: self._model.encode()}))

    def finish(self) -> None:
        """Put all of them into the file asked for, each image once."""
        tables = self._each_once()
        if self._form == "npz":
            write_atomic(self.out, _to_npz(list(tables), self._model))
        else:
            import pyarrow.parquet as pq

            with _whole(self.out) as fresh:
                writer = None
                for table in tables:
                    writer = writer or pq.ParquetWriter(fresh, table.schema)
                    writer.write_table(table)
                if writer is None:
                    raise UserError(f"{self.out}: no image was predicted, so there are no embeddings to write.")
                writer.close()
        shutil.rmtree(self._parts, ignore_errors=True)

    def _write(self, table: pa.Table) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        number = 1 + max((int(path.stem) for path in self._parts.glob("*.parquet")), default=-1)
        write_atomic(self._parts / f"{number:08d}.parquet", sink.getvalue().to_pybytes())

    def _tables(self) -> Iterator[pa.Table]:
        import pyarrow.parquet as pq

        for path in sorted(self._parts.glob("*.parquet")):
            yield pq.read_table(path)

    def _each_once(self) -> Iterator[pa.Table]:
        seen: set[str] = set()
        for table in self._tables():
            names = table["path"].to_pylist()
            new = [k for k, name in enumerate(names) if name not in seen]
            seen.update(names)
            if new:
                yield table.take(new)

    def _adopt(self, measure: bool) -> None:
        """The file of a finished run as parts."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            if self._form == "parquet":
                file = pq.ParquetFile(self.out)
                for k in range(file.num_row_groups):
                    table = file.read_row_group(k)
                    self._check(table, self.out, measure)
                    self._write(table)
                return
            with np.load(self.out, allow_pickle=False) as found:
                values = {name: found[name] for name in found.files}
            model = str(values.pop("model")).encode()
            columns = {"path": values.pop("ids").tolist(), "embedding": _vectors(values.pop("embeddings"))}
            table = pa.table({**columns, **values}).replace_schema_metadata({MODEL_KEY: model})
        except (KeyError, ValueError, OSError, pa.ArrowException) as error:
            raise UserError(
                f"{self.out} holds no embeddings of `derm-t2im predict` ({type(error).__name__}): give another file, "
                "or leave out --resume."
            ) from None
        self._check(table, self.out, measure)
        self._write(table)

    def _check(self, table: pa.Table, where: Path, measure: bool) -> None:
        if (table.schema.metadata or {}).get(MODEL_KEY) != self._model.encode():
            raise UserError(f"{where} holds embeddings of another model: give another file, or leave out --resume.")
        if ("sharpness" in table.column_names) != measure:
            word = "without" if measure else "with"
            raise UserError(f"{where} was written {word} --measure: do the same now, or leave out --resume.")


def _vectors(values: np.ndarray) -> pa.Array:
    """float32 (n, d) as a column of vectors."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _to_npz(tables: list[pa.Table], model: str) -> bytes:
    import io

    import pyarrow as pa

    if not tables:
        raise UserError("no image was predicted, so there are no embeddings to write.")
    table = pa.concat_tables(tables)
    arrays: dict[str, Any] = {"ids": np.array(table["path"].to_pylist()), "model": np.array(model)}
    vectors = table["embedding"].combine_chunks()
    arrays["embeddings"] = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
    for name in table.column_names:
        if name not in ("path", "embedding"):
            arrays[name] = np.array(table[name].to_pylist(), dtype=None if name == "tone" else np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Keep other runs from ``target``; the lock goes with the process, its empty file with the next run at the latest.

    Raises:
        UserError: if another run is writing it.
    """
    lock = target.with_name(f".{target.name}.lock")
    with ExitStack() as held:
        while True:
            file = held.enter_context(lock.open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{target} is being written by another run: wait for it, or name another file."
                ) from None
            except OSError:  # a file system that has no locks
                pass
            with suppress(FileNotFoundError):  # a run that ended just now has removed what is locked here
                if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    break
        held.callback(lock.unlink, missing_ok=True)
        yield


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``target`` once it is whole; stopped halfway it leaves nothing.

    What a kill leaves is overwritten by the next run.
    """
    fresh = target.with_name(f".{target.name.removeprefix('.')}.new")
    try:
        yield fresh
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def _newest(read: Callable[[], Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """The last row of each image, in order; reads twice, so that no row stays in memory."""
    last = {identity(row["path"]): k for k, row in enumerate(read())}
    return (row for k, row in enumerate(read()) if last[identity(row["path"])] == k)


def _header(path: Path, form: Format) -> list[str] | None:
    """The columns that a table states apart from its rows; None for JSON lines and an empty file."""
    import csv

    if form == "parquet":
        import pyarrow.parquet as pq

        return list(pq.read_schema(path).names)
    if form == "jsonl":
        return None
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file), None)


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of JSON lines; a last one that was cut off by a kill counts as not there."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    import csv

    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {key: _value(key, text) for key, text in row.items()}


def _value(column: str, text: str) -> Any:
    if text == "":
        return None
    if column.startswith("p_"):
        return float(text)
    return {"true": True, "false": False}[text] if column == "above_threshold" else text


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(4096):
        yield from batch.to_pylist()


_READ = {"jsonl": _json_lines, "csv": _csv_rows, "parquet": _parquet_rows}


def _to_parquet(source: Iterator[dict[str, Any]], target: Path) -> None:
    from itertools import islice

    import pyarrow as pa
    import pyarrow.parquet as pq

    first = next(source, None)
    if first is None:
        raise UserError(f"{target}: no rows to write.")

    def kind(name: str) -> pa.DataType:
        return pa.float64() if name.startswith("p_") else pa.bool_() if name == "above_threshold" else pa.string()

    schema = pa.schema([(name, kind(name)) for name in first])
    with pq.ParquetWriter(target, schema) as writer:
        part: list[Mapping[str, Any]] = [first, *islice(source, 4095)]
        while part:
            writer.write_table(pa.Table.from_pylist(part, schema))
            part = list(islice(source, 4096))
