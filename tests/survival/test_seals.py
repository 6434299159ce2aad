"""Unfinished work is gone on from only as it was left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from derm_t2im import networks, state
from derm_t2im.classify import train as training


def test_only_what_is_as_it_was_sealed_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a" / "x.bin"
    assert not state.whole(tmp_path, file)
    file.parent.mkdir()
    file.write_bytes(b"12345")
    assert not state.whole(tmp_path, file) and not file.exists(), "killed before it was sealed"
    assert "is made again" in capsys.readouterr().err
    for damaged in (b"12346", b"123", b""):
        file.write_bytes(b"12345")
        state.seal(tmp_path, file)
        assert state.whole(tmp_path, file)
        file.write_bytes(damaged)
        assert not state.whole(tmp_path, file) and not file.exists()


def test_a_folder_that_lost_a_file_is_not_whole(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "seed-0"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / name).write_text(name)
    state.seal(tmp_path, folder)
    assert state.whole(tmp_path, folder)
    (folder / "b").unlink()
    assert not state.whole(tmp_path, folder) and not folder.exists()


def test_what_is_replaced_stays_sealed_until_it_is(tmp_path: Path) -> None:
    """Killed between the seal and the rename, the old one is still good; after it, the new one."""
    kept, coming = tmp_path / "checkpoint", tmp_path / "coming"
    kept.write_text("old")
    state.seal(tmp_path, kept)
    coming.write_text("new")
    state.seal(tmp_path, kept, coming)
    assert state.whole(tmp_path, kept)
    coming.replace(kept)
    assert state.whole(tmp_path, kept)


def test_rows_after_a_damaged_one_are_made_again(tmp_path: Path) -> None:
    journal = tmp_path / "rows.jsonl"
    lines = [state.sealed_line({"n": n}) for n in range(4)]
    journal.write_text("".join(lines[:2]) + lines[2].replace("2", "3") + lines[3])
    assert list(state.sealed_rows(journal)) == [{"n": 0}, {"n": 1}]
    journal.write_text("".join(lines)[:-5])
    assert [row["n"] for row in state.sealed_rows(journal)] == [0, 1, 2]


def test_nothing_half_written_moves_into_place(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "x.png").write_text("x")
    (made / ".y.png.partial").write_text("half")
    (tmp_path / ".out.old").mkdir()
    state.move_into_place(made, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["out", "x.png"]


@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_training_from_a_damaged_checkpoint_begins_anew_to_the_same_weights(tmp_path: Path, harm: str) -> None:
    chance = np.random.default_rng(0)
    shown = training.Images.of(chance.integers(0, 255, (16, 32, 32, 3), dtype=np.uint8), np.arange(16) % 2)
    how = training.Settings(steps=6, batch=4, lr=1e-3, weight_decay=0.0, evaluate_every=2)

    def weights(work: Path | None, stop: bool = False) -> dict[str, np.ndarray]:
        network = networks.build("test_vit", {}, ("a", "b"), 32, "", 1)

        def report(point: dict[str, float]) -> None:
            if stop and point["step"] >= 4:
                raise KeyboardInterrupt

        training.fit(network, shown, how, 1, shown, work, report)
        return {name: value.numpy().copy() for name, value in network.module.state_dict().items()}

    expected = weights(None)
    with pytest.raises(KeyboardInterrupt):
        weights(tmp_path, stop=True)
    file = tmp_path / training.CHECKPOINT
    data = bytearray(file.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    file.write_bytes(data if harm == "flip" else data[: len(data) // 2])
    found = weights(tmp_path)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
