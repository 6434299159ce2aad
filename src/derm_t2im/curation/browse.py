"""Serve the FiftyOne App on a curated set until somebody is done looking."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from derm_t2im import manifest, paths
from derm_t2im.curation import context, database, review, room, sessions
from derm_t2im.errors import UserError

DEFAULT_PORT = 5151
_DATASET = "curated"
_ATTEMPTS = 3
_PLUGIN = Path(__file__).parent / "plugin"
_UNANSWERED = 10
_REFUSED = 2
LOOK_SECONDS = 2.0  # between looks at the tags: what a crash of the database can cost


@dataclass
class Room:
    """An open App.

    Attributes:
        url: Its address.
        images: How many it shows.
        note: What it cannot show; may be empty.
        about: The note that it left for others, see :mod:`derm_t2im.curation.sessions`.
        tagged: The tags as last seen.
    """

    url: str
    images: int
    note: str
    about: dict[str, str]
    tagged: list[sessions.Tagged]


@contextmanager
def free_port(address: str, wanted: int | None) -> Iterator[int]:
    """The port to serve on, kept from our other runs: ``wanted`` if given, else 5151 or the next free one.

    FiftyOne would take a server that answers on its port for its own, and show another run's data.

    Raises:
        UserError: if ``wanted`` is taken, none of twenty is free, or the address is not this machine's.
    """
    for port in [wanted] if wanted is not None else range(DEFAULT_PORT, DEFAULT_PORT + 20):
        try:
            family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
            lock = _claim(port)
        except socket.gaierror:
            raise UserError(f"--address {address}: no such address.") from None
        except OSError as error:
            if error.errno == 99:  # EADDRNOTAVAIL
                raise UserError(f"--address {address} is not an address of this machine.") from None
            continue
        with lock:
            yield port
        return
    if wanted is not None:
        raise UserError(f"Port {wanted} is taken: choose another with --port, or leave --port out.")
    raise UserError(f"No port from {DEFAULT_PORT} to {DEFAULT_PORT + 19} is free: choose one with --port.")


def _claim(port: int) -> Any:
    """An open, locked file that stands for a port of this machine; the lock goes with the process.

    Raises:
        OSError: if another run has it.
    """
    file = (Path(tempfile.gettempdir()) / f"derm-t2im-{os.getuid()}-port-{port}.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


@contextmanager
def serve(
    root: Path, port: int | None = None, address: str = "127.0.0.1", rev: str = "HEAD", reviewer: str = ""
) -> Iterator[Room]:
    """Open the App on the curated set below ``root``; closed, and its database removed, on leaving.

    Args:
        root: The project, or the checkout of another revision of it.
        port: Of the App; None takes a free one.
        address: Of the App.
        rev: The revision that ``root`` is of; sets of earlier commits are looked for from there.
        reviewer: Whose the decisions are that are made in it.

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
    note, known = "", None
    try:
        known = context.earlier(synthetic, Path(), rev)
    except LookupError as why:
        note = f"No view `new since the previous commit`: {why}."
    said, unsaid = context.opinions(synthetic, paths.OPINIONS)
    note = " ".join(f"{one}." for one in (note.removesuffix("."), unsaid) if one)
    decided = review.read(Path(paths.REVIEW_DECISIONS))
    about = room.Context(context.nearest_real(synthetic, real, root), decided, known, said)
    with ExitStack() as stack:
        port = stack.enter_context(free_port(address, port))
        fo = database.fiftyone()
        # The folder that FIFTYONE_PLUGINS_DIR names: it is this run's and goes with it.
        shutil.copytree(_PLUGIN, database.connect().folder / "plugins" / "derm_t2im", dirs_exist_ok=True)
        dataset = room.build(synthetic, real, root, _DATASET, about)
        session = _launch(fo, dataset, port, address)
        stack.callback(session.close)  # and with it the App's server, which asks our database to the last
        stack.callback(sessions.withdraw)
        host = f"[{address}]" if ":" in address else address
        url = f"http://{'127.0.0.1' if address == '0.0.0.0' else host}:{port}/"
        yield Room(url, len(synthetic) + len(real), note, sessions.announce(dataset.name, reviewer), [])


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


def wait(opened: Room) -> str:
    """Until Ctrl-C, a polite kill or the terminal's end (nothing), or a server's end: what ended.

    Keeps the tags in sight, and a copy of them in a file.
    """
    done = threading.Event()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # which is nohup's wish
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: done.set()) for number in numbers}
    unanswered = refused = 0
    try:
        while True:
            ended = done.wait(LOOK_SECONDS)
            try:
                now, unanswered = sessions.tags(opened.about), 0
                if now != opened.tagged:
                    opened.tagged = now
                    with contextlib.suppress(OSError):  # a full disk: they are still written at the end, or not at all
                        sessions.keep(now, opened.about["reviewer"])
            except LookupError:
                unanswered += 1  # a busy machine, or a server of somebody else that starts anew
                if ended or database.connect().ended or unanswered == _UNANSWERED:
                    return "database"
            if ended:
                return ""
            refused = refused + 1 if _refuses(opened.url) else 0
            if refused == _REFUSED:
                return "server"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuses(url: str) -> bool:
    """Whether nobody listens at an address; one who is slow to answer does."""
    at = urlsplit(url)
    try:
        with socket.create_connection((at.hostname or "", at.port or DEFAULT_PORT), timeout=LOOK_SECONDS):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
