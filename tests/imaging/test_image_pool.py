"""Work on many images keeps its order, its errors and its workers in hand."""

from __future__ import annotations

import os
import signal

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
