"""A MongoDB of our own for FiftyOne, for as long as this process lives.

FiftyOne connects to its database when it is first imported, once per process. :func:`fiftyone`
therefore starts a server first - on a free port, its files in a temporary folder below ``.state/`` -
and points FiftyOne there, quiet and without telemetry; or it takes the server behind
``FIFTYONE_DATABASE_URI`` and a database of a name of its own in it. Either is removed when the
process ends; where it is killed, the server notices that its standard input closed. Nobody's
default database is touched, and runs side by side do not meet.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from derm_t2im.errors import UserError
from derm_t2im.state import STATE

_START_SECONDS = 60
_PATIENCE = 5000  # ms; FiftyOne's half a minute, several times over, is long once a server of this machine has died

# Ends mongod and removes its files when standard input closes: when we close it, or when we are gone.
_KEEPER = """
( "$@" >/dev/null 2>&1 & echo $! > "$FOLDER/pid"; wait; : > "$FOLDER/ended" ) &
cat >/dev/null
kill -TERM "$(cat "$FOLDER/pid")" 2>/dev/null
wait
rm -rf "$FOLDER"
"""


@dataclass
class Database:
    """Where FiftyOne keeps its tables: a server, a database of ours in it, a folder for its files."""

    uri: str
    name: str
    folder: Path
    keeper: subprocess.Popen[bytes] | None = None

    @property
    def ended(self) -> bool:
        """Whether the server that we started is no more."""
        return self.keeper is not None and (self.folder / "ended").exists()

    def close(self) -> None:
        """Stop the server, or drop our database in somebody else's; remove the folder. Twice is no error."""
        if self.keeper is not None:
            if self.keeper.stdin:
                with contextlib.suppress(OSError):
                    self.keeper.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.keeper.wait(timeout=20)
        elif self.uri:
            _drop(self.uri, self.name)
            self.uri = ""
        shutil.rmtree(self.folder, ignore_errors=True)


_own: Database | None = None


def fiftyone() -> Any:
    """The module ``fiftyone``, connected to this process's own database.

    Raises:
        UserError, RuntimeError: as :func:`connect`.
    """
    connect()
    with warnings.catch_warnings(), home():
        warnings.simplefilter("ignore")
        import fiftyone as module
    for name in ("fiftyone", "eta"):
        logging.getLogger(name).setLevel(logging.ERROR)
    module.config.show_progress_bars = False
    return module


def connect() -> Database:
    """This process's database: started at the first call, closed when the process ends.

    Raises:
        UserError: if there is no mongod, it does not start, or the server named by
            FIFTYONE_DATABASE_URI does not answer.
        RuntimeError: if FiftyOne was imported before, and so connected elsewhere.
    """
    global _own
    if _own is None:
        if "fiftyone" in sys.modules:
            raise RuntimeError("fiftyone was imported before derm_t2im.curation.database.fiftyone() was called")
        _own = _open()
        atexit.register(_own.close)
    return _own


@contextmanager
def answering() -> Iterator[None]:
    """Within this, a database that ended or is damaged becomes one line; it holds nothing that is not elsewhere."""
    from pymongo.errors import PyMongoError

    try:
        yield
    except (PyMongoError, ConnectionError) as error:  # the latter is FiftyOne's
        raise UserError(
            "FiftyOne's database server does not answer (it was killed, disk or memory ran out, or its files are "
            f"damaged: {type(error).__name__}): start again, a new one is made."
        ) from error


@contextmanager
def home() -> Iterator[None]:
    """Have FiftyOne and the processes that it starts meanwhile take our folder for the home folder.

    It writes a user's id and a note that it has greeted them below ``~/.fiftyone``.
    """
    before = os.environ.get("HOME")
    if _own is not None:
        os.environ["HOME"] = str(_own.folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("HOME", None)
        else:
            os.environ["HOME"] = before


def _open() -> Database:
    (STATE / "fiftyone").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=STATE / "fiftyone")).resolve()
    name = f"derm-t2im-{folder.name}"
    uri = os.environ.get("FIFTYONE_DATABASE_URI", "")
    try:
        database = _foreign(uri, name, folder) if uri else _start(find_mongod(), name, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    os.environ.update(_environment(database))
    return database


def _environment(database: Database) -> dict[str, str]:
    """FiftyOne's settings: our database, nothing under the home folder, no telemetry, no noise."""
    folder = database.folder
    return {
        "FIFTYONE_DATABASE_URI": database.uri,
        "FIFTYONE_DATABASE_NAME": database.name,
        "FIFTYONE_DATABASE_DIR": str(folder / "unused"),
        "FIFTYONE_DATABASE_VALIDATION": "false",  # says only that a newer MongoDB exists
        "FIFTYONE_CONFIG_PATH": str(folder / "config.json"),
        "FIFTYONE_APP_CONFIG_PATH": str(folder / "app_config.json"),
        "FIFTYONE_DEFAULT_DATASET_DIR": str(folder / "datasets"),
        "FIFTYONE_DATASET_ZOO_DIR": str(folder / "datasets"),
        "FIFTYONE_MODEL_ZOO_DIR": str(folder / "models"),
        "FIFTYONE_PLUGINS_DIR": str(folder / "plugins"),
        "FIFTYONE_DO_NOT_TRACK": "true",
        "FIFTYONE_LOGGING_LEVEL": "ERROR",
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
    }


def find_mongod() -> Path:
    """The mongod that FiftyOne brings along.

    Raises:
        UserError: if there is none.
    """
    spec = importlib.util.find_spec("fiftyone")  # finds the folder without importing the package
    for place in (spec.submodule_search_locations or []) if spec else []:
        for name in ("mongod", "mongod.exe"):
            program = Path(place) / "db" / "bin" / name
            if os.access(program, os.X_OK):
                return program
    raise UserError(
        "FiftyOne's database server (mongod) is not installed: run `make setup`, "
        "or set FIFTYONE_DATABASE_URI to a MongoDB server."
    )


def _start(mongod: Path, name: str, folder: Path) -> Database:
    data = folder / "db"
    data.mkdir()
    log = folder / "mongod.log"
    command = [
        str(mongod), "--dbpath", str(data), "--logpath", str(log), "--bind_ip", "127.0.0.1",
        "--port", "0",  # mongod takes a free one and logs it: no race with other runs
        "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25",
        # 4 MB instead of 300 MB on disk
        "--wiredTigerEngineConfigString", "log=(file_max=4MB,prealloc=false)",
        "--setParameter", "diagnosticDataCollectionEnabled=false",
    ]  # fmt: skip
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", _KEEPER, "keeper", *command],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "FOLDER": str(folder)},
        start_new_session=True,  # a Ctrl-C in the terminal is for us; we end it in order
    )
    try:
        port = _listening(log, folder / "ended")
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(keeper.pid, signal.SIGKILL)
        keeper.wait()
        raise
    return Database(f"mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS={_PATIENCE}", name, folder, keeper)


def _listening(log: Path, ended: Path) -> int:
    """The port on which mongod waits, from its log (a JSON object per line)."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        lines = list(_lines(log))
        for line in lines:
            if line.get("msg") == "Waiting for connections":
                return int(line["attr"]["port"])
        if ended.exists():
            raise UserError(f"FiftyOne's database server (mongod) does not start: {_complaint(lines)}")
        time.sleep(0.05)
    raise UserError(f"FiftyOne's database server (mongod) did not start within {_START_SECONDS} s.")


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    if log.is_file():
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def _complaint(lines: list[dict[str, Any]]) -> str:
    bad = [line for line in lines if line.get("s") in ("E", "F")]
    if not bad:
        return "it ended without a word; try `make setup` anew, or set FIFTYONE_DATABASE_URI to a MongoDB server."
    about = bad[0].get("attr", {})
    return " ".join(f"{bad[0].get('msg')} {about.get('error') or ''}".split())[:300]


def _foreign(uri: str, name: str, folder: Path) -> Database:
    """A database of ours on somebody's server."""
    import pymongo
    from pymongo.errors import PyMongoError

    host = urlsplit(uri).hostname or "?"  # the rest may hold a password
    try:
        client: pymongo.MongoClient[Any] = pymongo.MongoClient(uri, serverSelectionTimeoutMS=5000)
        with client:
            client.admin.command("ping")
    except PyMongoError as error:
        raise UserError(
            f"The MongoDB server of FIFTYONE_DATABASE_URI (host {host}) does not answer ({type(error).__name__}): "
            "start it, correct the variable, or unset it to use the server that FiftyOne brings along."
        ) from None
    return Database(uri, name, folder)


def _drop(uri: str, name: str) -> None:
    import pymongo
    from pymongo.errors import PyMongoError

    with contextlib.suppress(PyMongoError):
        client: pymongo.MongoClient[Any] = pymongo.MongoClient(uri, serverSelectionTimeoutMS=2000)
        with client:
            client.drop_database(name)
