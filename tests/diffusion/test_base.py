"""Loading the base: folders, hub ids, checkpoint files; and each way in which it cannot be had."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from derm_t2im import state
from derm_t2im.diffusion import base, checkpoint
from derm_t2im.errors import UserError

COMMIT = "1234567890abcdef1234567890abcdef12345678"  # pragma: allowlist secret


def refusal(named: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        base.load(str(named))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# One file


def original_names(unet: dict[str, Any], vae: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    """Weights under the names of the original Stable Diffusion 1 checkpoints."""

    def of_unet(name: str) -> str:
        inner = {
            "norm1": "in_layers.0",
            "conv1": "in_layers.2",
            "time_emb_proj": "emb_layers.1",
            "norm2": "out_layers.0",
            "conv2": "out_layers.3",
            "conv_shortcut": "skip_connection",
        }
        for new, old in inner.items():
            if "resnets" in name:
                name = name.replace(f".{new}.", f".{old}.")
        for pattern, old in (
            (r"down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.0"),
            (r"down_blocks\.(\d)\.attentions\.(\d)", lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.1"),
            (r"down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op"),
            (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.0"),
            (r"up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.1"),
            (
                r"up_blocks\.(\d)\.upsamplers\.0",
                lambda m: f"output_blocks.{3 * int(m[1]) + 2}.{1 if m[1] == '0' else 2}",
            ),
            (r"mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
            (r"mid_block\.attentions\.0", lambda m: "middle_block.1"),
            (r"time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
            (r"^conv_in", lambda m: "input_blocks.0.0"),
            (r"^conv_norm_out", lambda m: "out.0"),
            (r"^conv_out", lambda m: "out.2"),
        ):
            name = re.sub(pattern, old, name)
        return "model.diffusion_model." + name

    def of_vae(name: str) -> str:
        for pattern, old in (
            (r"down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"down.{m[1]}.block.{m[2]}"),
            (r"down_blocks\.(\d)\.downsamplers\.0", lambda m: f"down.{m[1]}.downsample"),
            (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}"),
            (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample"),
            (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
            (r"mid_block\.attentions\.0", lambda m: "mid.attn_1"),
            (r"group_norm", lambda m: "norm"),
            (r"to_([qkv])\.", lambda m: f"{m[1]}."),
            (r"to_out\.0", lambda m: "proj_out"),
            (r"conv_shortcut", lambda m: "nin_shortcut"),
            (r"conv_norm_out", lambda m: "norm_out"),
        ):
            name = re.sub(pattern, old, name)
        return "first_stage_model." + name

    def of_text(name: str) -> str:
        return "cond_stage_model.transformer.text_model." + name.removeprefix("text_model.")

    weights = {of_unet(name): value for name, value in unet.items()}
    for name, value in vae.items():
        attention = of_vae(name).endswith("weight") and re.search(r"attn_1\.(q|k|v|proj_out)", of_vae(name))
        weights[of_vae(name)] = value[:, :, None, None] if attention else value
    weights |= {of_text(name): value for name, value in text.items()}
    return {name: value.contiguous() for name, value in weights.items()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, dict[str, Any]]:
    """A pipeline in Stable Diffusion 1's layout with few channels, the same as one file, and its weights."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    from derm_t2im.diffusion import architecture

    torch.manual_seed(0)
    words = architecture.tokenizer()
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64, 64, 64), cross_attention_dim=128, attention_head_dim=8, sample_size=64
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 64), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(words), hidden_size=128, projection_dim=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=32, hidden_act="quick_gelu",
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    ))  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae, text, words, unet, PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_schedule="scaled_linear",
        beta_start=0.00085, beta_end=0.012), None, None, requires_safety_checker=False,
    )  # fmt: skip
    weights = original_names(unet.state_dict(), vae.state_dict(), text.state_dict())
    folder = tmp_path_factory.mktemp("checkpoint")
    save_file(weights, folder / "sd1.safetensors")
    words.save_pretrained(folder / "tokenizer")
    return pipe, folder / "sd1.safetensors", weights


def test_a_checkpoint_file_draws_what_its_folder_draws(small: tuple[Any, Path, dict[str, Any]]) -> None:
    import numpy as np
    import torch

    pipe, file, _ = small
    loaded = base.load(str(file))
    assert base.image_size(loaded) == 512
    assert base.locate(str(file)) == file and base.sha256(str(file)) == state.hash_file(file)
    drawn = []
    for each in (pipe, loaded):
        each.set_progress_bar_config(disable=True)
        drawn.append(
            each("a mole", height=64, width=64, num_inference_steps=2, output_type="np",
                 generator=torch.Generator().manual_seed(3)).images
        )  # fmt: skip
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(loaded, part).state_dict(), getattr(pipe, part).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    # The same weights; where they lie in memory moves the last bit of a sum.
    assert np.allclose(drawn[0], drawn[1], atol=1e-5) and drawn[0].std() > 0.01


def test_without_clips_tokenizer_a_line_says_what_to_fetch_and_where_to_put_it(
    small: tuple[Any, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    (tmp_path / "sd1.safetensors").hardlink_to(small[1])
    told = refusal(tmp_path / "sd1.safetensors")
    assert f"hf download {checkpoint.TOKENIZER}" in told and str(tmp_path / "tokenizer") in told


@pytest.mark.parametrize(
    ("extra", "removed", "named"),
    [
        ("conditioner.embedders.0.transformer.x", "", "Stable Diffusion XL"),
        ("model.diffusion_model.joint_blocks.0.x", "", "Stable Diffusion 3"),
        ("double_blocks.0.img_attn.norm.key_norm.scale", "", "Flux"),
        ("cond_stage_model.model.token_embedding.weight", "", "Stable Diffusion 2"),
        ("lora_unet_x.lora_down.weight", "", "a LoRA"),
        ("", "first_stage_model.", "no autoencoder"),
        ("", "cond_stage_model.", "no text encoder"),
        ("", "model.diffusion_model.input_blocks.10.", "input_blocks.10"),
        ("inpainting", "", "inpainting model: its U-Net has 9 input channels"),
    ],
)
def test_files_of_another_kind_are_named(
    small: tuple[Any, Path, dict[str, Any]], tmp_path: Path, extra: str, removed: str, named: str
) -> None:
    import torch
    from safetensors.torch import save_file

    weights = {name: value for name, value in small[2].items() if not (removed and name.startswith(removed))}
    if extra == "inpainting":
        weights["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(32, 9, 3, 3)
    elif extra:
        weights[extra] = torch.zeros(1)
    save_file(weights, tmp_path / "other.safetensors")
    assert named in refusal(tmp_path / "other.safetensors")


def test_a_file_cut_short_is_one_line(small: tuple[Any, Path, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(small[1].read_bytes()[:100_000])
    assert "no whole safetensors file" in refusal(tmp_path / "cut.safetensors")


# A folder


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "StableDiffusionXLPipeline"),
        ("model_index.json", {"_class_name": "FluxPipeline"}, "FluxPipeline"),
        ("unet/config.json", {"in_channels": 17}, "inpainting model: its U-Net has 17 input channels, not 8"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "predicts 'sample'; supported: epsilon"),
    ],
)
def test_folders_of_another_kind_are_named(
    tiny_base: Path, tmp_path: Path, file: str, change: dict[str, Any], named: str
) -> None:
    other = Path(shutil.copytree(tiny_base, tmp_path / "other"))
    values = json.loads((other / file).read_text())
    (other / file).write_text(json.dumps(values | change))
    assert named in refusal(other)
    (other / file).write_text("{")
    assert "no valid JSON" in refusal(other)


def test_incomplete_folders_are_named_before_anything_is_loaded(tiny_base: Path, tmp_path: Path) -> None:
    for part in ("vae", "tokenizer", "scheduler"):
        other = Path(shutil.copytree(tiny_base, tmp_path / part))
        shutil.rmtree(other / part)
        with pytest.raises(UserError, match=part):
            base.check(str(other))
    other = Path(shutil.copytree(tiny_base, tmp_path / "cut"))
    weights = next((other / "text_encoder").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"text_encoder/model\.safetensors' is no whole safetensors file"):
        base.check(str(other))
    base.check(str(tiny_base))


def test_the_encoder_says_how_long_a_prompt_may_be_where_the_tokenizer_does_not(
    tiny_base: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_base, tmp_path / "other"))
    config = json.loads((other / "tokenizer/tokenizer_config.json").read_text())
    del config["model_max_length"]
    (other / "tokenizer/tokenizer_config.json").write_text(json.dumps(config))
    pipe = base.load(str(other))
    assert base.tokens(pipe, ["a lesion"]).shape == (1, pipe.text_encoder.config.max_position_embeddings)
    with pytest.raises(UserError, match=r"the text encoder takes 32.*negative_prompt"):
        base.tokens(pipe, ["a" + " lesion" * 60])


@pytest.mark.parametrize(
    "place", ["nowhere/at/all", "/nowhere/at-all", "models/mni", "sd1.safetensors", "a/b.safetensors"]
)
def test_what_is_nowhere_is_refused_without_a_question_to_the_hub(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(UserError, match="no folder or file"):
        base.check(place)
    assert "no folder or file" in refusal(place)


# The hub


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download asks for."""

    files: dict[str, bytes]
    broken = ""
    sent: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].lstrip("/")
        if path.startswith("api/models/owner/unknown"):
            self._answer(401, X_Error_Code="RepoNotFound")
        elif path.startswith("api/models/owner/gated"):
            self._answer(403, X_Error_Code="GatedRepo")
        elif path.endswith("revision/nosuch"):
            self._answer(404, X_Error_Code="RevisionNotFound")
        elif "/revision/" in path:
            self._answer(200, json.dumps({"id": "owner/tiny", "sha": COMMIT}).encode(), Content_Type="application/json")
        elif "/tree/" in path:
            tree = [
                {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                for n, b in self.files.items()
            ]
            self._answer(200, json.dumps(tree).encode(), Content_Type="application/json")
        else:
            name = path.split("/resolve/")[-1].split("/", 1)[-1]
            body = self.files[name]
            if self.broken == name and self.command == "GET":
                self._answer(500)
                return
            if self.command == "GET":
                self.sent.append(name)
            self._answer(200, body, ETag=f'"{hashlib.sha1(body).hexdigest()}"')


@pytest.fixture
def hub(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    from huggingface_hub import constants

    files = {p.relative_to(tiny_base).as_posix(): p.read_bytes() for p in tiny_base.rglob("*") if p.is_file()}
    waste = {
        "README.md": b"no",
        "unet/diffusion_pytorch_model.bin": b"pickle",
        "unet/diffusion_pytorch_model.fp16.safetensors": b"",
    }
    fake = type("Fake", (Hub,), {"files": files | waste, "sent": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), fake)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    base._snapshot.cache_clear()
    yield fake
    base._snapshot.cache_clear()
    server.shutdown()
    server.server_close()


def test_a_hub_id_is_fetched_once_and_only_what_is_loaded(hub: type[Hub], tiny_base: Path) -> None:
    folder = base.locate("owner/tiny")
    assert sorted(hub.sent) == sorted(p.relative_to(tiny_base).as_posix() for p in tiny_base.rglob("*") if p.is_file())
    pipe = base.load("owner/tiny@main")
    assert pipe.unet.config.sample_size == 16
    before = base.sha256("owner/tiny")
    assert before == state.hash_tree(tiny_base)
    (folder / "README.md").write_text("in the cache for another reason")
    assert base.sha256("owner/tiny") == before


def test_an_interrupted_download_goes_on(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub.broken = "unet/diffusion_pytorch_model.safetensors"
    told = refusal("owner/tiny")
    assert "the download stopped" in told and "goes on" in told and "hf download owner/tiny" in told
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        told = refusal("owner/tiny")
    assert "not whole in the cache" in told
    first, hub.broken = list(hub.sent), ""
    assert base.load("owner/tiny").unet is not None
    assert len(hub.sent) == len(set(hub.sent)) > len(first) > 0, "what was there is not sent again"


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("owner/unknown", "check the spelling"),
        ("owner/gated", "accept its terms"),
        ("owner/tiny@nosuch", "no revision 'nosuch'"),
    ],
)
def test_what_the_hub_does_not_give_is_one_line(hub: type[Hub], named: str, told: str) -> None:
    assert told in refusal(named)


def test_a_repository_without_safetensors_is_one_line(hub: type[Hub]) -> None:
    hub.files = {name: body for name, body in hub.files.items() if not name.endswith(".safetensors")}
    assert "with safetensors weights" in refusal("owner/tiny")


def test_without_a_network_a_line_says_what_to_do(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    base.check("owner/elsewhere")  # no download, no refusal
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told = refusal("owner/elsewhere@v1")
    assert all(word in told for word in ("HF_HUB_OFFLINE", "HF_HOME", "hf download owner/elsewhere --revision v1"))
