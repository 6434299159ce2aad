from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from derm_t2im.diffusion import base, dreambooth, lora, precompute, sample
from derm_t2im.errors import UserError
from derm_t2im.params.finetune import Finetune
from derm_t2im.params.generate import Generate

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
CAPTIONS = [f"a dermoscopic image of a {label} lesion, sks" for label in ("benign", "malignant")] * 3


def run(folder: Path, work: Path, steps: int, **settings: object) -> dict[str, torch.Tensor]:
    pipe = base.load(str(folder))
    chosen = Finetune(steps=steps, batch=4, checkpoint_every=2, warmup=2, **settings)  # type: ignore[arg-type]
    cache = precompute.encode(pipe, IMAGES, CAPTIONS, flips=True)
    work.mkdir(exist_ok=True)
    heldout = precompute.encode(pipe, IMAGES[:2], CAPTIONS[:2], flips=False)
    before = precompute.prior(pipe, chosen, ["benign", "malignant"]) if chosen.prior_weight else None
    dreambooth.train(pipe, cache, heldout, chosen, work, before=before)
    name = lora.WHOLE if chosen.method == "full" else lora.WEIGHTS
    return load_file(work / "lora" / name)


EVERYTHING = {"ema": 0.9, "noise_offset": 0.1, "accumulate": 2, "prior_weight": 0.5, "prior_images": 2, "dora": True}


@pytest.mark.parametrize("settings", [{}, EVERYTHING, {"text_encoder_rank": 2}, {"method": "full"}], ids=str)
def test_a_resumed_run_gives_the_same_bits(tiny_base: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    whole = run(tiny_base, tmp_path / "whole", 4, **settings)
    run(tiny_base, tmp_path / "parts", 2, **settings)
    resumed = run(tiny_base, tmp_path / "parts", 4, **settings)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    (tmp_path / "begun").mkdir()
    begun = run(tiny_base, tmp_path / "begun", 1, **settings)
    assert any(not torch.equal(whole[name], begun[name]) for name in whole)
    parts = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts")]
    for name in ("weights", "average"):
        assert parts[0][name] is None or all(map(torch.equal, parts[0][name], parts[1][name]))
    moments = [part["optimiser"]["state"] for part in parts]
    assert moments[0] and all(torch.equal(moments[0][k]["exp_avg_sq"], moments[1][k]["exp_avg_sq"]) for k in moments[0])


@pytest.mark.parametrize(
    "change",
    [{"ema": 0.9}, {"noise_offset": 0.2}, {"accumulate": 2}, {"dora": True}, {"text_encoder_rank": 2}],
    ids=str,
)
def test_every_setting_changes_what_is_learnt(tiny_base: Path, tmp_path: Path, change: dict[str, object]) -> None:
    plain, changed = run(tiny_base, tmp_path / "a", 2), run(tiny_base, tmp_path / "b", 2, **change)
    common = plain.keys() & changed.keys()
    assert common and any(not torch.equal(plain[name], changed[name]) for name in common)
    assert any("magnitude" in name for name in changed) == ("dora" in change)
    assert any(name.startswith("text_encoder.") for name in changed) == ("text_encoder_rank" in change)


def test_accumulated_batches_show_the_images_of_one_large_batch() -> None:
    halves = [dreambooth._order(6, 2, part, 0, "instance") for part in range(3)]
    assert torch.equal(dreambooth._order(6, 4, 0, 0, "instance"), torch.cat(halves[:2]))
    assert sorted(torch.cat(halves).tolist()) == list(range(6)), "an epoch shows every image once"


def test_patience_ends_training_and_keeps_the_best(tiny_base: Path, tmp_path: Path) -> None:
    pipe = base.load(str(tiny_base))
    cache = precompute.encode(pipe, IMAGES, CAPTIONS, flips=False)
    settings = Finetune(steps=40, batch=4, checkpoint_every=1, warmup=0, lr=0.7, clip=100.0, patience=3)
    (tmp_path / "w").mkdir()
    seen: list[tuple[int, dict[str, float]]] = []
    told = dreambooth.train(
        pipe, cache, cache, settings, tmp_path / "w", lambda step, losses: seen.append((step, losses))
    )
    losses = dict(told.heldout)
    assert max(losses) < 40 and losses[told.kept] == min(losses.values()) and max(losses) == told.kept + 3
    assert dreambooth.heldout_loss(pipe, cache, settings.seed) == pytest.approx(losses[told.kept], rel=1e-6)
    assert [(s, x["heldout_loss"]) for s, x in seen if "heldout_loss" in x] == told.heldout


def test_patience_keeps_the_base_where_training_only_spoils_it(tiny_base: Path, tmp_path: Path) -> None:
    pipe = base.load(str(tiny_base))
    cache = precompute.encode(pipe, IMAGES, CAPTIONS, flips=False)
    before = dreambooth.heldout_loss(pipe, cache, 0)
    settings = Finetune(steps=8, batch=4, checkpoint_every=1, warmup=0, lr=50.0, clip=1e6, patience=2)
    (tmp_path / "w").mkdir()
    told = dreambooth.train(pipe, cache, cache, settings, tmp_path / "w")
    assert told.kept == 0 and len(told.train) == 2
    assert dict(told.heldout)[0] == pytest.approx(before, rel=1e-6)
    assert dreambooth.heldout_loss(pipe, cache, 0) == pytest.approx(before, rel=1e-6)


def test_full_tuning_changes_images_and_beta_scales_it(tiny_base: Path, tmp_path: Path) -> None:
    tuned = run(tiny_base, tmp_path / "w", 2, method="full", lr=0.01)
    pipe = base.load(str(tiny_base))
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    lora.merge(pipe, tmp_path / "w" / "lora", 0.5)
    name = "conv_in.weight"
    assert not torch.equal(before[name], tuned[name])
    assert torch.allclose(pipe.unet.state_dict()[name], (before[name] + tuned[name]) / 2, atol=1e-6)


def test_the_eight_bit_optimiser_says_what_it_needs(tiny_base: Path, tmp_path: Path) -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="pip install bitsandbytes"):
            run(tiny_base, tmp_path / "w", 2, optimizer="adamw8bit")
    else:
        pytest.skip("bitsandbytes is installed")


def test_too_long_a_caption_is_named_and_not_cut(tiny_base: Path) -> None:
    pipe = base.load(str(tiny_base))
    with pytest.raises(UserError, match=r"has \d+ tokens and the text encoder takes \d+: 'a lesion lesion"):
        precompute.encode(pipe, IMAGES[:1], ["a" + " lesion" * 200], flips=False)


def test_the_same_run_writes_the_same_file(tiny_base: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(tiny_base, tmp_path / name, 2)
    header = (tmp_path / "a" / "lora" / lora.WEIGHTS).read_bytes()[8:40]
    assert header.startswith(b'{"__metadata__":{"format"'), "the library's own order of the keys is random"
    assert (tmp_path / "a" / "lora" / lora.WEIGHTS).read_bytes() == (
        tmp_path / "b" / "lora" / lora.WEIGHTS
    ).read_bytes()


def test_prior_preservation_changes_what_is_learnt(tiny_base: Path, tmp_path: Path) -> None:
    plain = run(tiny_base, tmp_path / "plain", 2)
    kept = run(tiny_base, tmp_path / "kept", 2, prior_weight=1.0, prior_images=2)
    assert any(not torch.equal(plain[name], kept[name]) for name in plain)


def test_not_a_number_stops_with_advice(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finite at step"):
        run(tiny_base, tmp_path / "w", 40, lr=1e30, clip=1e30)


def test_weights_that_are_no_numbers_do_not_replace_the_good_checkpoint(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tiny_base, tmp_path / "whole", 4)
    measure, calls = dreambooth.heldout_loss, []

    def broken(*arguments: object, **named: object) -> float:
        calls.append(measure(*arguments, **named))  # type: ignore[arg-type]
        return calls[-1] if len(calls) == 1 else float("nan")

    monkeypatch.setattr(dreambooth, "heldout_loss", broken)
    with pytest.raises(
        UserError, match=r"held-out loss is not finite at step 4 \(the last good checkpoint, step 2, is"
    ):
        run(tiny_base, tmp_path / "w", 4)
    saved = torch.load(tmp_path / "w" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 2 and all(w.isfinite().all() for w in saved["weights"])
    monkeypatch.setattr(dreambooth, "heldout_loss", measure)
    resumed = run(tiny_base, tmp_path / "w", 4)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: error code 12"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8589934592 bytes."),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_is_one_line_and_keeps_the_checkpoint(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object) -> torch.Tensor:
        raise error

    run(tiny_base, tmp_path / "w", 2)
    monkeypatch.setattr(dreambooth, "_loss", full)
    with pytest.raises(UserError, match=r"gradient_checkpointing .*step 2, is kept.* finetune\.batch") as caught:
        run(tiny_base, tmp_path / "w", 4)
    assert "\n" not in str(caught.value)
    assert torch.load(tmp_path / "w" / "checkpoint.pt", weights_only=True)["step"] == 2
    with pytest.raises(UserError, match="no checkpoint yet"):
        run(tiny_base, tmp_path / "fresh", 4)


def test_other_errors_of_torch_are_not_taken_for_memory(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(dreambooth, "_loss", wrong)
    with pytest.raises(RuntimeError, match="mat1"):
        run(tiny_base, tmp_path / "w", 2)


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
            lora.merge(pipe, tmp_path / "w" / "lora", beta)
        return sample.draw(pipe, rows)

    assert np.array_equal(drawn(None), drawn(0.0))
    assert not np.array_equal(drawn(None), drawn(1.0))
