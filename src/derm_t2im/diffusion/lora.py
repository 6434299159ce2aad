"""What is trained, as files: LoRA layers (Hu et al. 2022; DoRA, Liu et al. 2024), or the whole U-Net."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from derm_t2im.diffusion import base, kohya
from derm_t2im.errors import UserError
from derm_t2im.state import write_atomic

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

    from derm_t2im.params.finetune import Finetune

WEIGHTS = "pytorch_lora_weights.safetensors"
KOHYA = "derm-t2im.safetensors"  # a name to be met in a web UI's list
WHOLE = "unet.safetensors"
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]


def attach(pipe: StableDiffusionPipeline, settings: Finetune) -> list[torch.nn.Parameter]:
    """Make trainable what ``settings`` ask for, and nothing else; returns those weights, float32.

    Raises:
        UserError: if the targets do not exist in this U-Net.
    """
    from peft import LoraConfig

    unet, text_encoder = pipe.unet, pipe.text_encoder
    unet.requires_grad_(False)
    text_encoder.requires_grad_(False)
    if settings.method == "full":
        unet.requires_grad_(True)
    else:
        rank = {"r": settings.rank, "lora_alpha": settings.alpha, "init_lora_weights": "gaussian"}
        try:
            unet.add_adapter(LoraConfig(**rank, target_modules=list(settings.targets), use_dora=settings.dora))
        except ValueError as error:
            raise UserError(f"finetune.targets: {' '.join(str(error).split())[:200]}") from None
    if settings.text_encoder_rank:
        rank = {"r": settings.text_encoder_rank, "lora_alpha": settings.text_encoder_rank}
        text_encoder.add_adapter(LoraConfig(**rank, init_lora_weights="gaussian", target_modules=TEXT_TARGETS))
    weights = [p for part in (unet, text_encoder) for p in part.parameters() if p.requires_grad]
    for weight in weights:
        weight.data = weight.data.float()
    return weights


def save(pipe: StableDiffusionPipeline, folder: Path, settings: Finetune, images: int) -> None:
    """Save what :func:`attach` made trainable: LoRA layers in diffusers' and in kohya's form, the whole U-Net as it is.

    ``images`` is the number of training images, which is noted in kohya's form.
    """
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if settings.method == "full":
        save_file({k: v.contiguous() for k, v in pipe.unet.state_dict().items()}, folder / WHOLE)
    layers: dict[str, Any] = {}
    named: dict[str, torch.Tensor] = {}
    for key, part in (("unet", pipe.unet), ("text_encoder", pipe.text_encoder)):
        config = getattr(part, "peft_config", None)
        if config:
            own = get_peft_model_state_dict(part)
            layers[f"{key}_lora_layers"] = own  # peft's names: diffusers' older ones lose convolutions
            layers[f"{key}_lora_adapter_metadata"] = _plain(config["default"].to_dict())
            named |= kohya.state_dict(key, own, config["default"].lora_alpha)
    if layers:
        type(pipe).save_lora_weights(folder, safe_serialization=True, **layers)
        facts = kohya.metadata(settings, images, base.image_size(pipe), str(pipe.scheduler.config.prediction_type))
        save_file(named, folder / KOHYA, metadata=facts)
        _sort_metadata(folder / WEIGHTS)
        _sort_metadata(folder / KOHYA, sshs_model_hash=kohya.model_hash(folder / KOHYA))


def merge(pipe: StableDiffusionPipeline, path: Path, beta: float) -> None:
    """Merge fine-tuned weights into the pipeline: W = W0 + beta dW, whatever dW was made of.

    ``path`` is a folder that :func:`save` wrote, or a LoRA file in diffusers' or kohya's form.

    Raises:
        UserError: if it was trained for another architecture, or is no LoRA.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    whole, layers = path / WHOLE, path if path.is_file() else path / WEIGHTS
    try:
        if whole.is_file():
            tuned = load_file(whole)
            before = pipe.unet.state_dict()
            pipe.unet.load_state_dict({k: before[k].lerp(v.to(before[k]), beta) for k, v in tuned.items()})
        if layers.is_file():
            weights = kohya.read(layers)
            if kohya.is_kohya(weights):
                found = sum(kohya.attach(getattr(pipe, part), part, weights) for part in kohya.PREFIXES)
            else:  # with alpha from the file's metadata
                pipe.load_lora_weights(layers.parent, weight_name=layers.name, local_files_only=True)
                found = sum(
                    name.endswith(".lora_A")
                    for part in kohya.PREFIXES
                    for name, _ in getattr(pipe, part).named_modules()
                )
            if lost := kohya.layers_of(weights) - found:
                raise UserError(
                    f"{layers} does not fit this base model, which lacks {lost} of the layers that it tunes."
                )
            _fuse(pipe, beta)
        elif not whole.is_file():
            raise UserError(f"{path} holds no LoRA: give a .safetensors file, or run the stage finetune.")
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{path} does not fit this base model: {' '.join(str(error).split())[:200]}") from None


def model_hash(path: Path) -> str:
    """What web UIs know the LoRA by that :func:`merge` takes from ``path``; empty for a whole U-Net."""
    file = path if path.is_file() else path / KOHYA
    return kohya.model_hash(file) if file.is_file() else ""


def _fuse(pipe: StableDiffusionPipeline, beta: float) -> None:
    """Add the attached layers to the weights. DoRA scales by norms, so what fuses is not beta times anything."""
    import torch

    parts = _tuned_parts(pipe)
    dora = beta != 1 and any(config.use_dora for part in parts for config in getattr(pipe, part).peft_config.values())
    before = {part: {n: p.clone() for n, p in _plain_weights(getattr(pipe, part))} for part in parts} if dora else {}
    pipe.fuse_lora(components=parts, lora_scale=1.0 if dora else beta)
    pipe.unload_lora_weights()
    with torch.no_grad():
        for part, weights in before.items():
            for name, value in _plain_weights(getattr(pipe, part)):
                value.copy_(weights[name].lerp(value, beta))


def _plain_weights(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """Parameters under the names that they have without LoRA layers."""
    return [(n.replace(".base_layer", ""), p) for n, p in model.named_parameters() if "lora_" not in n]


def folder_for(folder: Path, label: str, per_class: bool) -> Path:
    """Where the weights for a class lie: in ``folder``, or with ``per_class`` in one folder for each class below it.

    Raises:
        UserError: if no weights were trained for the class.
    """
    if not per_class:
        return folder
    own = class_folder(folder, label)
    if not own.is_dir():
        raise UserError(f"{folder} has no weights for the class {label!r}: run the stage finetune again.")
    return own


def class_folder(folder: Path, label: str) -> Path:
    """Folder of one class below ``folder``; a label is a diagnosis, and may hold what a path may not."""
    return folder / quote(label, safe=" ")


def _tuned_parts(pipe: StableDiffusionPipeline) -> list[str]:
    return [name for name in ("unet", "text_encoder") if getattr(getattr(pipe, name), "peft_config", None)]


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Sets sorted, because their order differs between runs."""
    return {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}


def _sort_metadata(path: Path, **more: str) -> None:
    """Add metadata to a safetensors file and sort its keys: the library's order is random, and DVC goes by bytes."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted((header["__metadata__"] | more).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight
    write_atomic(path, len(text).to_bytes(8, "little") + text + data[8 + length :])
