"""What only a GPU does: recorded steps, half precision, batches of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from derm_t2im.diffusion import base, dreambooth, lora, precompute, pretrain, sample
from derm_t2im.diffusion.training_run import History
from derm_t2im.params.finetune import Finetune
from derm_t2im.params.generate import Generate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
CAPTIONS = [f"a dermoscopic image of a {label} lesion, sks" for label in ("benign", "malignant")] * 3


def run(folder: Path, work: Path, **settings: object) -> tuple[History, dict[str, torch.Tensor]]:
    pipe = base.load(str(folder), device="cuda")
    chosen = Finetune(batch=4, warmup=2, **settings)  # type: ignore[arg-type]
    cache = precompute.encode(pipe, IMAGES, CAPTIONS, flips=True)
    heldout = precompute.encode(pipe, IMAGES[:2], CAPTIONS[:2], flips=False)
    before = precompute.prior(pipe, chosen, ["benign", "malignant"]) if chosen.prior_weight else None
    work.mkdir(exist_ok=True)
    shown = []

    def show(step: int) -> None:
        rows = sample.plan(Generate(images=1, steps=2), pd.DataFrame({"label": ["benign"]}), ["benign"], "sks")
        shown.append(sample.draw(pipe, rows))

    history = dreambooth.train(pipe, cache, heldout, chosen, work, show=show, before=before)
    assert len(shown) == (chosen.steps // chosen.sample_every if chosen.sample_every else 0)
    assert all(weight.dtype == torch.float32 for weight in pipe.unet.parameters())
    name = lora.WHOLE if chosen.method == "full" else lora.WEIGHTS
    return history, load_file(work / "lora" / name)


EVERYTHING = {"accumulate": 2, "ema": 0.9, "prior_weight": 0.5, "prior_images": 2, "sample_every": 3, "steps": 6,
              "checkpoint_every": 3}  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 8},
        {"steps": 8, "precision": "bf16"},
        {"steps": 8, "precision": "fp16"},
        {**EVERYTHING, "precision": "bf16"},
        {"steps": 4, "precision": "bf16", "dora": True},
        {"steps": 4, "precision": "bf16", "method": "full", "lr": 1e-4},
    ],
    ids=str,
)
def test_a_recorded_step_learns_what_a_plain_one_does(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    recorded, weights = run(tiny_base, tmp_path / "recorded", **settings)
    monkeypatch.setenv("DERM_T2IM_GRAPHS", "off")
    plain, expected = run(tiny_base, tmp_path / "plain", **settings)
    # In "fp32" cuDNN's convolutions are TF32, and they add up in an order of their own.
    close = 1e-3
    assert [loss for _, loss in recorded.train] == pytest.approx([loss for _, loss in plain.train], rel=10 * close)
    assert dict(recorded.heldout) == pytest.approx(dict(plain.heldout), rel=10 * close)
    for name, value in expected.items():
        assert (weights[name] - value).norm() <= 30 * close * value.norm().clamp(min=1e-3), name


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"text_encoder_rank": 2}], ids=str)
def test_what_cannot_be_recorded_is_trained_all_the_same(
    tiny_base: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    history, _ = run(tiny_base, tmp_path / "w", steps=3, precision="bf16", **settings)
    assert len(history.train) == 3


def test_a_killed_run_goes_on(tiny_base: Path, tmp_path: Path) -> None:
    _, whole = run(tiny_base, tmp_path / "whole", steps=4, checkpoint_every=2, precision="fp16")
    run(tiny_base, tmp_path / "parts", steps=2, checkpoint_every=2, precision="fp16")
    _, resumed = run(tiny_base, tmp_path / "parts", steps=4, checkpoint_every=2, precision="fp16")
    for name, value in whole.items():
        assert (resumed[name] - value).norm() <= 1e-2 * value.norm().clamp(min=1e-3), name


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_an_image_hardly_depends_on_its_batch(tiny_base: Path, precision: str) -> None:
    pipe = sample.prepare(base.load(str(tiny_base), precision, "cuda"))
    rows = sample.plan(Generate(images=12, steps=4, samplers=("euler_a",)), pd.DataFrame({"label": ["benign"]}),
                       ["benign"], "sks")  # fmt: skip
    together, alone = sample.draw(pipe, rows, 12), sample.draw(pipe, rows.iloc[5:6], 1)
    assert np.abs(together[5].astype(int) - alone[0]).mean() < {"fp32": 0.5}.get(precision, 6)
    assert together.std() > 5


def test_a_base_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = pretrain.Recipe(vae_steps=6, vae_batch=4, unet_steps=6, unet_batch=4)
    losses = {}
    for how in ("on", "off"):
        monkeypatch.setenv("DERM_T2IM_GRAPHS", how)
        (tmp_path / how).mkdir()
        made = pretrain.train(IMAGES, CAPTIONS, recipe, tmp_path / how, device="cuda")
        pipe = base.load(str(made))
        losses[how] = float(pipe.unet.conv_in.weight.norm()), float(pipe.vae.encoder.conv_in.weight.norm())
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-2)
