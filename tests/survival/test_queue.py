"""Experiments from DVC's queue: two workers at once give what one gives."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.project import Project, tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.pipeline,
    pytest.mark.fiftyone,
    pytest.mark.skipif(not os.environ.get("DERM_T2IM_SLOW"), reason="over 30 s; set DERM_T2IM_SLOW=1"),
]

FRACTIONS = ("0.1", "0.15")
PATIENCE = 1500  # seconds


def queued(project: Project, workers: int) -> dict[str, dict[str, str]]:
    """Queue an experiment per fraction, let so many workers run them; all committed files of each, as Git's digests."""
    project.run("dvc", "exp", "run", "--queue", "-S", f"mix.synthetic_fraction={','.join(FRACTIONS)}")
    project.run("dvc", "queue", "start", "-j", str(workers))
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            lines = project.run("dvc", "queue", "status").stdout.splitlines()
            tasks = [line.split()[-1] for line in lines if line.strip()]
            assert "Failed" not in tasks, project.run("dvc", "queue", "status").stdout
            if tasks.count("Success") == len(FRACTIONS):
                break
            assert time.monotonic() < deadline, project.run("dvc", "queue", "status").stdout
            time.sleep(2)
    finally:
        project.run("dvc", "queue", "stop", "--kill", check=False)
    shown = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    found = {}
    for baseline in shown:
        for experiment in baseline.get("experiments") or []:
            for rev in experiment["revs"]:
                value = str(rev["data"]["params"]["params.yaml"]["data"]["mix"]["synthetic_fraction"])
                tree = project.run("git", "ls-tree", "-r", rev["rev"]).stdout.splitlines()
                found[value] = {line.split("\t")[1]: line.split()[2] for line in tree}
    return found


def test_two_workers_give_the_results_of_one(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    one = tiny(tmp_path / "one")
    one.run("dvc", "repro")
    one.run("git", "add", "-A")
    one.run("git", "commit", "-qm", "first run")
    shutil.copytree(one.folder, tmp_path / "two", symlinks=True)
    alone, together = queued(one, 1), queued(Project(tmp_path / "two"), 2)
    assert sorted(alone) == sorted(FRACTIONS)
    assert len({tree["metrics/mix.json"] for tree in alone.values()}) == len(FRACTIONS)
    assert together == alone
