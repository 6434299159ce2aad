"""Stage `generate` on a small project: interrupted, and resumed with another batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from derm_t2im import manifest, paths, state
from derm_t2im.diffusion import base, lora, png
from derm_t2im.errors import UserError
from derm_t2im.params.finetune import Finetune
from derm_t2im.stages import generate
from tests.stages import small_world


def test_an_interrupted_run_goes_on_with_another_batch_to_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small_world.build(tmp_path)
    shutil.copytree(small_world.REPOSITORY / "models" / "base" / "mini", tmp_path / "models" / "base" / "mini")
    tuned = base.load("models/base/mini")
    lora.attach(tuned, Finetune(rank=2))
    lora.save(tuned, paths.LORA, Finetune(rank=2), 1)
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


def test_a_lora_of_ones_own_takes_the_place_of_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_world.build(tmp_path)
    shutil.copytree(small_world.REPOSITORY / "models" / "base" / "mini", tmp_path / "models" / "base" / "mini")
    for folder, seed in ((paths.LORA, 0), (Path("mine"), 1)):
        torch.manual_seed(seed)
        tuned = base.load("models/base/mini")
        for weight in lora.attach(tuned, Finetune(rank=2)):
            torch.nn.init.normal_(weight, std=0.1)
        lora.save(tuned, folder, Finetune(rank=2), 1)
    few = {"images": 2, "steps": 2, "samplers": ["euler"], "noise_mean": "zero"}
    drawn = {}
    for name in ("", "mine/derm-t2im.safetensors", "mine"):
        small_world.set_parameter(tmp_path, "generate", **few, lora=name)
        generate.run()
        drawn[name] = manifest.read(paths.SYNTHETIC_MANIFEST)
    other, file, folder = drawn.values()
    looks = [list(table["sharpness"]) for table in (file, folder, other)]
    assert looks[0] == looks[1] != looks[2]
    assert set(file["lora_sha256"]) == {state.hash_file(Path("mine/derm-t2im.safetensors"))}
    small_world.set_parameter(tmp_path, "generate", **few, lora="gone.safetensors")
    with pytest.raises(UserError, match=r"generate\.lora: 'gone\.safetensors' does not exist"):
        generate.run()


def test_images_made_elsewhere_take_the_place_of_drawn_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small_world.build(tmp_path)
    shutil.copytree(small_world.REPOSITORY / "models" / "base" / "mini", tmp_path / "models" / "base" / "mini")
    rng = np.random.default_rng(0)
    theirs = tmp_path / "theirs"
    for label in ("Benign", "malignant"):
        (theirs / label).mkdir(parents=True)
        for i in range(8):
            said = f"a {label} lesion\nNegative prompt: hair\nSteps: 30, Sampler: Euler a, CFG scale: 7.5, Seed: {i}"
            pixels = rng.integers(0, 256, (96, 80, 3), dtype=np.uint8)
            png.write(theirs / label / f"{i}.png", pixels, said if i else "no settings")
    (theirs / "malignant" / "broken.png").write_bytes(b"no image")
    few = {"images_from": "theirs", "max_quarantined": 0.2}
    small_world.set_parameter(tmp_path, "generate", **few)
    generate.run()
    made = manifest.read(paths.SYNTHETIC_MANIFEST).set_index("image_id")
    assert len(made) == 16 and set(made["label"]) == {"benign", "malignant"} and set(made["kind"]) == {"synthetic"}
    row = made.loc["Benign_3"]
    assert (row["prompt"], row["negative_prompt"], row["sampler"]) == ("a Benign lesion", "hair", "Euler a")
    assert (row["steps"], row["guidance"], row["seed"]) == (30, 7.5, 3)
    assert made.loc["Benign_0", "sampler"] == "unknown" and pd.isna(made.loc["Benign_0", "steps"])
    assert (row["width"], row["height"]) == (64, 64) and Path(row["path"]).is_file()
    told = json.loads(paths.GENERATE_METRICS.read_text())
    assert told["quarantined"] == {"unreadable": 1} and told["images"] == 16 and "Euler a" in told["samplers"]
    assert "1 of 17 images cannot be used" in capsys.readouterr().err

    small_world.set_parameter(tmp_path, "generate", **few | {"max_quarantined": 0.0})
    with pytest.raises(UserError, match=r"generate\.max_quarantined = 0 allows.*broken"):
        generate.run()
    (theirs / "nevus").mkdir()
    png.write(theirs / "nevus" / "a.png", pixels, "")
    with pytest.raises(UserError, match=r"no classes \(nevus\); the real images' are benign, malignant"):
        generate.run()
