"""Which stages of a revision do not belong to its lock file any more, and which ran anew between two revisions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from derm_t2im.changes.snapshot import Snapshot

MISSING = object()
GATE = "check"  # reads every parameter, and writes the same whatever passes


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """Stages whose recorded inputs or outputs differ between the lock files, in the order in which they run."""
    old, new = before.lock.get("stages", {}), after.lock.get("stages", {})
    return [name for name in _in_order(new) if _record(new[name]) != _record(old.get(name, {}))]


def _record(stage: Mapping[str, Any]) -> Any:
    def entries(key: str) -> list[tuple[str, str]]:
        return sorted((one.get("path", ""), one.get("md5", "")) for one in stage.get(key, []))

    return stage.get("cmd"), entries("deps"), stage.get("params"), entries("outs")


def stale(after: Snapshot, root: Path = Path()) -> list[str]:
    """Stages that `dvc repro` would run again in the working tree, by its lock file; no data are needed for this.

    A stage is stale where it has no record, where a parameter or a tracked file that it depends on is not the recorded
    one, where it read another output than the one that is recorded (a run stopped at an earlier stage), or where it
    reads what a stale stage writes. Data files themselves are taken to be as recorded.
    """
    present = _instances(after)
    stages = {name: one for name, one in after.lock.get("stages", {}).items() if present is None or name in present}
    absent = [name for name in present or () if name not in stages]
    made = {out["path"]: out.get("md5") for stage in stages.values() for out in stage.get("outs", [])}
    found: list[str] = []
    dirty: set[str] = set()
    for name in _in_order(stages):
        stage = stages[name]
        moved = any(_differs(one, root) for one in stage.get("deps", []))
        moved |= any(made.get(one["path"], one.get("md5")) != one.get("md5") for one in stage.get("deps", []))
        moved |= any(_parameter(after.params, key) != value for key, value in _parameters(stage))
        moved |= any(_within(one["path"], dirty) for one in stage.get("deps", []))
        if moved:
            found.append(name)
            dirty |= {one["path"] for one in stage.get("outs", []) if name != GATE}
    return found + absent


def _instances(after: Snapshot) -> list[str] | None:
    """Names of the stages that dvc.yaml has with these parameters: a lock keeps those of larger matrices."""
    found: list[str] = []
    for name, stage in (after.pipeline.get("stages") or {}).items():
        lists = [
            _parameter(after.params, values.strip("${} ")) if isinstance(values, str) else values
            for values in (stage.get("matrix") or {}).values()
        ]
        found += (
            [
                f"{name}@{'-'.join(map(str, each))}"
                for each in product(*(v if isinstance(v, list) else [] for v in lists))
            ]
            if lists
            else [name]
        )
    return found or None


def _in_order(stages: Mapping[str, Any]) -> list[str]:
    """Stage names such that each comes after those whose outputs it reads."""
    writes = {out["path"]: name for name, stage in stages.items() for out in stage.get("outs", [])}
    needs = {
        name: {by for dep in stage.get("deps", []) for path, by in writes.items() if _related(dep["path"], path)}
        for name, stage in stages.items()
    }
    order: list[str] = []
    waiting = list(stages)
    while waiting:
        ready = [name for name in waiting if not (needs[name] - {name}).intersection(waiting)]
        ready = ready or waiting[:1]  # a circle cannot be: DVC refuses it
        order += ready
        waiting = [name for name in waiting if name not in ready]
    return order


def _related(one: str, other: str) -> bool:
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


def _within(path: str, written: set[str]) -> bool:
    return any(_related(path, other) for other in written)


def _differs(dep: Mapping[str, Any], root: Path) -> bool:
    """Whether a source file or folder is not the recorded one; data, which may be absent, never differ."""
    path = root / dep["path"]
    if not dep["path"].startswith("src/"):
        return False
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        listed = [{"md5": _md5(file.read_bytes()), "relpath": file.relative_to(path).as_posix()} for file in files]
        listed.sort(key=lambda one: one["relpath"])
        return _md5(json.dumps(listed, sort_keys=True).encode()) + ".dir" != dep.get("md5")  # as DVC hashes folders
    return not path.is_file() or _md5(path.read_bytes()) != dep.get("md5")


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _parameters(stage: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for values in (stage.get("params") or {}).values() for key, value in values.items()]


def _parameter(params: Mapping[str, Any], key: str) -> Any:
    value: Any = params
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value
