"""The one exception that is meant for people."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can put right; the CLI prints its message as one line and exits 1.

    Say what is wrong, where, and what to do or which values are allowed.
    """


def no_room(error: OSError, target: object = None) -> UserError | None:
    """What to tell a user whose disk takes no more; None for any other error.

    ``target`` is where it was written, if the error does not say.
    """
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return None
    where = target or error.filename or "."
    return UserError(f"cannot write below {where}: {error.strerror}; make room and start again.")


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


def _is_out_of_memory(error: Exception) -> bool:
    """torch.OutOfMemoryError is a RuntimeError; on the CPU torch raises a plain one, and numpy a MemoryError."""
    said = str(error).lower()
    words = ("out of memory", "not enough memory", "allocate memory", "alloc_failed")
    return isinstance(error, MemoryError) or any(word in said for word in words)
