"""A Git repository with two revisions of results, as a pull request has them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from derm_t2im import paths
from derm_t2im.changes.snapshot import SAMPLES
from derm_t2im.imaging.io import write_png
from tests.report import example

PARAMS = {"generate": {"guidance": 4.0, "samplers": ["euler_a", "euler"]}, "train": {"steps": 240}}
LOCK = {
    "schema": "2.0",
    "stages": {
        "generate": {
            "cmd": "generate",
            "deps": [{"path": "src/generate.py", "md5": "5d41402abc4b2a76b9719d911017c592"}],
            "params": {"params.yaml": {"generate": {"guidance": 4.0, "samplers": ["euler_a", "euler"]}}},
            "outs": [{"path": "data/synthetic", "md5": "1.dir"}],
        },
        "curate": {
            "cmd": "curate",
            "deps": [{"path": "data/synthetic/manifest.parquet", "md5": "2"}],
            "outs": [{"path": "data/curated", "md5": "3.dir"}],
        },
        "train": {"cmd": "train", "params": {"params.yaml": {"train.steps": 240}}, "outs": [{"path": "models/a"}]},
    },
}


def git(root: Path, *arguments: str) -> str:
    settings = ("-c", "user.email=test@example.org", "-c", "user.name=Test", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *settings, *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write(root: Path, params: dict[str, Any], lock: dict[str, Any], grey: int) -> None:
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (root / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    (root / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    (root / "src").mkdir(exist_ok=True)
    (root / "src" / "generate.py").write_text("hello", encoding="utf-8")
    for step in (50, 100):
        write_png(root / SAMPLES / f"{step}.png", np.full((8, 8, 3), grey + step, np.uint8))


def edit(root: Path, path: Path, change: Any) -> None:
    values = json.loads((root / path).read_text(encoding="utf-8"))
    change(values)
    (root / path).write_text(json.dumps(values), encoding="utf-8")


def two_revisions(root: Path) -> tuple[str, str]:
    """The commits of a base and of a proposal that has another guidance and better classifiers."""
    example.write(root)
    write(root, PARAMS, LOCK, 0)
    (root / ".gitignore").write_text("data/\nmodels/\nreports/\n", encoding="utf-8")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "base")
    base = git(root, "rev-parse", "HEAD")

    git(root, "checkout", "-q", "-b", "proposal")
    params = {**PARAMS, "generate": {"guidance": 5.0, "samplers": ["euler_a", "euler"]}}
    lock = json.loads(json.dumps(LOCK))
    lock["stages"]["generate"]["params"]["params.yaml"]["generate"]["guidance"] = 5.0
    lock["stages"]["generate"]["outs"][0]["md5"] = "9.dir"
    write(root, params, lock, 50)

    def better(values: dict[str, Any]) -> None:
        found = values["vit"]["hybrid"]["in_domain"]
        for key in ("auc", "auc_low", "auc_high"):
            found[key] += 0.04
        worse = values["mobilenetv2"]["hybrid"]["in_domain"]
        for key in ("auc", "auc_low", "auc_high"):
            worse[key] -= 0.1

    edit(root, paths.CLASSIFICATION_METRICS, better)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "guidance | 5 <b>@everyone</b>")
    return base, git(root, "rev-parse", "HEAD")


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "derm_t2im", "report", "diff", *arguments],
        cwd=root, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
