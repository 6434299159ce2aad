"""Stage `generate` on a small project: interrupted, and resumed with another batch."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from derm_t2im import paths
from derm_t2im.diffusion import png
from derm_t2im.stages import generate
from tests.stages import small_world


def test_an_interrupted_run_goes_on_with_another_batch_to_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small_world.build(tmp_path)
    shutil.copytree(small_world.REPOSITORY / "models" / "base" / "mini", tmp_path / "models" / "base" / "mini")
    (tmp_path / paths.LORA).mkdir(parents=True)
    few = {"images": 21, "steps": 2, "samplers": ["euler_a", "plms"], "noise_mean": "zero"}

    def outcome(threads: int, batch: int) -> dict[str, bytes]:
        monkeypatch.setenv("DERM_T2IM_THREADS", str(threads))
        small_world.set_parameter(tmp_path, "generate", **few, batch=batch)
        generate.run()
        made = {str(file): file.read_bytes() for file in sorted(paths.SYNTHETIC.rglob("*")) if file.is_file()}
        return made | {"metrics": paths.GENERATE_METRICS.read_bytes()}

    whole = outcome(2, 64)
    assert len(whole) == 21 + 2
    written, write = [], png.write

    def until_killed(path: Path, *rest: object) -> None:
        if len(written) == 9:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, *rest)

    monkeypatch.setattr(png, "write", until_killed)
    with pytest.raises(KeyboardInterrupt):
        outcome(1, 8)
    again: list[str] = []
    monkeypatch.setattr(png, "write", lambda path, *rest: (again.append(path.name), write(path, *rest)))
    assert outcome(2, 1) == whole
    assert sorted(again + written) == sorted(Path(name).name for name in whole if name.endswith(".png"))
