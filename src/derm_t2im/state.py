"""Whole or not at all: atomic outputs, and work that goes on after a kill.

A long stage works in ``.state/<stage>/<fingerprint>/`` (ignored by Git and DVC), where the
fingerprint covers its parameters and the hashes of its inputs. Killed and started again with the
same inputs it finds its own unfinished work there; with other inputs it starts afresh. What a stage
goes on from is sealed: its digest is noted after it, and what differs from its digest is made again.
Outputs move to their place by a rename at the very end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from derm_t2im.errors import UserError
from derm_t2im.progress import say

STATE = Path(".state")
SEALS = ".seals"  # folder of digests within a work folder


def fingerprint(*parts: Any) -> str:
    """Hex digest of JSON-serialisable ``parts``; pydantic models count by their values."""

    def plain(value: Any) -> Any:
        if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        if isinstance(value, Path):
            return value.as_posix()
        raise TypeError(f"cannot fingerprint {type(value).__name__}")

    text = json.dumps(parts, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_code(*modules: ModuleType) -> list[str]:
    """SHA-256 of the source of modules: unfinished work of other code is no work to go on from."""
    return [hash_file(Path(str(module.__file__))) for module in modules]


def hash_tree(path: Path) -> str:
    """SHA-256 over the relative names and contents of all files below ``path`` (or of one file)."""
    if path.is_file():
        return hash_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()


def work_folder(stage: str, key: str, afresh: bool = False) -> Path:
    """The folder in which ``stage`` keeps its unfinished work for the inputs behind ``key``; ``afresh`` empties it.

    Work of the same stage for other inputs is removed: it can no longer be of use.
    """
    folder = STATE / stage / key
    if folder.parent.is_dir():
        for other in folder.parent.iterdir():
            if other.name != key or afresh:
                shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _seal_of(work: Path, made: Path) -> Path:
    return work / SEALS / f"{made.relative_to(work)}.seal"


def seal(work: Path, made: Path, coming: Path | None = None) -> None:
    """Note the digest of a file or folder below ``work``, once it is whole.

    ``coming`` is about to be renamed to ``made``: until then what is there stays sealed too.
    """
    note = _seal_of(work, made)
    note.parent.mkdir(parents=True, exist_ok=True)
    before = note.read_text(errors="replace").split()[:1] if coming and note.is_file() else []
    partial = note.with_name(f".{note.name}.partial")
    # Not synced: a seal that a power cut loses only costs the work again.
    try:
        partial.write_text("\n".join([hash_tree(coming or made), *before]))
        partial.replace(note)
    finally:
        partial.unlink(missing_ok=True)


def whole(work: Path, made: Path) -> bool:
    """Whether ``made`` is there as it was sealed; what is not is removed, with a word."""
    if not made.exists():
        return False
    note = _seal_of(work, made)
    if note.is_file() and hash_tree(made) in note.read_text(errors="replace").split():
        return True
    say(f"{made} is unfinished or damaged: it is made again.")
    shutil.rmtree(made) if made.is_dir() else made.unlink()
    note.unlink(missing_ok=True)
    return False


def sealed_line(row: dict[str, Any]) -> str:
    """A row of a journal, with its digest before it."""
    text = json.dumps(row)
    return f"{hashlib.sha256(text.encode()).hexdigest()} {text}\n"


def sealed_rows(journal: Path) -> Iterator[dict[str, Any]]:
    """The rows of a journal of :func:`sealed_line` up to the first damaged one, of which it says a word."""
    for line in journal.read_text(encoding="utf-8", errors="replace").splitlines() if journal.is_file() else ():
        digest, _, text = line.partition(" ")
        if digest == hashlib.sha256(text.encode()).hexdigest():
            yield json.loads(text)
        else:
            say(f"{journal}: a row is unfinished or damaged: from there on it is made again.")
            return


def discard(folder: Path) -> None:
    """Remove a work folder after its results are in place."""
    shutil.rmtree(folder, ignore_errors=True)


def move_into_place(finished: Path, target: Path) -> None:
    """Replace ``target`` (file or folder) by ``finished``; a reader never sees half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in finished.rglob(".*.partial"):  # of a process that was killed while it wrote
        left.unlink()
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if finished.is_dir() and target.exists():
        target.rename(old)
    finished.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all (temporary sibling, fsync, rename)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return None
        return float(f"{value:.6g}")
    return value


def read_json(path: Path, stage: str) -> Any:
    """What :func:`write_json` wrote in ``stage``.

    Raises:
        UserError: if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `dvc repro {stage}` first.") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): run `dvc repro`, which makes it again.") from None


def write_json(path: Path, value: dict[str, Any] | list[Any]) -> None:
    """Write metrics (or records of a plot) as stable JSON: sorted keys, six significant digits, NaN as null."""
    write_atomic(path, json.dumps(_rounded(value), indent=2, sort_keys=True) + "\n")
