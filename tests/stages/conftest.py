"""What the tests of the stages share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def world(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the module's ``finished`` small world, to spoil; it is the current folder."""
    root = tmp_path / "world"
    shutil.copytree(finished, root)
    monkeypatch.chdir(root)
    return root
