"""Work on many images keeps its order, its errors and its workers in hand."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from derm_t2im.errors import UserError
from derm_t2im.imaging import pool


def double(x: int) -> int:
    if x < 0:
        raise ValueError("negative")
    return 2 * x


def die(x: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return x


def test_order_is_kept_with_and_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    items = list(range(pool.WORTHWHILE + 37))
    for workers in ("1", "2"):
        monkeypatch.setenv("DERM_T2IM_WORKERS", workers)
        assert list(pool.each(double, items)) == [2 * x for x in items]
    assert list(pool.each(double, [])) == []


def test_an_error_in_a_worker_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DERM_T2IM_WORKERS", "2")
    with pytest.raises(ValueError, match="negative"):
        list(pool.each(double, [*range(pool.WORTHWHILE), -1]))


def test_a_killed_worker_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DERM_T2IM_WORKERS", "2")
    with pytest.raises(UserError, match="DERM_T2IM_WORKERS"):
        list(pool.each(die, list(range(pool.WORTHWHILE))))


def wait(x: int) -> int:
    time.sleep(60)
    return x


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the processes from /proc")
def test_workers_end_with_a_parent_that_is_killed() -> None:
    code = (
        "from derm_t2im.imaging import pool\nfrom tests.imaging.test_image_pool import wait\n"
        "if __name__ == '__main__':\n    list(pool.each(wait, range(pool.WORTHWHILE), workers=2))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as parent:
        group = parent.pid
        deadline = time.monotonic() + 60
        while len(members(group)) < 4 and time.monotonic() < deadline:  # it, its tracker and two workers
            time.sleep(0.1)
        assert len(members(group)) >= 4
        time.sleep(2)  # workers have started
        parent.kill()
    while members(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not members(group)


def members(group: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, number = stat.read_text().rsplit(")", 1)[1].split()[:3]
            if int(number) == group and state != "Z":
                found.append(int(stat.parent.name))
    return found
