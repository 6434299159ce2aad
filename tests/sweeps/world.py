"""A repository with the real parameters and a stand-in pipeline of two cheap stages, run as a user would."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIPELINE = """
stages:
  mix:
    cmd: python work.py mix
    params: [mix]
    deps: [work.py]
    outs: [data/mixes]
    metrics:
      - metrics/mix.json: {cache: false}
  evaluate:
    cmd: python work.py evaluate
    params: [evaluate.seed, mix.synthetic_fraction]
    deps: [work.py, data/mixes/a, metrics/mix.json]
    metrics:
      - metrics/classification.json: {cache: false}
  report:
    cmd: python work.py report
    params: [report]
    deps: [metrics/classification.json]
    outs: [reports]
"""
WORK = """
import json, os, pathlib, sys, time, yaml
params, stage = yaml.safe_load(open("params.yaml")), sys.argv[1]
fraction, seed = params["mix"]["synthetic_fraction"], params["evaluate"]["seed"]
if stage == "mix":
    pathlib.Path("data/mixes").mkdir(parents=True)
    pathlib.Path("data/mixes/a").write_text(str(fraction))
    pathlib.Path("metrics").mkdir(exist_ok=True)
    cores = {each: os.environ.get(f"DERM_T2IM_{each}") for each in ("THREADS", "WORKERS")}
    json.dump({"hybrid": {"synthetic_fraction": fraction}, **cores}, open("metrics/mix.json", "w"))
elif stage == "report":
    sys.exit("Error: nobody asked for a report")
else:
    if seed == 13:
        sys.exit("Error: evaluate.seed: thirteen is not allowed.")
    if seed == 99 and not pathlib.Path("%(gate)s").exists():
        pathlib.Path("%(gate)s.waits").touch()
        while not pathlib.Path("%(gate)s").exists():
            time.sleep(0.05)
    mixes = {mix: {"in_domain": {"auc": value, "auc_low": value - 0.1, "auc_high": value + 0.1, "n": 50, "seeds": 2}}
             for mix, value in {"real": 0.5, "hybrid": 0.5 + fraction / 4}.items()}
    json.dump({"vit": mixes}, open("metrics/classification.json", "w"))
"""
SWEEP = """
# Does a stand-in of a pipeline tell 0.2 from 0.6?
axis: {name: share, scale: linear}
base: {evaluate.bins: 12}
points:
  - {label: low, x: 0.2, set: {mix.synthetic_fraction: 0.2}}
  - {label: "3:2", x: 0.6, set: {mix.synthetic_fraction: 0.6%(more)s}}
draw:
  - {key: "classification:{arch}.{mix}.{test}.auc", name: AUC, only: {mix: [real, hybrid]}}
"""


class World:
    """The repository in ``folder``; ``gate`` is a file for which a point with evaluate.seed 99 waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gate = folder.parent / f"{folder.name}.gate"
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "DERM_T2IM_THREADS": "4",
            "DERM_T2IM_WORKERS": "6",
            "GIT_CONFIG_GLOBAL": os.devnull,
        }

    def build(self) -> World:
        self.folder.mkdir()
        shutil.copy(ROOT / "params.yaml", self.folder)
        for name, text in {
            "dvc.yaml": PIPELINE,
            "work.py": WORK % {"gate": self.gate},
            ".gitignore": "/data/mixes\n/reports\n.state/\n",
        }.items():
            (self.folder / name).write_text(text)
        self.sweep()
        for words in (
            ("git", "init", "-q", "-b", "main"), ("git", "config", "user.email", "test@example.org"),
            ("git", "config", "user.name", "Test"), ("dvc", "init", "-q"), ("dvc", "config", "core.analytics", "false"),
        ):  # fmt: skip
            self.do(*words)
        self.commit()
        return self

    def sweep(self, more: str = "", name: str = "shares", text: str = SWEEP) -> None:
        (self.folder / "sweeps").mkdir(exist_ok=True)
        (self.folder / "sweeps" / f"{name}.yaml").write_text(textwrap.dedent(text % {"more": more}).lstrip())

    def commit(self) -> None:
        self.do("git", "add", "-A")
        self.do("git", "commit", "-qm", "state")

    def like_a_new_clone(self) -> None:
        """A run lies in Git, but not in DVC's cache."""
        self.do("dvc", "repro", "evaluate")
        self.commit()
        shutil.rmtree(self.folder / ".dvc" / "cache")
        shutil.rmtree(self.folder / "data")

    def do(self, *words: str) -> str:
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stdout} {done.stderr}"
        return done.stdout

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "derm_t2im", "sweep", *words]

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=600
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words), cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            # A shell starts what it puts in the background deaf to Ctrl-C, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def experiments(self) -> set[str]:
        return set(self.do("dvc", "exp", "list", "--name-only", "--all-commits").split())

    def copies(self) -> list[Path]:
        """What points left of the copies that they ran in."""
        return list((self.folder / ".dvc" / "tmp" / "exps").glob("standalone/tmp*"))
