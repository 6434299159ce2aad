"""The results of one revision, as Git holds them: metrics, parameters, lock file, plots, sample pictures."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from derm_t2im import paths
from derm_t2im.errors import UserError
from derm_t2im.git import commit_of

WORKSPACE = "workspace"
PIPELINE, LOCK = Path("dvc.yaml"), Path("dvc.lock")
SAMPLES = paths.PLOTS / "finetune" / "images" / "samples"
PREDICTIONS = paths.PLOTS / "predictions.parquet"


@dataclass(frozen=True)
class Snapshot:
    """One revision.

    ``name`` as it was asked for, ``commit`` its hash, empty for the working tree. ``metrics`` by path below metrics/
    without its suffix (``train/vit-real``); ``params``, ``lock`` and ``pipeline`` the parsed YAML files; ``plots`` the
    records of roc and reliability; ``samples`` the last sample sheet as PNG bytes, or None, and ``sheet`` its path.
    """

    name: str
    commit: str
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    lock: Mapping[str, Any] = field(default_factory=dict)
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    plots: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    samples: bytes | None = None
    sheet: str = ""

    @property
    def short(self) -> str:
        """What people call it: the name and the first digits of the commit, or those alone for a bare hash."""
        at = self.commit[:7]
        return self.name if not at else at if self.commit.startswith(self.name) else f"{self.name} ({at})"

    def of(self, name: str) -> Mapping[str, Any]:
        """The metrics of one file, empty where there is none."""
        return self.metrics.get(name, {})


class _Tree:
    """Files of a revision, or of the working tree where ``commit`` is empty."""

    def __init__(self, root: Path, commit: str) -> None:
        self.root, self.commit = root, commit

    def names(self, folder: Path) -> list[str]:
        if not self.commit:
            below = (self.root / folder).rglob("*")
            return sorted(path.relative_to(self.root).as_posix() for path in below if path.is_file())
        listed = _git(self.root, "ls-tree", "-r", "-z", "--name-only", self.commit, "--", folder.as_posix())
        return [name for name in listed.decode().split("\0") if name]

    def read(self, path: Path | str) -> bytes | None:
        name = Path(path).as_posix()
        if not self.commit:
            file = self.root / name
            return file.read_bytes() if file.is_file() else None
        done = subprocess.run(
            ["git", "-C", str(self.root), "cat-file", "blob", f"{self.commit}:{name}"], capture_output=True, check=False
        )
        return done.stdout if done.returncode == 0 else None


def read(rev: str | None, root: Path = Path()) -> Snapshot:
    """The results at ``rev``, or those of the working tree for None.

    Raises:
        UserError: if there is no such revision, or a file of it cannot be read.
    """
    commit = commit_of(rev, root) if rev is not None else ""
    name = rev or WORKSPACE
    tree = _Tree(root, commit)
    metrics = {}
    for file in tree.names(paths.METRICS):
        if file.endswith(".json"):
            key = Path(file).relative_to(paths.METRICS).with_suffix("").as_posix()
            metrics[key] = _mapping(_json(tree, file, name), file, name)
    sheets = [file for file in tree.names(SAMPLES) if file.endswith(".png") and Path(file).stem.isdigit()]
    last = max(sheets, key=lambda file: int(Path(file).stem), default=None)
    return Snapshot(
        name,
        commit,
        metrics,
        _yaml(tree, paths.PARAMS, name),
        _yaml(tree, LOCK, name),
        _yaml(tree, PIPELINE, name),
        {plot: _records(_json(tree, paths.PLOTS / f"{plot}.json", name)) for plot in ("roc", "reliability")},
        tree.read(last) if last else None,
        last or "",
    )


def _git(root: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[:200]
        raise UserError(f"git {arguments[0]} failed: {said}")
    return done.stdout


def _json(tree: _Tree, path: Path | str, name: str) -> Any:
    content = tree.read(path)
    if content is None:
        return None
    try:
        return json.loads(content)
    except ValueError as error:
        raise UserError(f"{path} of {name} is no JSON ({error}): a merge conflict left in it?") from None


def _yaml(tree: _Tree, path: Path, name: str) -> Mapping[str, Any]:
    content = tree.read(path)
    if content is None:
        return {}
    try:
        # The lock file is long: the C loader, where there is one, reads it ten times as fast.
        found = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise UserError(f"{path} of {name} is no YAML ({' '.join(str(error).split())[:150]}).") from None
    return _mapping(found, path, name)


def _mapping(found: Any, path: Path | str, name: str) -> Mapping[str, Any]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"{path} of {name} must hold a mapping, not {type(found).__name__}.")
    return found


def _records(found: Any) -> list[dict[str, Any]]:
    return [record for record in found if isinstance(record, dict)] if isinstance(found, list) else []
