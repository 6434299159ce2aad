"""The one exception that is meant for people."""

from __future__ import annotations

import errno


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
