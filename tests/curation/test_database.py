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


def start(code: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if k != "FIFTYONE_DATABASE_URI"} | env
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=cwd, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def servers(folder: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if any(folder in a for a in p.info["cmdline"] or [])]


def wait_until(condition, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def test_two_runs_at_once_do_not_meet_and_leave_nothing(tmp_path):
    code = OPEN + "import pymongo; pymongo.MongoClient(db.uri)['x']['y'].insert_one({}); " + COUNT + "input()"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [run.stdout.readline().split() + [run.stdout.readline().strip()] for run in runs]
    assert said[0][0] != said[1][0] and said[0][1] != said[1][1]
    assert [words[2] for words in said] == ["1", "1"]
    for run in runs:
        run.communicate("\n", timeout=60)
        assert run.returncode == 0
    for _, folder, _ in said:
        assert not Path(folder).exists() and not servers(folder)


def test_the_server_goes_when_its_process_is_killed(tmp_path):
    run = start(OPEN + "import time; time.sleep(600)", tmp_path)
    _, folder = run.stdout.readline().split()
    assert Path(folder).is_dir() and servers(folder)
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=30)
    assert wait_until(lambda: not Path(folder).exists() and not servers(folder))


def test_another_server_is_used_and_only_our_database_in_it_removed(tmp_path):
    host = start(OPEN + "import time; time.sleep(600)", tmp_path)
    uri, _ = host.stdout.readline().split()
    try:
        code = (
            OPEN + "import pymongo; c = pymongo.MongoClient(db.uri); c['fiftyone']['theirs'].insert_one({}); "
            "c[db.name]['ours'].insert_one({}); print(sorted(set(c.list_database_names()) & {db.name, 'fiftyone'}))"
        )
        guest = start(code, tmp_path, FIFTYONE_DATABASE_URI=uri)
        out, err = guest.communicate(timeout=60)
        assert guest.returncode == 0, err
        assert "derm-t2im-run-" in out and "fiftyone" in out
        after = start(
            OPEN + "import pymongo; print(pymongo.MongoClient(db.uri).list_database_names())",
            tmp_path,
            FIFTYONE_DATABASE_URI=uri,
        )
        out, _ = after.communicate(timeout=60)
        assert "'fiftyone'" in out and "derm-t2im-run-" not in out.splitlines()[-1]
    finally:
        host.kill()
        host.communicate(timeout=30)


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        ("import os; os.environ['FIFTYONE_DATABASE_URI'] = 'mongodb://user:secret@127.0.0.1:9/?serverSelectionTimeoutMS=500'; ", "FIFTYONE_DATABASE_URI (host 127.0.0.1) does not answer"),
        ("import os; os.access = lambda *a: False; ", "run `make setup`, or set FIFTYONE_DATABASE_URI"),
    ],
)  # fmt: skip
def test_no_server_is_one_clear_line_and_no_leftovers(tmp_path, setup, said):
    code = (
        setup + "from derm_t2im.curation import database\nfrom derm_t2im.errors import UserError\n"
        "try:\n    database.connect()\nexcept UserError as error:\n    print(error)"
    )
    run = start(code, tmp_path)
    out, err = run.communicate(timeout=60)
    assert said in out and "secret" not in out and err == ""
    assert list((tmp_path / ".state" / "fiftyone").iterdir()) == []


def test_fiftyone_is_quiet_ours_and_writes_nothing_at_home(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    code = (
        OPEN + "fo = database.fiftyone(); print(fo.config.do_not_track, fo.config.database_name == db.name, "
        "len(fo.list_datasets())); fo.Dataset('d').add_sample(fo.Sample(filepath='/a.png'))"
    )
    run = start(code, tmp_path, HOME=str(home))
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert out.splitlines()[1:] == ["True True 0"] and err == ""
    assert list(home.rglob("*fiftyone*")) == []
    assert list((tmp_path / ".state" / "fiftyone").iterdir()) == []


def test_a_fiftyone_that_is_connected_elsewhere_is_refused(tmp_path):
    run = start("import sys; sys.modules['fiftyone'] = sys; " + OPEN, tmp_path)
    _, err = run.communicate(timeout=60)
    assert "fiftyone was imported before" in err
