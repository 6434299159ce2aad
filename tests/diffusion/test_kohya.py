import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from derm_t2im.diffusion import base, dreambooth, lora, precompute, sample
from derm_t2im.errors import UserError
from derm_t2im.params.finetune import Finetune
from derm_t2im.params.generate import Generate

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
CAPTIONS = ["a dermoscopic image of a benign lesion, sks"] * 4
ALL = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "proj_in", "ff.net.0.proj", "time_emb_proj"]


def trained(folder: Path, work: Path, **settings: object) -> Path:
    pipe = base.load(str(folder))
    chosen = Finetune(steps=2, batch=2, lr=0.05, warmup=0, checkpoint_every=2, **settings)  # type: ignore[arg-type]
    cache = precompute.encode(pipe, IMAGES, CAPTIONS, flips=False)
    work.mkdir(exist_ok=True)
    dreambooth.train(pipe, cache, cache, chosen, work)
    return work / "lora"


def drawn(folder: Path, weights: Path | None, beta: float = 1.0) -> np.ndarray:
    pipe = base.load(str(folder))
    if weights is not None:
        lora.merge(pipe, weights, beta)
    examples = pd.DataFrame({"label": ["benign", "malignant"]})
    return sample.draw(pipe, sample.plan(Generate(images=2, steps=2), examples, ["benign", "malignant"], "sks")[:1])


@pytest.mark.parametrize(
    "settings",
    [
        {"rank": 4, "alpha": 3.0, "targets": ALL},
        {"rank": 2, "alpha": 2, "dora": True},
        {"rank": 4, "text_encoder_rank": 2},
    ],
    ids=str,
)
def test_both_forms_draw_the_same_images(tiny_base: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    out = trained(tiny_base, tmp_path / "w", **settings)
    ours, theirs = drawn(tiny_base, out, 0.7), drawn(tiny_base, out / lora.KOHYA, 0.7)
    assert np.array_equal(ours, theirs)
    assert np.array_equal(ours, drawn(tiny_base, out / lora.WEIGHTS, 0.7))
    assert not np.array_equal(ours, drawn(tiny_base, None))


def test_the_file_is_what_web_uis_read(tiny_base: Path, tmp_path: Path) -> None:
    out = trained(tiny_base, tmp_path / "w", rank=4, alpha=3.0, text_encoder_rank=2)
    layers = load_file(out / lora.KOHYA)
    stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    assert layers[f"{stem}.lora_down.weight"].shape[0] == layers[f"{stem}.lora_up.weight"].shape[1] == 4
    assert layers[f"{stem}.alpha"] == 3.0
    assert layers["lora_te_text_model_encoder_layers_0_self_attn_q_proj.alpha"] == 2.0
    assert {key.split(".", 1)[1] for key in layers} == {"lora_down.weight", "lora_up.weight", "alpha"}
    with safe_open(out / lora.KOHYA, "pt") as file:
        said = file.metadata()
    assert (said["ss_network_module"], said["ss_network_dim"], said["ss_network_alpha"]) == (
        "networks.lora",
        "4",
        "3.0",
    )
    assert said["ss_num_train_images"] == "4" and said["modelspec.resolution"] == "64x64"
    assert json.loads(said["ss_tag_frequency"]) == {"derm-t2im": {"sks": 4}}
    again = trained(tiny_base, tmp_path / "again", rank=4, alpha=3.0, text_encoder_rank=2)
    assert (again / lora.KOHYA).read_bytes() == (out / lora.KOHYA).read_bytes()


def rename(out: Path, change: dict[str, str], to: Path) -> Path:
    layers = load_file(out / lora.KOHYA)
    for old, new in change.items():
        layers = {key.replace(old, new): value for key, value in layers.items()}
    save_file(layers, to)
    return to


def test_files_that_do_not_fit_are_said_to(tiny_base: Path, tmp_path: Path) -> None:
    out = trained(tiny_base, tmp_path / "w", rank=2)
    bad = {
        "sdxl": (
            {"lora_unet_down_blocks": "lora_unet_input_blocks"},
            "is for SDXL; what fits here is a LoRA",
        ),
        "loha": ({"lora_down.weight": "hada_w1_a"}, "is a LoHa"),
        "deeper": ({"down_blocks_2": "down_blocks_7"}, "does not fit this base model"),
    }
    for name, (change, said) in bad.items():
        with pytest.raises(UserError, match=said):
            lora.merge(base.load(str(tiny_base)), rename(out, change, tmp_path / f"{name}.safetensors"), 1.0)
    wide = {key: torch.cat([value, value], -1) if "down" in key.split(".")[1] else value
            for key, value in load_file(out / lora.KOHYA).items()}  # fmt: skip
    save_file(wide, tmp_path / "wide.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no header")
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("wide.safetensors", "does not fit"), ("none.safetensors", "holds no LoRA layers"),
        ("broken.safetensors", "is no safetensors file"), ("empty", "holds no LoRA"),
        ("gone.safetensors", "holds no LoRA"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            lora.merge(base.load(str(tiny_base)), tmp_path / name, 1.0)


def test_beta_scales_what_dora_changes(tiny_base: Path, tmp_path: Path) -> None:
    out = trained(tiny_base, tmp_path / "w", rank=2, alpha=2, dora=True, text_encoder_rank=2)
    plain = base.load(str(tiny_base)).unet.state_dict()

    def moved(beta: float) -> dict[str, torch.Tensor]:
        pipe = base.load(str(tiny_base))
        lora.merge(pipe, out, beta)
        assert pipe.unet.state_dict().keys() == plain.keys()
        return {name: value - plain[name] for name, value in pipe.unet.state_dict().items()}

    none, half, whole = moved(0.0), moved(0.5), moved(1.0)
    assert not any(value.any() for value in none.values())
    assert any(value.any() for value in whole.values())
    assert all(torch.allclose(half[name], value / 2, atol=1e-6) for name, value in whole.items())


def test_web_uis_know_the_file_again(tiny_base: Path, tmp_path: Path) -> None:
    out = trained(tiny_base, tmp_path / "w", rank=2)
    data = (out / lora.KOHYA).read_bytes()
    told = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["sshs_model_hash"]
    assert told == hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    assert lora.model_hash(out) == lora.model_hash(out / lora.KOHYA) == told
    assert lora.model_hash(tmp_path) == ""


def test_weights_that_are_no_numbers_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    layers = load_file(trained(tiny_base, tmp_path / "w", rank=2) / lora.KOHYA)
    layers[next(k for k in layers if k.endswith("lora_up.weight"))][0, 0] = torch.nan
    save_file(layers, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match="no finite numbers"):
        drawn(tiny_base, tmp_path / "nan.safetensors")
