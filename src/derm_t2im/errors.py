"""The one exception that is meant for people."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_FILES = (errno.EMFILE, errno.ENFILE)
_MEMORY = (errno.ENOMEM, errno.EAGAIN)  # EAGAIN: no process or thread can be started
# Libraries say it in words: torch, OpenCV, Pillow's decoders, the dynamic loader, threading.
_MEMORY_WORDS = (
    "out of memory", "not enough memory", "allocate memory", "alloc_failed", "bad alloc", "bad_alloc",
    "insufficient memory", "outofmemoryerror", "start new thread", "failed to map segment",
    "could not create a primitive",
)  # fmt: skip
_ROOM = 64 << 20  # bytes
_FULL_WORDS = ("no space left on device", "disk quota exceeded", "file write failed", "unexpected pos")


class UserError(Exception):
    """Something the user can put right; the CLI prints its message as one line and exits 1.

    Say what is wrong, where, and what to do or which values are allowed.
    """


def no_room(error: OSError, target: object = None) -> UserError | None:
    """What to tell a user whose disk takes no more; None for any other error.

    ``target`` is where it was written, if the error does not say.
    """
    if error.errno not in _FULL:
        return None
    where = target or error.filename or "."
    return UserError(f"cannot write below {where}: {error.strerror}; make room and start again.")


def exhausted(error: BaseException) -> UserError | None:
    """What to tell a user whose machine ran out of room, memory or open files; None for any other error.

    What an error was raised from counts too: libraries wrap it. Nothing about an input follows from such an error.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and (told := no_room(seen)):
            return told
        if isinstance(seen, OSError) and seen.errno in _FILES:
            return UserError(f"too many open files ({seen.strerror}): raise `ulimit -n` and start again.")
        if _is_out_of_memory(seen):
            return UserError(
                "out of memory: end what else uses it, or set DERM_T2IM_WORKERS to fewer processes, and start again; "
                "what was finished is kept."
            )
        said = str(seen).lower()
        if not isinstance(seen, UserError) and any(word in said for word in _FULL_WORDS):
            return UserError("a file could not be written, most likely the disk is full: make room and start again.")
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None


def no_memory() -> UserError | None:
    """What to tell a user where memory is so short that an error may have come of it; None where there is enough."""
    try:
        bytearray(_ROOM)  # zeros from the system: nothing is touched
    except MemoryError as error:
        return exhausted(error)
    return None


@contextmanager
def enough_memory(advice: Callable[[], str]) -> Iterator[None]:
    """Within this, memory that runs out (of the GPU or of the machine) becomes the one line of ``advice``.

    ``advice`` is asked only then: it may look at what was saved.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise UserError(f"out of memory: {advice()}") from error


def _is_out_of_memory(error: BaseException) -> bool:
    """torch.OutOfMemoryError is a RuntimeError; on the CPU torch raises a plain one, and numpy a MemoryError."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _MEMORY):
        return True
    said = f"{type(error).__name__} {error}".lower()
    return not isinstance(error, UserError) and any(word in said for word in _MEMORY_WORDS)
