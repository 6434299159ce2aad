"""Whole or not at all: atomic outputs, and work that goes on after a kill.

A long stage works in ``.state/<stage>/<fingerprint>/`` (ignored by Git and DVC), where the
fingerprint covers its parameters and the hashes of its inputs. Killed and started again with the
same inputs it finds its own unfinished work there; with other inputs it starts afresh. Outputs
move to their place by a rename at the very end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

STATE = Path(".state")


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


def work_folder(stage: str, key: str) -> Path:
    """The folder in which ``stage`` keeps its unfinished work for the inputs behind ``key``.

    Work of the same stage for other inputs is removed: it can no longer be of use.
    """
    folder = STATE / stage / key
    if folder.parent.is_dir():
        for other in folder.parent.iterdir():
            if other.name != key:
                shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def discard(folder: Path) -> None:
    """Remove a work folder after its results are in place."""
    shutil.rmtree(folder, ignore_errors=True)


def move_into_place(finished: Path, target: Path) -> None:
    """Replace ``target`` (file or folder) by ``finished``; a reader never sees half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if finished.is_dir() and target.exists():
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        finished.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        finished.replace(target)


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


def write_json(path: Path, value: dict[str, Any] | list[Any]) -> None:
    """Write metrics (or records of a plot) as stable JSON: sorted keys, six significant digits, NaN as null."""
    write_atomic(path, json.dumps(_rounded(value), indent=2, sort_keys=True) + "\n")
