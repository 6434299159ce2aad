"""The same work on many images: in order, on all cores, in memory that does not grow with their number."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from typing import TypeVar

from derm_t2im import runtime
from derm_t2im.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 16  # items per message to a worker
WORTHWHILE = 96  # fewer items are done here: starting workers takes longer


def each(function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order.

    Args:
        function: A function of a module (or a ``functools.partial`` of one).
        items: What to work on; small things such as paths.
        workers: Processes; default: ``DERM_T2IM_WORKERS``, else the cores of this machine.

    Raises:
        UserError: if a worker was killed, most likely for want of memory.
        Exception: whatever ``function`` raises.
    """
    count = workers or runtime.workers()
    rest = iter(items)
    first = list(islice(rest, WORTHWHILE))
    if count <= 1 or len(first) < WORTHWHILE:
        _one_thread()
        for item in chain(first, rest):
            yield function(item)
        return
    queue = chain(first, rest)
    # spawn: a fork of a process that has started threads may hang
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_start) as pool:
        waiting: deque[Future[list[Result]]] = deque()
        try:
            while chunk := list(islice(queue, CHUNK)):
                waiting.append(pool.submit(_chunk, function, chunk))
                if len(waiting) > 3 * count:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, most likely because memory ran out: "
                "set DERM_T2IM_WORKERS to fewer processes, or lower preprocess.max_pixels (or --max-pixels)."
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def _chunk(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a group; who started us tells of it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _one_thread()


def _end_with_parent() -> None:
    """A worker whose parent was killed waits for work forever, and keeps its memory."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)  # the processes share the cores already
