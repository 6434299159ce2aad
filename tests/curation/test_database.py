"""Each test runs its own processes: a process has one database for life."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from derm_t2im.curation import database
from derm_t2im.errors import UserError

OPEN = "from derm_t2im.curation import database; db = database.connect(); print(db.uri, db.folder, flush=True); "
COUNT = "import pymongo; print(len(list(pymongo.MongoClient(db.uri)['x']['y'].find())), flush=True); "


def mongod() -> bool:
    try:
        database.find_mongod()
    except UserError:
        return False
    return True


pytestmark = [
    pytest.mark.fiftyone,
    pytest.mark.skipif(not mongod(), reason="FiftyOne has no mongod here: run `make setup`"),
]


@pytest.fixture
def start(tmp_path):
    """Start Python code in a process of its own, with none of this process's FiftyOne settings."""
    runs = []

    def run(code: str, **env: str) -> subprocess.Popen[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("FIFTYONE_")} | env
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", code]
        runs.append(subprocess.Popen(command, cwd=tmp_path, env=clean, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return runs[-1]

    yield run
    for process in runs:
        process.kill()
        process.communicate(timeout=30)


def servers(folder: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if any(folder in a for a in p.info["cmdline"] or [])]


def wait_until(condition, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def test_two_runs_at_once_do_not_meet_and_leave_nothing(start):
    code = OPEN + "import pymongo; pymongo.MongoClient(db.uri)['x']['y'].insert_one({}); " + COUNT + "input()"
    runs = [start(code) for _ in range(2)]
    said = [[*run.stdout.readline().split(), run.stdout.readline().strip()] for run in runs]
    assert said[0][0] != said[1][0] and said[0][1] != said[1][1]
    assert [words[2] for words in said] == ["1", "1"]
    for run in runs:
        run.communicate("\n", timeout=60)
        assert run.returncode == 0
    for _, folder, _ in said:
        assert not Path(folder).exists() and not servers(folder)


def test_the_server_goes_when_its_process_is_killed(start):
    run = start(OPEN + "input()")
    _, folder = run.stdout.readline().split()
    assert Path(folder).is_dir() and servers(folder)
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=30)
    assert wait_until(lambda: not Path(folder).exists() and not servers(folder))


def test_another_server_is_used_and_only_our_database_in_it_removed(start):
    host = start(OPEN + "input()")
    uri, _ = host.stdout.readline().split()
    code = (
        OPEN + "import pymongo; c = pymongo.MongoClient(db.uri); c['fiftyone']['theirs'].insert_one({}); "
        "c[db.name]['ours'].insert_one({}); print(c.list_database_names())"
    )
    out, err = start(code, FIFTYONE_DATABASE_URI=uri).communicate(timeout=60)
    assert "'derm-t2im-run-" in out and "'fiftyone'" in out, err
    code = OPEN + "import pymongo; print(pymongo.MongoClient(db.uri).list_database_names())"
    out, err = start(code, FIFTYONE_DATABASE_URI=uri).communicate(timeout=60)
    assert "'derm-t2im-run-" not in out and "'fiftyone'" in out, err


NOWHERE = "mongodb://user:secret@127.0.0.1:9/?serverSelectionTimeoutMS=500"  # pragma: allowlist secret


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        (
            f"os.environ['FIFTYONE_DATABASE_URI'] = '{NOWHERE}'",
            "FIFTYONE_DATABASE_URI (host 127.0.0.1) does not answer",
        ),
        ("os.access = lambda *a: False", "run `make setup`, or set FIFTYONE_DATABASE_URI"),
    ],
)
def test_no_server_is_one_clear_line_and_no_leftovers(start, tmp_path, setup, said):
    code = (
        f"import os; {setup}\n"
        "from derm_t2im.curation import database\nfrom derm_t2im.errors import UserError\n"
        "try:\n    database.connect()\nexcept UserError as error:\n    print(error)"
    )
    out, err = start(code).communicate(timeout=60)
    assert said in out and "secret" not in out and err == ""
    assert list((tmp_path / ".state" / "fiftyone").iterdir()) == []


def test_fiftyone_is_quiet_ours_and_writes_nothing_at_home(start, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    code = (
        OPEN + "fo = database.fiftyone(); print(fo.config.do_not_track, fo.config.database_name == db.name, "
        "len(fo.list_datasets())); fo.Dataset('d').add_sample(fo.Sample(filepath='/a.png'))"
    )
    run = start(code, HOME=str(home))
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert out.splitlines()[1:] == ["True True 0"] and err == ""
    assert list(home.rglob("*fiftyone*")) == []
    assert list((tmp_path / ".state" / "fiftyone").iterdir()) == []


def test_a_fiftyone_that_is_connected_elsewhere_is_refused(start):
    _, err = start("import sys; sys.modules['fiftyone'] = sys; " + OPEN).communicate(timeout=60)
    assert "fiftyone was imported before" in err
