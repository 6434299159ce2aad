"""LoRA files in the form of kohya's sd-scripts, which the Stable Diffusion web UI and ComfyUI read.

Keys are `lora_unet_<module>.lora_down.weight`, `.lora_up.weight`, `.alpha` (and `.dora_scale`), with `lora_te_` for the
text encoder; W = W0 + alpha / rank * up @ down. What was trained and how is in the file's `ss_` and `modelspec`
metadata (github.com/kohya-ss/sd-scripts; github.com/Stability-AI/ModelSpec).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import torch

    from derm_t2im.params.finetune import Finetune

PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te"}
_KINDS = {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight", "lora_magnitude_vector": "dora_scale"}
#: Part of a key -> what kind of file it is, which is not a LoRA for this family.
_OTHERS = {
    "hada_w": "a LoHa (LyCORIS)", "lokr_w": "a LoKr (LyCORIS)", "oft_": "an OFT (LyCORIS)", "lora_te2_": "for SDXL",
    "lora_unet_input_blocks": "for SDXL", "lora_unet_double_blocks": "for Flux", "lora_te3_": "for SD 3",
    "joint_blocks": "for SD 3", "lora_transformer_": "for a transformer",
}  # fmt: skip


def state_dict(part: str, layers: Mapping[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    """Weights of peft's LoRA layers under kohya's names.

    Args:
        part: ``unet`` or ``text_encoder``.
        layers: peft's state dict: ``<module>.lora_A.weight`` (rank, in), ``lora_B``, ``lora_magnitude_vector`` (out,).
        alpha: Of all layers.
    """
    import torch

    named: dict[str, torch.Tensor] = {}
    for key, value in layers.items():
        module, kind = re.fullmatch(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?", key).groups()  # type: ignore[union-attr]
        name = _name(part, module)
        # (out, 1, ...) says that the norms are those of the outputs.
        shaped = value.reshape(len(value), *[1] * (3 if value.ndim == 4 else 1)) if "magnitude" in kind else value
        named[f"{name}.{_KINDS[kind]}"] = shaped.detach().cpu().contiguous()
        named[f"{name}.alpha"] = torch.tensor(float(alpha))
    return named


def metadata(settings: Finetune, images: int, size: int, prediction: str) -> dict[str, str]:
    """What was trained, as trainers and web UIs read it; no times and no random ids, so that files repeat.

    Args:
        settings: Section ``finetune``.
        images: Number of training images.
        size: Their side in pixels.
        prediction: The base model's ``prediction_type``.
    """
    tokens = [settings.token] if isinstance(settings.token, str) else list(settings.token.values())
    said = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": settings.rank,
        "ss_network_alpha": settings.alpha,
        "ss_base_model_version": "sd_v1",
        "ss_v2": False,
        "ss_sd_model_name": settings.base,
        "ss_learning_rate": settings.lr,
        "ss_lr_scheduler": settings.schedule,
        "ss_lr_warmup_steps": settings.warmup,
        "ss_optimizer": settings.optimizer,
        "ss_max_train_steps": settings.steps,
        "ss_batch_size_per_device": settings.batch,
        "ss_gradient_accumulation_steps": settings.accumulate,
        "ss_mixed_precision": {"fp32": "no"}.get(settings.precision, settings.precision),
        "ss_noise_offset": settings.noise_offset,
        "ss_min_snr_gamma": settings.snr_gamma,
        "ss_caption_dropout_rate": settings.caption_dropout,
        "ss_prior_loss_weight": settings.prior_weight,
        "ss_seed": settings.seed,
        "ss_num_train_images": images,
        "ss_resolution": f"({size}, {size})",
        "ss_tag_frequency": json.dumps({"derm-t2im": dict.fromkeys(sorted(tokens), images)}),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "derm-t2im",
        "modelspec.resolution": f"{size}x{size}",
        "modelspec.prediction_type": {"v_prediction": "v"}.get(prediction, prediction),
        "modelspec.trigger_phrase": ", ".join(sorted(tokens)),
        "modelspec.usage_hint": "Research only, not a medical device.",
    }
    return {key: str(value) for key, value in said.items()}


def _name(part: str, module: str) -> str:
    # CLIP's layers were below `text_model` when this form came up, and that is how it calls them.
    inner = f"text_model.{module}" if part == "text_encoder" and not module.startswith("text_model.") else module
    return f"{PREFIXES[part]}_{inner.replace('.', '_')}"


def is_kohya(layers: Mapping[str, torch.Tensor]) -> bool:
    """Whether the keys are kohya's."""
    return any(key.startswith(("lora_unet_", "lora_te_", "lora_te1_")) for key in layers)


def attach(model: Any, part: str, layers: Mapping[str, torch.Tensor]) -> int:
    """Add the LoRA layers of a file in kohya's form to a model, each with its own rank and alpha; returns their number.

    Args:
        model: A U-Net of diffusers or a text encoder of transformers.
        part: ``unet`` or ``text_encoder``.
        layers: :func:`read`'s.

    Raises:
        RuntimeError: for weights of another shape than the model's.
    """
    from peft import LoraConfig, set_peft_model_state_dict

    here = {_name(part, name): name for name, _ in model.named_modules() if name}
    if part == "text_encoder":  # files for SDXL and newer trainers number their encoders
        here |= {name.replace("lora_te_", "lora_te1_", 1): module for name, module in here.items()}
    state: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    kinds = {theirs: ours for ours, theirs in _KINDS.items()}
    for key, value in layers.items():
        name, kind = key.split(".", 1)
        if (module := here.get(name)) is None:
            continue
        if kind == "alpha":
            alphas[module] = float(value)
        elif kind in kinds:
            state[f"{module}.{kinds[kind]}" + ("" if kind == "dora_scale" else ".weight")] = value
            if kind == "lora_down.weight":
                ranks[module] = len(value)
    if ranks:
        model.add_adapter(
            LoraConfig(
                r=next(iter(ranks.values())),
                rank_pattern=ranks,
                alpha_pattern={module: alphas.get(module, rank) for module, rank in ranks.items()},
                target_modules=sorted(ranks),
                use_dora=any("magnitude" in key for key in state),
            )
        )
        set_peft_model_state_dict(model, state)
    return len(ranks)


def read(path: Path) -> dict[str, torch.Tensor]:
    """Weights of a LoRA file in kohya's or in diffusers' form, as ``load_lora_weights`` takes them.

    Raises:
        UserError: for a file that is no safetensors file, or no LoRA of Stable Diffusion 1.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        layers = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no safetensors file: {' '.join(str(error).split())[:120]}") from None
    for key in layers:
        for mark, what in _OTHERS.items():
            if mark in key:
                raise UserError(f"{path} is {what}; what fits here is a LoRA for Stable Diffusion 1.")
    if broken := [key for key, value in layers.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise UserError(f"{path} holds weights that are no finite numbers ({broken[0]}): train it again.")
    if not layers_of(layers):
        raise UserError(f"{path} holds no LoRA layers.")
    return {
        key: value.reshape(len(value)) if key.endswith(".dora_scale") and value.shape[1:].numel() == 1 else value
        for key, value in layers.items()
    }


def model_hash(path: Path) -> str:
    """What web UIs know a LoRA file by: SHA-256 of a safetensors file behind its header, in hex (`sshs_model_hash`)."""
    data = path.read_bytes()
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def layers_of(layers: Mapping[str, torch.Tensor]) -> int:
    """Number of LoRA layers."""
    return sum(key.endswith((".lora_down.weight", ".lora_A.weight", ".lora.down.weight")) for key in layers)
