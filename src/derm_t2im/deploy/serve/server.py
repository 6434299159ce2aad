"""The process around the application: where it listens, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import socket
from types import FrameType

import uvicorn

from derm_t2im.deploy.serve.app import Service, create
from derm_t2im.errors import UserError
from derm_t2im.progress import say

POLL = 0.05  # seconds


class Server(uvicorn.Server):
    """On a signal: new requests are told 503 while those under way finish, then the process ends with 0.

    uvicorn alone would close the door at once: who asks then sees a refused connection. A second signal ends it now.
    """

    def __init__(self, service: Service, host: str, port: int) -> None:
        """Nothing listens yet."""
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # a broken form is told to its client
        super().__init__(
            uvicorn.Config(
                create(service), host=host, port=port, log_level="warning", access_log=False, lifespan="on",
                timeout_graceful_shutdown=max(1, round(service.limits.stop_seconds)), backlog=1024,
                server_header=False, date_header=False,
            )
        )  # fmt: skip
        self.service = service
        self._stopping: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called on SIGTERM and SIGINT."""
        if self.service.stopping:
            self.should_exit = self.force_exit = True
            return
        self.service.stopping = True
        if n := self.service.active:
            say(f"stopping: {_many(n, 'request')} under way will be finished first; another signal stops at once.")
        loop = asyncio.get_running_loop()
        self._stopping = loop.create_task(self._drain())

    async def _drain(self) -> None:
        end = asyncio.get_running_loop().time() + self.service.limits.stop_seconds
        while self.service.active and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(POLL)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close, and say what was done."""
        done = self.service
        cut = f" ({done.active} cut off)" if done.active else ""
        if cut:  # the last line says it; uvicorn would show where each one stood
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)
        say(f"stopped: {_many(done.answered, 'request')} answered{cut}, {_many(done.predicted, 'image')} predicted.")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            say(f"serving on http://{host}:{port}")


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _give_memory_back() -> None:
    """Keep glibc from keeping the memory of large images: after a few of 40 million pixels it holds a gigabyte."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such call
        ctypes.CDLL(None).mallopt(-3, 4 << 20)  # M_MMAP_THRESHOLD


def run(service: Service, host: str, port: int) -> None:
    """Serve until a signal.

    Raises:
        UserError: if the address cannot be listened on.
    """
    _give_memory_back()
    server = Server(service, host, port)
    try:
        server.run()
    except SystemExit:  # uvicorn's way to say that it could not bind; its log has said why
        raise UserError(f"cannot listen on {host}:{port}: choose another --port, or another --host.") from None
    if not server.started:
        raise UserError(f"cannot listen on {host}:{port}: choose another --port, or another --host.")
