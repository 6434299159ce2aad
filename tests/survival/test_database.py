"""FiftyOne's database server killed under what `curate` measures: one line, and the next run is fine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fiftyone

_RUN = """
import os, signal, sys
import numpy as np
from pathlib import Path
from derm_t2im.curation import brain, database
from derm_t2im.errors import UserError
ids, points = [f"i{n}" for n in range(12)], np.random.default_rng(0).normal(size=(12, 3))
if len(sys.argv) > 1:
    own = database.connect()
    database.fiftyone()
    os.kill(int((own.folder / "pid").read_text()), signal.SIGKILL)
try:
    print(brain.uniqueness(ids, points).sum())
except UserError as error:
    print(error)
"""


def run(folder: Path, *arguments: str) -> str:
    # A test before this one may have opened a database for this process and all that it starts.
    own = {name: value for name, value in os.environ.items() if not name.startswith("FIFTYONE_")}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments], cwd=folder, env=own, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
    return done.stdout


def test_a_killed_server_is_one_line_and_the_next_run_has_its_own(tmp_path: Path) -> None:
    said = run(tmp_path, "kill")
    assert said.startswith("FiftyOne's database server does not answer") and said.count("\n") == 1
    stale = tmp_path / ".state" / "fiftyone" / "run-stale" / "db"
    stale.mkdir(parents=True)
    (stale / "WiredTiger.wt").write_bytes(b"torn")
    assert float(run(tmp_path)) > 0, "damaged files of an earlier run are nobody's"
