"""Progress on stderr: a bar on a terminal, plain lines elsewhere (a CI log, a file)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")


def say(message: str) -> None:
    """One line for the user, on stderr; of several processes that do one stage, the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr, flush=True)


def track(items: Iterable[T], what: str, total: int | None = None, every: float = 15.0) -> Iterator[T]:
    """Yield from ``items`` and show how far the work is.

    Args:
        items: What to iterate over.
        what: What is being done, e.g. ``"preprocess"``.
        total: Number of items, where ``items`` has no length.
        every: Seconds between two lines where stderr is no terminal.
    """
    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(items, description=what, total=total, console=Console(stderr=True))
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= every:
            last = now
            say(f"{what}: {done}{f'/{total}' if total else ''} in {now - start:.0f} s")
