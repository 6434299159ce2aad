import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from derm_t2im import seeds, state
from derm_t2im.params.split import Split


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_fingerprint_follows_the_values() -> None:
    a, b = Split(), Split(train=9, seed_images=2)
    assert state.fingerprint(a, Path("x")) == state.fingerprint(Split(), Path("x"))
    assert len({state.fingerprint(a), state.fingerprint(b), state.fingerprint(a, 1)}) == 3
    with pytest.raises(TypeError):
        state.fingerprint(object())


def test_work_of_other_inputs_is_removed() -> None:
    old = state.work_folder("train", "1")
    (old / "x").write_text("x")
    assert (state.work_folder("train", "1") / "x").is_file()
    new = state.work_folder("train", "2")
    assert new.is_dir() and not old.exists()


def test_a_folder_takes_the_place_of_another_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "fresh").write_text("new")
    state.move_into_place(tmp_path / "new", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["fresh"]


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "m.json"
    target.write_text("old")
    code = f"""
from pathlib import Path
from derm_t2im import state
import os
os.fsync = lambda fd: os.kill(os.getpid(), {int(signal.SIGKILL)})
state.write_atomic(Path({str(target)!r}), b"new")
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        state.write_atomic(tmp_path / "m.json", "new")
    assert list(tmp_path.iterdir()) == []


def test_metrics_are_stable_json(tmp_path: Path) -> None:
    state.write_json(tmp_path / "m.json", {"b": np.float32(1 / 3), "a": float("nan"), "c": [np.int64(2), (1.0, None)]})
    text = (tmp_path / "m.json").read_text()
    assert json.loads(text) == {"a": None, "b": 0.333333, "c": [2, [1.0, None]]}
    assert text.index('"a"') < text.index('"b"')


def test_a_tree_hash_sees_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1").write_text("x")
    first = state.hash_tree(folder)
    (folder / "a" / "1").rename(folder / "a" / "2")
    second = state.hash_tree(folder)
    (folder / "a" / "2").write_text("y")
    assert len({first, second, state.hash_tree(folder)}) == 3


def test_seeds_belong_to_names() -> None:
    assert seeds.derive(0, "a") == 4568926294099585635  # of every machine and every run
    assert len({seeds.derive(0, "a"), seeds.derive(0, "b"), seeds.derive(1, "a"), seeds.derive("0", "a")}) == 4
    assert 0 <= seeds.derive("x") < 2**63
