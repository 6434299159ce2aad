"""The stages finetune and generate on random images and a base of random weights."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from derm_t2im import manifest, networks, paths, state
from derm_t2im.diffusion import base, dreambooth, lora, precompute, sample, watch
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import read_rgb, write_png
from derm_t2im.params.generate import Generate
from derm_t2im.stages import finetune, generate

ROOT = Path(__file__).parents[2]
SIZES = {"train": 8, "val": 6}


def project(root: Path, tiny_base: Path, **settings: object) -> Path:
    rows = []
    for split, n in SIZES.items():
        for i in range(n):
            label = "benign" if split == "val" and i > 1 else ("benign", "malignant")[i % 2]  # val: 5 and 1
            name = f"{split}-{i}"
            path = root / "data/processed/images" / f"{name}.png"
            pixels = np.random.default_rng(len(rows))
            write_png(path, pixels.integers(0, 256, (64, 64, 3), dtype=np.uint8))
            rows.append({"image_id": name, "path": f"data/processed/images/{name}.png", "kind": "real", "label": label,
                         "sha256": state.hash_file(path), "split": split, "seed_image": split == "train",
                         "group_id": name, "lesion_area": 0.05 + 0.03 * i, "lesion_count": 1, "tone": "tan",
                         "site": "back"})  # fmt: skip
    manifest.write(pd.DataFrame(rows), root / paths.SPLITS_MANIFEST)
    options = {"channels": [8, 12, 16, 24], "stem_width": 8}
    networks.save(networks.build("resnet10t", options, ("benign", "malignant"), 64, seed=1), root / paths.PROBE)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["finetune"] |= {"base": str(tiny_base), "steps": 4, "batch": 2, "checkpoint_every": 2, "warmup": 1,
                           "kid_samples": 0, "sample_every": 1, **settings}  # fmt: skip
    values["generate"] |= {"images": 4, "steps": 2, "samplers": ["euler"]}
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "GRID", (1, 2))
    monkeypatch.setattr(finetune, "WATCHED", 2)
    monkeypatch.setattr(finetune, "Generate", partial(Generate, steps=2))


@pytest.fixture
def begin(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Path, dict[str, bytes]]]:
    """Make a project, be in it, run finetune; its outputs by name."""

    def run(name: str, **settings: object) -> tuple[Path, dict[str, bytes]]:
        root = tmp_path / name
        if not root.is_dir():
            project(root, tiny_base, **settings)
        monkeypatch.chdir(root)
        finetune.run()
        return root, outputs(root)

    return run


def outputs(root: Path) -> dict[str, bytes]:
    files = [p for place in ("models/lora", "plots", "metrics") for p in sorted((root / place).rglob("*"))]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files if p.is_file()}


def test_a_killed_run_goes_on_to_the_same_weights_logs_and_grids(
    begin: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, whole = begin("whole")
    grids = [f"plots/finetune/images/samples/{step}.png" for step in (1, 2, 3, 4)]
    assert {name for name in whole if "images" in name} == set(grids)
    assert len({whole[name] for name in grids}) == 4, "each grid is of other weights"
    table = pd.read_csv(root / "plots/finetune/metrics/train_loss.tsv", sep="\t")
    assert list(table.columns) == ["step", "train_loss"] and list(table["step"]) == [1, 2, 3, 4]
    assert list(pd.read_csv(root / "plots/finetune/metrics/heldout_loss.tsv", sep="\t")["step"]) == [2, 4]
    draw = watch.Samples.__call__

    def killed(self: watch.Samples, step: int) -> None:
        draw(self, step)
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch.Samples, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        begin("parts")
    assert not outputs(root.parent / "parts"), "outputs are whole or absent"
    monkeypatch.setattr(watch.Samples, "__call__", draw)
    assert begin("parts")[1] == whole
    unwatched = begin("unwatched", sample_every=0, gradient_checkpointing=True)[1]
    assert unwatched == {name: data for name, data in whole.items() if "images" not in name}


def test_a_lora_for_each_class_and_each_draws_its_own(begin: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {"benign": "sks", "malignant": "zwx"}
    root, made = begin("own", per_class=True, token=tokens, caption=["size"], sample_every=2, lr=0.05)
    files = [f"models/lora/{label}/{lora.WEIGHTS}" for label in tokens]
    assert set(files) < made.keys() and made[files[0]] != made[files[1]]
    assert f"models/lora/{lora.WEIGHTS}" not in made
    assert "plots/finetune/images/samples/malignant/2.png" in made
    assert "plots/finetune/metrics/benign/heldout_loss.tsv" in made
    metrics = json.loads(made["metrics/finetune.json"])
    own = metrics["classes"]
    assert (own["benign"]["heldout_n"], own["malignant"]["heldout_n"], metrics["heldout_n"]) == (5, 1, 6)
    mean = (5 * own["benign"]["heldout_loss"] + own["malignant"]["heldout_loss"]) / 6
    assert metrics["heldout_loss"] == pytest.approx(mean, rel=1e-5)
    assert metrics["seed_images"] == 8

    monkeypatch.setattr(generate, "_measure", lambda files: pd.DataFrame([generate._measure_one(f) for f in files]))
    generate.run()
    rows = manifest.read(paths.SYNTHETIC_MANIFEST)
    for label, token in tokens.items():
        mine = rows[rows["label"] == label]
        assert all(p.endswith(f", {token}") and label not in p for p in mine["prompt"])
        pipe = base.load(yaml.safe_load((root / "params.yaml").read_text())["finetune"]["base"])
        lora.merge(pipe, paths.LORA / label, 1.0)
        assert np.array_equal(sample.draw(pipe, mine), np.stack([read_rgb(Path(p)) for p in mine["path"]]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"token": {"benign": "sks"}}, r"no token for the class 'malignant', only for benign: name every class"),
        ({"per_class": True}, r"the class 'malignant' has no held-out image; raise split\.val"),
    ],
)
def test_what_a_class_lacks_is_named(
    begin: Callable, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], said: str
) -> None:
    monkeypatch.setitem(SIZES, "val", 1)
    with pytest.raises(UserError, match=said):
        begin("gap", **settings)


def test_out_of_memory_while_sampling_names_what_to_lower(begin: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    begin("full", steps=1, sample_every=0)

    def full(*_: object) -> np.ndarray:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(sample, "stream", full)
    with pytest.raises(UserError, match=r"^out of memory: generate .* 32 images .*lower generate\.batch"):
        generate.run()


def test_a_training_without_dvclive_logs_nothing(begin: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dvclive", None)
    made = begin("alone", steps=1)[1]
    assert not [name for name in made if name.startswith("plots")] and f"models/lora/{lora.WEIGHTS}" in made


def test_where_dvclive_cannot_log_training_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    log = watch.Log(tmp_path / "log")  # a repository without a commit
    log.figures("", 1, {"train_loss": 0.5})
    log.close()
    assert "finetune: no log in plots/finetune: " in capsys.readouterr().err


def test_a_step_of_the_history_is_told_with_its_rate(tiny_base: Path, tmp_path: Path) -> None:
    from test_lora import CAPTIONS, IMAGES, Finetune

    pipe = base.load(str(tiny_base))
    cache = precompute.encode(pipe, IMAGES, CAPTIONS, flips=False)
    settings = Finetune(steps=3, batch=2, warmup=2, lr=0.01, checkpoint_every=3)
    told: list[list[tuple[int, dict[str, float]]]] = [[], []]
    for seen in told:  # the second time from the checkpoint alone
        dreambooth.train(base.load(str(tiny_base)), cache, cache, settings, tmp_path,
                         report=lambda step, figures, seen=seen: seen.append((step, figures)))  # fmt: skip
    assert told[0] == told[1]
    assert [(step, f["lr"]) for step, f in told[0] if "lr" in f] == [(1, 0.005), (2, 0.01), (3, 0.01)]
    assert load_file(tmp_path / "lora" / lora.WEIGHTS)
