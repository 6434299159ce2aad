"""Serve the FiftyOne App on a curated set until somebody is done looking."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from derm_t2im import manifest, paths
from derm_t2im.curation import database, review, room
from derm_t2im.errors import UserError
from derm_t2im.state import write_atomic

DEFAULT_PORT = 5151
SESSION = "session.json"  # lies in the run's folder below .state/fiftyone/ while the App is open
_DATASET = "curated"
_ATTEMPTS = 3


@dataclass(frozen=True)
class Room:
    """An open App: its address, and the dataset behind it."""

    url: str
    dataset: Any


def free_port(address: str, wanted: int | None) -> int:
    """The port to serve on: ``wanted`` if given, else 5151 or the next free one.

    Raises:
        UserError: if ``wanted`` is taken, none of twenty is free, or the address is not this machine's.
    """
    for port in [wanted] if wanted is not None else range(DEFAULT_PORT, DEFAULT_PORT + 20):
        try:
            family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
        except socket.gaierror:
            raise UserError(f"--address {address}: no such address.") from None
        except OSError as error:
            if error.errno == 99:  # EADDRNOTAVAIL
                raise UserError(f"--address {address} is not an address of this machine.") from None
            continue
        return port
    if wanted is not None:
        raise UserError(f"Port {wanted} is taken: choose another with --port, or leave --port out.")
    raise UserError(f"No port from {DEFAULT_PORT} to {DEFAULT_PORT + 19} is free: choose one with --port.")


@contextmanager
def serve(root: Path, port: int | None = None, address: str = "127.0.0.1") -> Iterator[Room]:
    """Open the App on the curated set below ``root``; closed, and its database removed, on leaving.

    Raises:
        UserError: if there is no curated set, an image of it is missing, the port is taken, or
            FiftyOne's database cannot be had.
    """
    synthetic = manifest.read(root / paths.CURATED_MANIFEST)
    real = manifest.read(root / paths.CURATED_REAL)
    for table in (synthetic, real):
        absent = [path for path in table["path"] if not (root / path).is_file()]
        if absent:
            raise UserError(f"{len(absent)} images are missing (first: {absent[0]}): run `dvc checkout` or `dvc pull`.")
    port = free_port(address, port)
    fo = database.fiftyone()
    dataset = room.build(synthetic, real, root, _DATASET)
    session = None
    try:
        session = _launch(fo, dataset, port, address)
        _announce(dataset.name)
        host = f"[{address}]" if ":" in address else address
        yield Room(f"http://{'127.0.0.1' if address == '0.0.0.0' else host}:{port}/", dataset)
    finally:
        if session is not None:
            session.close()  # and with it the App's server, which asks our database to the last
        with contextlib.suppress(Exception):
            dataset.delete()
        (database.connect().folder / SESSION).unlink(missing_ok=True)


def _launch(fo: Any, dataset: Any, port: int, address: str) -> Any:
    """The App's session. FiftyOne gives its server a minute to start; a busy machine may need a second one."""
    from fiftyone.core.service import ServiceListenTimeout

    spaces = room.workspace(fo) if dataset.has_brain_run(room.BRAIN_KEY) else None
    for _ in range(_ATTEMPTS):
        # What it prints is a welcome, and advice for other set-ups.
        with (
            database.home(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.suppress(ServiceListenTimeout),
        ):
            return fo.launch_app(dataset, port=port, address=address, remote=True, auto=False, spaces=spaces)
    raise UserError(
        f"The App's server did not start on port {port} within {_ATTEMPTS} minutes: try again when this machine is "
        "less busy, or another --port."
    )


def _announce(dataset: str) -> None:
    own = database.connect()
    write_atomic(own.folder / SESSION, json.dumps({"uri": own.uri, "database": own.name, "dataset": dataset}))


def wait() -> None:
    """Until Ctrl-C or a polite kill."""
    done = threading.Event()
    before = {number: signal.signal(number, lambda *_: done.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not done.wait(1.0):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def take_decisions(dataset: Any, reviewer: str, table: Path) -> tuple[int, list[str]]:
    """Write the tags of an open dataset to the table of decisions.

    Returns:
        How many decisions are new or changed, and the images tagged both ways, which are left out.
    """
    today = datetime.now(UTC).date().isoformat()
    found, both = room.decisions(room.tags(dataset), reviewer, today)
    return (review.add(table, found) if found else 0), both
