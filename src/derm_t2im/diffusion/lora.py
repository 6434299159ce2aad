"""DreamBooth (Ruiz et al. 2023) with LoRA (Hu et al. 2022) on the seed images.

The autoencoder's latents (and those of the mirror images) and the text embeddings are computed
once; a step then touches the U-Net only. Text encoder and autoencoder stay as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import progress, seeds
from derm_t2im.diffusion import base, prompts
from derm_t2im.errors import UserError
from derm_t2im.state import write_atomic

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

    from derm_t2im.params.finetune import Finetune


@dataclass(frozen=True)
class Cache:
    """What training needs: latents (n, v, c, h, w) of v views, embeddings (n, t, d) of captions and of none (t, d)."""

    latents: torch.Tensor
    text: torch.Tensor
    blank: torch.Tensor


@dataclass
class History:
    """Losses on the way: ``train`` every 10 steps, ``heldout`` at checkpoints; pairs (step, loss)."""

    train: list[tuple[int, float]] = field(default_factory=list)
    heldout: list[tuple[int, float]] = field(default_factory=list)


def encode(pipe: StableDiffusionPipeline, images: np.ndarray, captions: Sequence[str], flips: bool) -> Cache:
    """Latents and text embeddings of uint8 images (n, h, w, 3), on the pipeline's device."""
    import torch

    mirrored = [np.ascontiguousarray(images[:, :, ::-1])] if flips else []
    views = [base.latents(pipe, view) for view in (images, *mirrored)]
    with torch.inference_mode():
        text = torch.cat([pipe.encode_prompt(c, pipe.device, 1, False)[0] for c in [*captions, ""]])
    # Outside inference mode, so that autograd accepts them.
    return Cache(torch.stack(views, 1).clone(), text[:-1].clone(), text[-1].clone())


def heldout_loss(pipe: StableDiffusionPipeline, cache: Cache, seed: int, repeats: int = 4) -> float:
    """Mean denoising loss at noise and timesteps that are the same at every call."""
    import torch
    from diffusers import DDPMScheduler

    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    steps = schedule.config.num_train_timesteps
    total, n = 0.0, len(cache.latents)
    with torch.inference_mode():
        for repeat in range(repeats):
            chance = torch.Generator().manual_seed(seeds.derive(seed, "heldout", repeat))
            clean = cache.latents[:, 0]
            noise = torch.randn(clean.shape, generator=chance).to(clean)
            time = ((torch.arange(n) + torch.rand(n, generator=chance)) / n * steps).long()
            time = time[torch.randperm(n, generator=chance)].to(clean.device)
            noisy, target = schedule.add_noise(clean, noise, time), _target(schedule, clean, noise, time)
            for part in torch.arange(n).split(32):
                predicted = pipe.unet(noisy[part], time[part], cache.text[part]).sample
                total += (predicted - target[part]).float().square().mean((1, 2, 3)).sum().item()
    return total / (n * repeats)


def _target(schedule: Any, clean: torch.Tensor, noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """What the U-Net predicts, as the base model's schedule says."""
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return schedule.get_velocity(clean, noise, time)
    raise UserError(f"the base model predicts {kind!r}; supported: epsilon, v_prediction.")


def prior(pipe: StableDiffusionPipeline, settings: Finetune) -> Cache:
    """Latents and embeddings of images that the base model draws for the class prompt (prior preservation)."""
    import torch

    latents = []
    with torch.inference_mode():
        for start in range(0, settings.prior_images, 32):
            chance = [
                torch.Generator().manual_seed(seeds.derive(settings.seed, "prior", i))
                for i in range(start, min(start + 32, settings.prior_images))
            ]
            drawn = pipe([prompts.CLASS_PROMPT] * len(chance), num_inference_steps=20, generator=chance,
                         output_type="latent")  # fmt: skip
            latents.append(drawn.images)
        text = torch.cat([pipe.encode_prompt(c, pipe.device, 1, False)[0] for c in (prompts.CLASS_PROMPT, "")])
    stack = torch.cat(latents)[:, None].clone()
    return Cache(stack, text[:1].expand(len(stack), -1, -1).clone(), text[1].clone())


def train(pipe: StableDiffusionPipeline, cache: Cache, heldout: Cache, settings: Finetune, work: Path) -> History:
    """Train a LoRA on ``pipe.unet`` in place and save it in ``work/lora``.

    A checkpoint every ``settings.checkpoint_every`` steps lets a killed run go on to the same bits:
    all chance of a step is derived from the step's number.

    Raises:
        UserError: if the loss is not finite, or the targets do not exist in this U-Net.
    """
    import torch
    from diffusers import DDPMScheduler
    from peft import LoraConfig

    unet = pipe.unet
    unet.requires_grad_(False)
    torch.manual_seed(seeds.derive(settings.seed, "lora"))
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, init_lora_weights="gaussian", target_modules=list(settings.targets)
    )
    try:
        unet.add_adapter(config)
    except ValueError as error:
        raise UserError(f"finetune.targets: {' '.join(str(error).split())[:200]}") from None
    weights = [p for p in unet.parameters() if p.requires_grad]
    for weight in weights:
        weight.data = weight.data.float()
    optimiser = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    before = prior(pipe, settings) if settings.prior_weight > 0 else None
    history, start = History(), 0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        start, history = saved["step"], History(saved["train"], saved["heldout"])
        optimiser.load_state_dict(saved["optimiser"])
        with torch.no_grad():
            for weight, value in zip(weights, saved["weights"], strict=True):
                weight.copy_(value)
        progress.say(f"finetune: goes on at step {start}")
    device_type = str(pipe.device).split(":")[0]
    mixed = settings.precision != "fp32"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.precision]
    scaler = torch.amp.GradScaler(device_type, enabled=settings.precision == "fp16" and device_type == "cuda")
    unet.train()
    for step in progress.track(range(start, settings.steps), "finetune", total=settings.steps - start):
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * _rate(settings, step)
        with torch.autocast(device_type, dtype, enabled=mixed):
            loss = _loss(pipe, cache, schedule, settings, step, "instance")
            if before is not None:
                loss = loss + settings.prior_weight * _loss(pipe, before, schedule, settings, step, "prior")
        if not torch.isfinite(loss):
            kept = f"the last good checkpoint is step {start}" if checkpoint.is_file() else "no checkpoint yet"
            raise UserError(f"finetune: the loss is not finite at step {step} ({kept}); lower finetune.lr.")
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(weights, settings.clip)
        scaler.step(optimiser)
        scaler.update()
        if step % 10 == 0:
            history.train.append((step, loss.item()))
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            history.heldout.append((step + 1, heldout_loss(pipe, heldout, settings.seed)))
            state = {
                "step": step + 1,
                "weights": [w.detach() for w in weights],
                "optimiser": optimiser.state_dict(),
                "train": history.train,
                "heldout": history.heldout,
            }
            torch.save(state, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").replace(checkpoint)
            start = step + 1
    unet.eval()
    save(pipe, work / "lora")
    return history


def _rate(settings: Finetune, step: int) -> float:
    warm = min(1.0, (step + 1) / max(settings.warmup, 1))
    if settings.schedule == "constant":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _loss(
    pipe: StableDiffusionPipeline, cache: Cache, schedule: Any, settings: Finetune, step: int, name: str
) -> torch.Tensor:
    """Denoising loss of one batch, all chance derived from the step."""
    import torch

    chance = torch.Generator().manual_seed(seeds.derive(settings.seed, name, step))
    n, views = cache.latents.shape[:2]
    index = _order(n, settings.batch, step, settings.seed, name)
    view = torch.randint(0, views, (settings.batch,), generator=chance)
    clean = cache.latents[index, view]
    noise = torch.randn(clean.shape, generator=chance).to(clean)
    steps = schedule.config.num_train_timesteps
    time = torch.randint(0, steps, (settings.batch,), generator=chance)
    dropped = torch.rand(settings.batch, generator=chance) < settings.caption_dropout
    text = torch.where(dropped.to(clean.device)[:, None, None], cache.blank, cache.text[index])
    noisy = schedule.add_noise(clean, noise, time.to(clean.device))
    predicted = pipe.unet(noisy, time.to(clean.device), text).sample
    each = (predicted.float() - _target(schedule, clean, noise, time.to(clean.device)).float()).square().mean((1, 2, 3))
    if settings.snr_gamma > 0:  # min-SNR weighting (Hang et al. 2023)
        snr = schedule.alphas_cumprod[time] / (1 - schedule.alphas_cumprod[time])
        divisor = snr if schedule.config.prediction_type == "epsilon" else snr + 1
        each = each * (snr.clamp(max=settings.snr_gamma) / divisor).to(each)
    return each.mean()


def _order(n: int, batch: int, step: int, seed: int, name: str) -> torch.Tensor:
    """Indices of one batch: every image once per epoch, in an order of the epoch's own."""
    import torch

    at = torch.arange(step * batch, (step + 1) * batch)
    orders = {
        int(epoch): torch.randperm(
            n, generator=torch.Generator().manual_seed(seeds.derive(seed, name, "epoch", int(epoch)))
        )
        for epoch in torch.unique(at // n)
    }
    return torch.stack([orders[int(i) // n][int(i) % n] for i in at])


def save(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Save the LoRA of ``pipe.unet`` in diffusers' form."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
    # alpha travels in the file's metadata; sets are sorted because their order differs between runs
    config = {k: sorted(v) if isinstance(v, set) else v for k, v in pipe.unet.peft_config["default"].to_dict().items()}
    type(pipe).save_lora_weights(
        folder, unet_lora_layers=state, safe_serialization=True, unet_lora_adapter_metadata=config
    )
    _sort_metadata(folder / "pytorch_lora_weights.safetensors")


def _sort_metadata(path: Path) -> None:
    """Sort the metadata keys of a safetensors file: the library writes them in random order, and DVC goes by bytes."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight
    write_atomic(path, len(text).to_bytes(8, "little") + text + data[8 + length :])
