"""What Git is asked for in more than one place."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from derm_t2im.errors import UserError


def commit_of(rev: str, root: Path = Path()) -> str:
    """The commit that ``rev`` names, as its full hash.

    Raises:
        UserError: if Git knows none.
    """
    done = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    commit = done.stdout.strip()
    if done.returncode or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        raise UserError(
            f"Git knows no revision {rev!r} here: fetch it first (`git fetch origin`; in a shallow clone "
            "`git fetch --unshallow`)."
        )
    return commit
