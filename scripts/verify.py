"""Compare the bytes of the workspace and of DVC's cache with dvc.lock, and say what to do.

    python scripts/verify.py          # look; exit status 1 where something is damaged
    python scripts/verify.py --fix    # remove what is damaged, so that `dvc repro` makes it again

DVC knows a file by its time and size, and takes a read-only file of its cache for what its name says: damage that
changes neither (a bad disk, a cut copy) is not seen by `dvc status`. This reads everything.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CACHE = Path(".dvc/cache/files/md5")
RUNS = Path(".dvc/cache/runs")


@dataclass(frozen=True)
class Damage:
    """Something that is not what dvc.lock says: what is said of it, and which paths --fix removes."""

    said: str
    remove: tuple[Path, ...] = field(default=())


def md5(file: Path) -> str:
    """MD5 of a file's bytes, as DVC names objects."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def object_of(digest: str) -> Path:
    """Where the cache keeps an object."""
    return CACHE / digest[:2] / digest[2:]


def in_cache(digest: str, path: str) -> Iterator[Damage]:
    """What is wrong with the objects of an output in the cache; what is not there is no damage."""
    kept = object_of(digest)
    if not kept.is_file():
        return
    if md5(kept) != digest.removesuffix(".dir"):
        yield Damage(f"cache: {kept} is damaged (it belongs to {path})", (kept,))
    elif digest.endswith(".dir"):
        for entry in json.loads(kept.read_bytes()):
            part = object_of(entry["md5"])
            if part.is_file() and md5(part) != entry["md5"]:
                yield Damage(f"cache: {part} is damaged (it belongs to {path}/{entry['relpath']})", (part,))


def in_notes_of_runs() -> Iterator[Damage]:
    """What a kill or a full disk left of DVC's notes of earlier runs, over which `dvc repro` stumbles."""
    for note in sorted(RUNS.glob("*/*")):
        files = [file for file in note.iterdir() if file.is_file()]
        try:
            good = bool(files) and all(isinstance(yaml.safe_load(file.read_bytes()), dict) for file in files)
        except (yaml.YAMLError, UnicodeDecodeError):
            good = False
        if not good:
            yield Damage(f"cache: {note} is an unfinished or damaged note of a run", (note,))


def in_workspace(digest: str, path: Path) -> Damage | None:
    """What is wrong with an output as it lies in the workspace; what is not there is no damage."""
    if not path.exists():
        return None
    if not digest.endswith(".dir"):
        wrong = not path.is_file() or md5(path) != digest
        return Damage(f"workspace: {path} is not as it was made", (path,)) if wrong else None
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    found = {file.relative_to(path).as_posix(): md5(file) for file in files}
    listed = sorted(({"md5": value, "relpath": name} for name, value in found.items()), key=lambda e: e["relpath"])
    if hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir" == digest:
        return None
    kept = object_of(digest)
    first = ""
    if kept.is_file() and md5(kept) == digest.removesuffix(".dir"):
        wanted = {entry["relpath"]: entry["md5"] for entry in json.loads(kept.read_bytes())}
        wrong_ones = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        first = f" ({len(wrong_ones)} files, first: {wrong_ones[0]})"
    return Damage(f"workspace: {path} is not as it was made{first}", (path,))


def damages(lock: dict[str, Any]) -> Iterator[Damage]:
    """All that is damaged among what the stages of a dvc.lock made, and among what they read and no stage makes."""
    stages = lock.get("stages", {}).values()
    made = {out["path"] for stage in stages for out in stage.get("outs", [])}
    seen: set[str] = set()
    yield from in_notes_of_runs()
    for stage in stages:
        for out in stage.get("outs", []):
            if "md5" not in out:
                continue
            yield from in_cache(out["md5"], out["path"])
            if damage := in_workspace(out["md5"], Path(out["path"])):
                yield damage
        for dep in stage.get("deps", []):
            path = dep["path"]
            given = not any(f"{path}/".startswith(f"{out}/") or out.startswith(f"{path}/") for out in made)
            # Source code that changed is no damage: `dvc repro` runs what reads it.
            if not given or path in seen or path.startswith("src/") or "md5" not in dep:
                continue
            seen.add(path)
            if in_workspace(dep["md5"], Path(path)):
                yield Damage(f"input: {path} is not what the last run read: see `git status {path}`")


def remove(path: Path) -> None:
    """Remove a file or folder; objects of the cache are read-only."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.chmod(0o644)
        path.unlink(missing_ok=True)


def main() -> int:
    """Look, say, and with --fix remove."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--fix", action="store_true", help="remove what is damaged; `dvc repro` makes it again")
    fix = asked.parse_args().fix
    file = Path("dvc.lock")
    try:
        lock = yaml.safe_load(file.read_text(encoding="utf-8"))
        found = list(damages(lock))
    except FileNotFoundError:
        print("verify: there is no dvc.lock here: run this in the root of the repository, after `dvc repro`.")
        return 2
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, UnicodeDecodeError):
        print("verify: dvc.lock is damaged: `git checkout dvc.lock`, then `dvc repro`.")
        return 2
    for damage in found:
        print(damage.said)
    damaged = [path for damage in found for path in damage.remove]
    if fix:
        for path in damaged:
            if path.exists():
                remove(path)
        if damaged:
            print(f"verify: {len(damaged)} damaged files and folders are removed: run `dvc repro`.")
    elif damaged:
        print("verify: `python scripts/verify.py --fix` removes what is damaged, then run `dvc repro`.")
    if not found:
        print("verify: workspace and cache are what dvc.lock says.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
