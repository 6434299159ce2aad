"""The same work on many images: in order, on all cores, in memory that does not grow with their number."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from derm_t2im import runtime
from derm_t2im.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 16  # items per message to a worker
WORTHWHILE = 96  # fewer items are done here: starting workers takes longer


def each(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order.

    Args:
        function: A function of a module (or a ``functools.partial`` of one).
        items: What to work on; small things such as paths.

    Raises:
        UserError: if a worker was killed, most likely for want of memory.
        Exception: whatever ``function`` raises.
    """
    count = min(runtime.workers(), -(-len(items) // CHUNK))
    if count <= 1 or len(items) < WORTHWHILE:
        _one_thread()
        for item in items:
            yield function(item)
        return
    # spawn: a fork of a process that has started threads may hang
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        waiting: deque[Future[list[Result]]] = deque()
        try:
            for start in range(0, len(items), CHUNK):
                waiting.append(pool.submit(_chunk, function, items[start : start + CHUNK]))
                if len(waiting) > 3 * count:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, most likely because memory ran out: "
                "set DERM_T2IM_WORKERS to fewer processes, or lower preprocess.max_pixels."
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def _chunk(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)  # the processes share the cores already
