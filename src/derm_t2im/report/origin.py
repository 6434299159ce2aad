"""What a page was made from: commit, parameters, versions; enough to make it again."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

#: What decides a run, apart from the images themselves.
INPUTS = ("src", "params.yaml", "dvc.yaml", "requirements.lock")
LIBRARIES = ("torch", "torchvision", "timm", "diffusers", "peft", "transformers", "onnxruntime-gpu", "onnxruntime",
             "great-expectations", "fiftyone", "dvc", "scikit-learn", "numpy", "pandas")  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """``commit`` is the last one that touched code or parameters, empty outside Git; ``changed`` names what differs."""

    commit: str = ""
    changed: list[str] = field(default_factory=list)
    parameters: list[tuple[str, str]] = field(default_factory=list)
    versions: list[tuple[str, str]] = field(default_factory=list)


def origin(parameters: Mapping[str, Any], root: Path = Path()) -> Origin:
    """Of the repository at ``root``.

    The commit is the last that touched the inputs: one that only records results does not make it another page.
    """
    commit = _git(root, "log", "-1", "--format=%H", "--", *INPUTS).strip()
    changed = [line[3:] for line in _git(root, "status", "--porcelain", "--", *INPUTS).splitlines()] if commit else []
    return Origin(commit, changed, list(_flat("", parameters)), _versions())


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def _flat(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        rows += _flat(name, value) if isinstance(value, Mapping) and value else [(name, _said(value))]
    return rows


def _said(value: Any) -> str:
    """As YAML writes it."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_said(one) for one in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else "{}" if value == {} else str(value)


def _versions() -> list[tuple[str, str]]:
    found = [("Python", platform.python_version())]
    for name in LIBRARIES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found
