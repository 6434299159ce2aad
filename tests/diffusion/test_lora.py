from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from derm_t2im.diffusion import base, lora, sample
from derm_t2im.errors import UserError
from derm_t2im.params.finetune import Finetune
from derm_t2im.params.generate import Generate

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
CAPTIONS = [f"a sks dermoscopic image of a {label} lesion" for label in ("benign", "malignant")] * 3
WEIGHTS = "pytorch_lora_weights.safetensors"


def run(folder: Path, work: Path, steps: int, **settings: object) -> dict[str, torch.Tensor]:
    pipe = base.load(str(folder))
    chosen = Finetune(steps=steps, batch=4, checkpoint_every=2, warmup=2, **settings)  # type: ignore[arg-type]
    cache = lora.encode(pipe, IMAGES, CAPTIONS, flips=True)
    work.mkdir(exist_ok=True)
    lora.train(pipe, cache, lora.encode(pipe, IMAGES[:2], CAPTIONS[:2], flips=False), chosen, work)
    return load_file(work / "lora" / WEIGHTS)


def test_a_resumed_run_gives_the_same_bits(tiny_base: Path, tmp_path: Path) -> None:
    whole = run(tiny_base, tmp_path / "whole", 4)
    run(tiny_base, tmp_path / "parts", 2)
    resumed = run(tiny_base, tmp_path / "parts", 4)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(value.abs().sum() > 0 for name, value in whole.items() if "lora.up" in name or "lora_B" in name)


def test_the_same_run_writes_the_same_file(tiny_base: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(tiny_base, tmp_path / name, 2)
    header = (tmp_path / "a" / "lora" / WEIGHTS).read_bytes()[8:40]
    assert header.startswith(b'{"__metadata__":{"format"'), "the library's own order of the keys is random"
    assert (tmp_path / "a" / "lora" / WEIGHTS).read_bytes() == (tmp_path / "b" / "lora" / WEIGHTS).read_bytes()


def test_prior_preservation_changes_what_is_learnt(tiny_base: Path, tmp_path: Path) -> None:
    plain = run(tiny_base, tmp_path / "plain", 2)
    kept = run(tiny_base, tmp_path / "kept", 2, prior_weight=1.0, prior_images=2)
    assert any(not torch.equal(plain[name], kept[name]) for name in plain)


def test_not_a_number_stops_with_advice(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finite at step"):
        run(tiny_base, tmp_path / "w", 40, lr=1e30, clip=1e30)


def test_unknown_targets_are_named(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"finetune\.targets"):
        run(tiny_base, tmp_path / "w", 2, targets=["nowhere"])


def test_lora_changes_the_images_and_beta_scales_it(tiny_base: Path, tmp_path: Path) -> None:
    import pandas as pd

    run(tiny_base, tmp_path / "w", 4, lr=0.05)
    train = pd.DataFrame({"label": ["benign", "malignant"]})
    rows = sample.plan(Generate(images=2, steps=2), train, ["benign", "malignant"], "sks")

    def drawn(beta: float | None) -> np.ndarray:
        pipe = base.load(str(tiny_base))
        if beta is not None:
            sample.add_lora(pipe, tmp_path / "w" / "lora", beta)
        return sample.draw(pipe, rows)

    assert np.array_equal(drawn(None), drawn(0.0))
    assert not np.array_equal(drawn(None), drawn(1.0))
