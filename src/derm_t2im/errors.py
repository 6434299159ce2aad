"""The one exception that is meant for people."""


class UserError(Exception):
    """Something the user can put right; the CLI prints its message as one line and exits 1.

    Say what is wrong, where, and what to do or which values are allowed.
    """
