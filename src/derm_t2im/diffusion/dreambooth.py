"""DreamBooth (Ruiz et al. 2023) on the seed images, of LoRA layers or of the whole U-Net.

The autoencoder's latents (and those of the mirror images) are computed once, and so are the text embeddings unless
the text encoder learns as well; a step then touches the U-Net only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derm_t2im import distributed, progress, seeds, state
from derm_t2im.diffusion import base, lora
from derm_t2im.diffusion.replay import Replay
from derm_t2im.diffusion.training_run import History, Run
from derm_t2im.errors import UserError, enough_memory

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

    from derm_t2im.diffusion.precompute import Cache
    from derm_t2im.params.finetune import Finetune


def heldout_loss(
    pipe: StableDiffusionPipeline, cache: Cache, seed: int, repeats: int = 4, text: torch.Tensor | None = None
) -> float:
    """Mean denoising loss at noise and timesteps that are the same at every call; ``text`` instead of the cache's."""
    import torch
    from diffusers import DDPMScheduler

    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    steps = schedule.config.num_train_timesteps
    total, n = 0.0, len(cache.latents)
    said = cache.text if text is None else text
    with torch.inference_mode():
        for repeat in range(repeats):
            chance = torch.Generator().manual_seed(seeds.derive(seed, "heldout", repeat))
            clean = cache.latents[:, 0]
            noise = torch.randn(clean.shape, generator=chance).to(clean)
            time = ((torch.arange(n) + torch.rand(n, generator=chance)) / n * steps).long()
            time = time[torch.randperm(n, generator=chance)].to(clean.device)
            noisy, target = schedule.add_noise(clean, noise, time), _target(schedule, clean, noise, time)
            for part in torch.arange(n).split(32):
                predicted = pipe.unet(noisy[part], time[part], said[part]).sample
                total += (predicted - target[part]).float().square().mean((1, 2, 3)).sum().item()
    return total / (n * repeats)


def _target(schedule: Any, clean: torch.Tensor, noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """What the U-Net predicts, as the base model's schedule says."""
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return schedule.get_velocity(clean, noise, time)
    raise UserError(f"the base model predicts {kind!r}; supported: {', '.join(base.PREDICTED)}.")


def train(
    pipe: StableDiffusionPipeline,
    cache: Cache,
    heldout: Cache,
    settings: Finetune,
    work: Path,
    report: Callable[[int, dict[str, float]], None] | None = None,
    show: Callable[[int], None] | None = None,
    before: Cache | None = None,
) -> History:
    """Fine-tune ``pipe`` in place and save what was trained in ``work/lora``.

    A checkpoint every ``settings.checkpoint_every`` steps lets a killed run go on to the same bits: all chance of a
    step is derived from the step's number. At each the held-out loss is measured; with ``settings.patience`` the
    weights of the least one are kept, those before the first step included, and training ends after so many
    checkpoints without a lesser one.

    Args:
        pipe: The base model.
        cache: :func:`encode` of the seed images.
        heldout: The same of held-out images.
        settings: Section ``finetune``.
        work: Folder of the checkpoint and the result.
        report: Called with (steps done, figures) for each ``train_loss`` with its ``lr`` and each ``heldout_loss``,
            those of a resumed run included.
        show: Called with the steps done every ``settings.sample_every`` steps, while ``pipe`` holds the weights as
            they are then (their average, if one is kept). May be called again for steps after the last checkpoint.
        before: :func:`prior`, where ``settings.prior_weight`` is over 0.

    Raises:
        UserError: if the loss is not finite, memory runs out, or the targets do not exist in this U-Net.
    """
    with enough_memory(lambda: _room(work)):
        return _train(pipe, cache, heldout, settings, work, report, show, before)


def _room(work: Path) -> str:
    """What to do where training needs more memory than there is."""
    import torch

    checkpoint = work / "checkpoint.pt"
    saved = torch.load(checkpoint, weights_only=True, mmap=True)["step"] if checkpoint.is_file() else 0
    kept = f"the last good checkpoint, step {saved}, is kept and goes on with it" if saved else "no checkpoint yet"
    return (
        f"finetune needs more than there is; set finetune.gradient_checkpointing to true ({kept}), or lower "
        "finetune.batch (with finetune.accumulate raised as much), or set finetune.precision to bf16, and start again."
    )


def _train(
    pipe: StableDiffusionPipeline,
    cache: Cache,
    heldout: Cache,
    settings: Finetune,
    work: Path,
    report: Callable[[int, dict[str, float]], None] | None,
    show: Callable[[int], None] | None,
    before: Cache | None,
) -> History:
    import torch
    from diffusers import DDPMScheduler

    together = distributed.group()
    if settings.batch < together.size:
        raise UserError(f"finetune.batch is {settings.batch} and {together.size} processes share it: raise it.")
    torch.manual_seed(seeds.derive(settings.seed, "lora"))
    weights = lora.attach(pipe, settings)
    if settings.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    run = Run(weights, _optimiser(weights, settings), settings.ema)
    device = pipe.device
    device_type = device.type
    scaler = torch.amp.GradScaler(device_type, enabled=settings.precision == "fp16" and device_type == "cuda")
    checkpoint = work / "checkpoint.pt"
    if state.whole(work, checkpoint):
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        run.load_state_dict(saved)
        scaler.load_state_dict(saved["scaler"])
        progress.say(f"finetune: goes on at step {run.step}")
    if together.of_first(run.step, device) != run.step:
        raise UserError(f"{checkpoint} is not the same file for all processes: they need a folder that all share.")
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.precision]
    learns_text = settings.text_encoder_rank > 0
    pipe.unet.train()
    pipe.text_encoder.train(learns_text)
    half = partial(torch.autocast, device_type, dtype, enabled=settings.precision != "fp32")
    frozen = _frozen(pipe.unet, weights) if device_type == "cuda" and settings.method == "lora" else []
    _cast(frozen, dtype)  # what does not learn needs no more digits than it is computed with

    def backward(*batch: torch.Tensor) -> torch.Tensor:
        with half():
            error = _loss(pipe, *batch) / settings.batch
        scaler.scale(error / settings.accumulate).backward()
        return error.detach()

    # Gradient checkpointing looks after random states, and a text encoder at its masks: neither can be recorded.
    replay = Replay(backward, weights, record=not (settings.gradient_checkpointing or learns_text))
    # What is in the cache already is only in the way of a GPU's memory.
    idle = [] if device_type == "cpu" else [pipe.vae, *([] if learns_text else [pipe.text_encoder])]
    _move(idle, "cpu")
    told = report or (lambda step, losses: None)
    for step, loss in run.history.train:
        told(step, {"train_loss": loss, "lr": settings.lr * _rate(settings, step - 1)})
    for step, loss in run.history.heldout:
        told(step, {"heldout_loss": loss})

    def judge() -> None:
        with run.averaged(), torch.inference_mode(), half():
            text = pipe.text_encoder(heldout.tokens)[0] if learns_text else None
            pipe.unet.eval()
            loss = together.of_first(heldout_loss(pipe, heldout, settings.seed, text=text), device)
            if not math.isfinite(loss):  # these weights must not replace the good checkpoint
                raise _not_finite("held-out loss", run)
            run.judge(loss, settings.patience > 0)
            pipe.unet.train()
        told(run.step, {"heldout_loss": loss})

    if settings.patience and not run.history.heldout:
        judge()
    for step in progress.track(range(run.step, settings.steps), "finetune", total=settings.steps - run.step):
        if settings.patience and run.stale >= settings.patience:
            progress.say(f"finetune: held-out loss no lower for {run.stale} checkpoints, ends at step {step}")
            break
        for group in run.optimiser.param_groups:
            group["lr"] = settings.lr * _rate(settings, step)
        replay.clear()
        mean = 0.0
        for part in range(settings.accumulate):
            batch = _batch(cache, schedule, settings, step, part, "instance")
            if before is not None:
                others = _batch(before, schedule, settings, step, part, "prior", settings.prior_weight)
                batch = [torch.cat(pair) for pair in zip(batch, others, strict=True)]
            whole = together.total(replay(*batch))
            if not math.isfinite(whole):
                raise _not_finite("loss", run)
            mean += whole / settings.accumulate
        together.add_up([w.grad for w in weights if w.grad is not None])
        scaler.unscale_(run.optimiser)
        slope = torch.nn.utils.clip_grad_norm_(weights, settings.clip)
        if not scaler.is_enabled() and not torch.isfinite(slope):  # the scaler leaves such a step out by itself
            raise _not_finite("gradient", run)
        scaler.step(run.optimiser)
        scaler.update()
        run.stepped()
        run.history.train.append((run.step, mean))
        told(run.step, {"train_loss": mean, "lr": settings.lr * _rate(settings, step)})
        if show is not None and settings.sample_every and run.step % settings.sample_every == 0:
            with run.averaged(), half():  # before the checkpoint, so that a run killed between them draws it again
                pipe.unet.eval()
                pipe.text_encoder.eval()
                _move(idle, device)
                show(run.step)
                _move(idle, "cpu")
                pipe.unet.train()
                pipe.text_encoder.train(learns_text)
        if run.step % settings.checkpoint_every == 0 or run.step == settings.steps:
            judge()
            run.saved = run.step
            if together.first:
                coming = checkpoint.with_suffix(".partial")
                torch.save(run.state_dict() | {"scaler": scaler.state_dict()}, coming)
                state.seal(work, checkpoint, coming)
                coming.replace(checkpoint)
    del replay
    _move(idle, device)
    _cast(frozen, torch.float32)
    pipe.unet.eval()
    pipe.text_encoder.eval()
    run.finish()
    if together.first:
        lora.save(pipe, work / "lora", settings, len(cache.latents))
    return run.history


def _move(parts: Sequence[Any], device: Any) -> None:
    for part in parts:
        part.to(device)


def _not_finite(what: str, run: Run) -> UserError:
    kept = f"the last good checkpoint, step {run.saved}, is kept" if run.saved else "no checkpoint yet"
    return UserError(f"finetune: the {what} is not finite at step {run.step} ({kept}); lower finetune.lr.")


def _optimiser(weights: list[torch.nn.Parameter], settings: Finetune) -> torch.optim.Optimizer:
    import torch

    if settings.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            raise UserError("finetune.optimizer: adamw8bit needs bitsandbytes; `pip install bitsandbytes`.") from None
        return AdamW8bit(weights, lr=settings.lr, weight_decay=settings.weight_decay)
    fused = weights[0].device.type == "cuda"
    return torch.optim.AdamW(weights, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)


def _rate(settings: Finetune, step: int) -> float:
    warm = min(1.0, (step + 1) / max(settings.warmup, 1))
    if settings.schedule == "constant":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _frozen(model: torch.nn.Module, learn: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    learning = {id(weight) for weight in learn}
    return [weight for weight in model.parameters() if id(weight) not in learning]


def _cast(weights: Sequence[torch.nn.Parameter], dtype: torch.dtype) -> None:
    for weight in weights:
        weight.data = weight.data.to(dtype)


def _batch(
    cache: Cache, schedule: Any, settings: Finetune, step: int, part: int, name: str, weight: float = 1.0
) -> list[torch.Tensor]:
    """This process's share of a batch, on the cache's device: what :func:`_loss` takes.

    All chance is derived from the step and its part, for the whole batch, of which each process then takes its images:
    any number of processes sees the same images with the same noise.
    """
    import torch

    together = distributed.group()
    at, own = step * settings.accumulate + part, slice(together.rank, None, together.size)
    chance = torch.Generator().manual_seed(seeds.derive(settings.seed, name, at))
    n, views = cache.latents.shape[:2]
    index = _order(n, settings.batch, at, settings.seed, name)
    view = torch.randint(0, views, (settings.batch,), generator=chance)
    clean = cache.latents[index[own], view[own]]
    shape = (settings.batch, *clean.shape[1:])
    noise = torch.randn(shape, generator=chance)[own].to(clean)
    if settings.noise_offset > 0:  # Guttenberg 2023
        shift = torch.randn((*shape[:2], 1, 1), generator=chance)[own].to(clean)
        noise = noise + settings.noise_offset * shift
    steps = schedule.config.num_train_timesteps
    time = torch.randint(0, steps, (settings.batch,), generator=chance)[own]
    dropped = (torch.rand(settings.batch, generator=chance)[own] < settings.caption_dropout).to(clean.device)
    if settings.text_encoder_rank:
        said = torch.where(dropped[:, None], cache.blank_tokens, cache.tokens[index[own]])
    else:
        said = torch.where(dropped[:, None, None], cache.blank, cache.text[index[own]])
    weights = torch.full((len(time),), weight)
    if settings.snr_gamma > 0:  # min-SNR weighting (Hang et al. 2023)
        snr = schedule.alphas_cumprod[time] / (1 - schedule.alphas_cumprod[time])
        divisor = snr if schedule.config.prediction_type == "epsilon" else snr + 1
        weights = weights * (snr.clamp(max=settings.snr_gamma) / divisor).to(weights)
    time = time.to(clean.device)
    target = _target(schedule, clean, noise, time)
    return [schedule.add_noise(clean, noise, time), time, said, target, weights.to(clean.device)]


def _loss(
    pipe: StableDiffusionPipeline,
    noisy: torch.Tensor,
    time: torch.Tensor,
    said: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Weighted sum over images of their mean denoising loss; ``said`` are embeddings, or tokens to be embedded."""
    text = said if said.is_floating_point() else pipe.text_encoder(said)[0]
    predicted = pipe.unet(noisy, time, text).sample
    each = (predicted.float() - target.float()).square().mean((1, 2, 3))
    return (each * weights).sum()


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
