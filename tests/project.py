"""A copy of the project small enough to run whole in a test, and for `scripts/faults.py`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]

TINY: dict[str, Any] = {
    "acquire.phantom.images": 130,
    "acquire.phantom.external_images": 30,
    "split.train": 40,
    "split.val": 24,
    "split.test": 50,
    "split.external": 30,
    "split.seed_images": 12,
    "probe.steps": 12,
    "finetune.steps": 4,
    "finetune.checkpoint_every": 2,
    "finetune.kid_samples": 8,
    "finetune.adherence_samples": 4,
    "finetune.sample_every": 2,
    "generate.images": 72,
    "generate.steps": 3,
    "generate.samplers": ["euler_a", "plms"],
    "fidelity.bootstrap": 20,
    "fidelity.planted_copies": 6,
    "validate.min_images_per_class": 5,
    "validate.max_kid_over_floor": 1e9,
    "validate.max_copy_rate": 1.0,
    "validate.max_label_disagreement": 1.0,
    "validate.max_shortcut_excess": 1.0,
    "validate.min_planted_recall": 0.0,
    "validate.mostly": 0.01,
    "curate.keep": 20,
    "curate.min_label_probability": 0.0,
    "curate.sharpness_quantile": 0.0,
    "curate.off_manifold_quantile": 1.0,
    "curate.max_hair_fraction": 1.0,
    "curate.max_ruler": 1.0,
    "curate.max_ink": 1.0,
    "curate.copy_quantile": 0.001,
    "curate.near_duplicate_quantile": 1e-4,
    "mix.synthetic_fraction": 0.2,
    "train.steps": 24,
    "train.warmup": 2,
    "train.evaluate_every": 6,
    "train.seeds": [0],
    "evaluate.bootstrap": 100,
    "report.samples": 8,
}


class Project:
    """A repository in a folder of its own, with commands run as a user would run them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder / "src"),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }

    def run(self, *command: str, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}")
        return done

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """In a process group of its own, so that all of it can be killed."""
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def set(self, **values: Any) -> None:
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for dotted, value in values.items():
            *parents, last = dotted.split(".")
            inner = params
            for part in parents:
                inner = inner[part]
            assert last in inner, dotted
            inner[last] = value
        path.write_text(yaml.safe_dump(params, sort_keys=False))


def tiny(folder: Path) -> Project:
    """The project as a clone has it, with the tiny parameters, in an empty folder; nothing has run."""
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "models" / "base", folder / "models" / "base")
    for name in ("import", "import-external", "review"):
        shutil.copytree(ROOT / "data" / name, folder / "data" / name)
    project = Project(folder)
    project.set(**TINY)
    project.run("git", "init", "-q", "-b", "main")
    project.run("git", "config", "user.email", "test@example.org")
    project.run("git", "config", "user.name", "Test")
    project.run("dvc", "init", "-q")
    project.run("dvc", "config", "core.analytics", "false")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "tiny")
    return project
