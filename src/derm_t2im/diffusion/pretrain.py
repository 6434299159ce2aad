"""Train the embedded base model from nothing.

Two steps, as for Stable Diffusion (Rombach et al. 2022): an autoencoder on the images, then a text
encoder and a U-Net on its latents. Each keeps a checkpoint and goes on from it after a kill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import progress, seeds
from derm_t2im.diffusion import architecture, base, prompts

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class Recipe:
    """How long and how fast the two parts learn."""

    vae_steps: int = 3000
    vae_batch: int = 16
    unet_steps: int = 3000
    unet_batch: int = 48
    matrix_lr: float = 0.015
    vector_lr: float = 2e-3
    caption_dropout: float = 0.12
    seed: int = 0


def caption(said: Mapping[str, str]) -> str:
    """The caption for a set of attributes; ``extra`` is appended as it is."""
    text = prompts.compose({key: value for key, value in said.items() if key != "extra"})
    return f"{text}, {said['extra']}" if "extra" in said else text


def train(
    images: np.ndarray, captions: Sequence[str], recipe: Recipe, work: Path, autoencoder: Path | None = None
) -> Path:
    """Train all parts and save the pipeline in fp16 safetensors.

    Args:
        images: uint8 (n, 64, 64, 3).
        captions: n sentences.
        recipe: Steps, batches, learning rates.
        work: Folder for checkpoints; a killed run goes on from what it finds there.
        autoencoder: A finished base whose autoencoder is taken as it is.

    Returns:
        The folder of the finished pipeline, inside ``work``.
    """
    import torch

    if autoencoder is None:
        torch.manual_seed(seeds.derive(recipe.seed, "vae"))
        vae = architecture.autoencoder()
        _train_vae(vae, images, recipe, work / "vae.pt")
    else:
        vae = base.load(str(autoencoder)).vae
    latents, scale = _encode(vae, images, work / "latents.safetensors")
    vae.register_to_config(scaling_factor=scale)
    words = architecture.tokenizer()
    torch.manual_seed(seeds.derive(recipe.seed, "unet"))
    encoder, net = architecture.text_encoder(words), architecture.unet()
    _train_unet(encoder, net, words, latents, captions, recipe, work / "unet.pt")
    pipe = architecture.pipeline(vae.eval(), encoder.eval(), words, net.eval())
    out = work / "pipeline"
    pipe.to(dtype=torch.float16).save_pretrained(out, safe_serialization=True)
    return out


class _Optimiser:
    """Muon (Jordan et al. 2024) for matrices and convolutions, AdamW for all else.

    Within the first minutes the autoencoder comes 6 dB further than with AdamW alone.
    """

    def __init__(self, modules: Sequence[torch.nn.Module], recipe: Recipe) -> None:
        import torch

        tables = {id(m.weight) for part in modules for m in part.modules() if isinstance(m, torch.nn.Embedding)}
        self.parameters = [p for part in modules for p in part.parameters()]
        self._matrices = [p for p in self.parameters if p.ndim > 1 and id(p) not in tables]
        # torch's Muon takes matrices only; these share the memory of the kernels.
        self._views = [p.detach().view(len(p), -1) for p in self._matrices]
        chosen = {id(p) for p in self._matrices}
        rest = [p for p in self.parameters if id(p) not in chosen]
        self._parts: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.Muon(self._views, lr=recipe.matrix_lr, weight_decay=0.01), recipe.matrix_lr),
            (torch.optim.AdamW(rest, lr=recipe.vector_lr, weight_decay=0.01, betas=(0.9, 0.99)), recipe.vector_lr),
        ]

    def step(self, loss: torch.Tensor, share: float) -> None:
        """One step down the gradient of ``loss`` at this share of the learning rates."""
        import torch

        for p in self.parameters:
            p.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for view, p in zip(self._views, self._matrices, strict=True):
            view.grad = p.grad.view_as(view) if p.grad is not None else None
        for part, lr in self._parts:
            for group in part.param_groups:
                group["lr"] = lr * share
            part.step()

    def state(self) -> list[dict[str, Any]]:
        """What a resumed run needs."""
        return [part.state_dict() for part, _ in self._parts]

    def restore(self, state: Sequence[dict[str, Any]]) -> None:
        """Go on from what :meth:`state` gave."""
        for (part, _), saved in zip(self._parts, state, strict=True):
            part.load_state_dict(saved)


def _loop(
    name: str,
    modules: Sequence[torch.nn.Module],
    loss_of: Callable[[torch.Generator], torch.Tensor],
    steps: int,
    recipe: Recipe,
    checkpoint: Path,
    ema: float = 0.998,
) -> None:
    """Train with warm-up, cosine decay and EMA; the parameters end as their averages."""
    import torch

    optimiser = _Optimiser(modules, recipe)
    parameters = optimiser.parameters
    average = [p.detach().clone() for p in parameters]
    start = 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        start, average = saved["step"], saved["average"]
        optimiser.restore(saved["optimiser"])
        with torch.no_grad():
            for p, value in zip(parameters, saved["parameters"], strict=True):
                p.copy_(value)
    recent: list[float] = []
    for step in progress.track(range(start, steps), f"base: {name}", total=steps - start):
        share = min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        # Chance belongs to the step, so a resumed run sees what an uninterrupted one would.
        loss = loss_of(torch.Generator().manual_seed(seeds.derive(recipe.seed, name, step)))
        optimiser.step(loss, share)
        decay = min(ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        recent.append(loss.item())
        if (step + 1) % 250 == 0 or step + 1 == steps:
            progress.say(f"base: {name} step {step + 1}/{steps}, loss {sum(recent) / len(recent):.4f}")
            recent.clear()
            partial = checkpoint.with_suffix(".partial")
            state = {
                "step": step + 1,
                "average": average,
                "optimiser": optimiser.state(),
                "parameters": [p.detach() for p in parameters],
            }
            torch.save(state, partial)
            partial.replace(checkpoint)
    with torch.no_grad():
        for p, value in zip(parameters, average, strict=True):
            p.copy_(value)


def _vary(images: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """Half of the batch as it is; half with other colours, mixed scenes and texture of several scales.

    The autoencoder must carry real dermoscopy too, which has more colours and textures than any
    phantom.
    """
    import torch
    from torch.nn import functional

    half = len(images) // 2
    plain, varied = images[:half], images[half:]
    n = len(varied)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=chance)

    mask = functional.interpolate(torch.randn((n, 1, 5, 5), generator=chance), 64, mode="bicubic").mul(4).sigmoid()
    mask = mask * (draw(n, 1, 1, 1) < 0.5)
    varied = varied * (1 - mask) + varied.roll(1, 0) * mask
    for cells in (6, 12, 24, 48):
        grain = torch.randn((n, 1, cells, cells), generator=chance) * draw(n, 3, 1, 1)
        grain = grain + 0.3 * torch.randn((n, 3, cells, cells), generator=chance)
        varied = varied + 0.16 * draw(n, 1, 1, 1) ** 2 * functional.interpolate(grain, 64, mode="bicubic")
    gain, bias = 0.5 + draw(n, 1, 1, 1), 0.5 * (draw(n, 3, 1, 1) - 0.5)
    mean = varied.mean((2, 3), keepdim=True)
    varied = mean + (varied - mean) * gain + bias
    return torch.cat([plain, varied]).clamp(-1, 1)


def _batch(images: np.ndarray, index: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """Images by index in [-1, 1], (n, 3, h, w), flipped and turned at random."""
    import torch

    x = torch.from_numpy(images[index.numpy()]).permute(0, 3, 1, 2).float() / 127.5 - 1
    turns, flip = torch.randint(0, 4, (2,), generator=chance).tolist()
    x = torch.rot90(x, turns, (2, 3))
    return x.flip(3) if flip % 2 else x


def _train_vae(vae: AutoencoderKL, images: np.ndarray, recipe: Recipe, checkpoint: Path) -> None:
    import torch
    from torch.nn import functional

    def loss_of(chance: torch.Generator) -> torch.Tensor:
        x = _batch(images, torch.randint(0, len(images), (recipe.vae_batch,), generator=chance), chance)
        x = _vary(x, chance).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=chance)
        y = vae.decode(z).sample
        d = y - x
        # Colour and broad strokes first: without these terms a small network learns grey and blur for long.
        chroma = (d - d.mean(1, keepdim=True)).abs().mean()
        broad = functional.avg_pool2d(d, 8).abs().mean()
        return d.abs().mean() + 4 * d.square().mean() + 2 * chroma + 2 * broad + 1e-6 * posterior.kl().mean()

    _loop("vae", [vae], loss_of, recipe.vae_steps, recipe, checkpoint)


def _encode(vae: AutoencoderKL, images: np.ndarray, keep: Path) -> tuple[torch.Tensor, float]:
    """Latents of all images and their mirror images (n, 2, c, h, w), scaled to unit variance; the scale."""
    import torch
    from safetensors.torch import load_file, save_file

    if keep.is_file():
        latents = load_file(keep)["latents"]
        return _scaled(latents)

    out = []
    with torch.inference_mode():
        for i in progress.track(range(0, len(images), 32), "base: encode"):
            x = torch.from_numpy(images[i : i + 32]).permute(0, 3, 1, 2).float() / 127.5 - 1
            x = x.contiguous(memory_format=torch.channels_last)
            out.append(torch.stack([vae.encode(v).latent_dist.mode().contiguous() for v in (x, x.flip(3))], 1))
    latents = torch.cat(out)
    save_file({"latents": latents}, keep.with_suffix(".partial"))
    keep.with_suffix(".partial").replace(keep)
    return _scaled(latents)


def _scaled(latents: torch.Tensor) -> tuple[torch.Tensor, float]:
    scale = float(f"{1 / latents.std().item():.6g}")
    return latents * scale, scale


def _train_unet(
    encoder: torch.nn.Module,
    net: torch.nn.Module,
    words: Callable[..., dict[str, torch.Tensor]],
    latents: torch.Tensor,
    captions: Sequence[str],
    recipe: Recipe,
    checkpoint: Path,
) -> None:
    import torch
    from diffusers import DDPMScheduler

    known = {k: v for k, v in architecture.scheduler_config().items() if k != "set_alpha_to_one"}
    schedule = DDPMScheduler(**known)
    size = recipe.unet_batch
    tokens = words([*captions, ""], padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    weights = snr.clamp(max=5.0) / snr  # min-SNR weighting (Hang et al. 2023)

    def loss_of(chance: torch.Generator) -> torch.Tensor:
        index = torch.randint(0, len(latents), (size,), generator=chance)
        clean = latents[index, torch.randint(0, 2, (size,), generator=chance)]
        dropped = torch.rand(size, generator=chance) < recipe.caption_dropout
        said = tokens[torch.where(dropped, len(tokens) - 1, index)]
        noise = torch.randn(clean.shape, generator=chance)
        # One time per equal share of the range: the same expectation with less variance.
        time = ((torch.arange(size) + torch.rand(size, generator=chance)) / size * 1000).long()
        noisy = schedule.add_noise(clean, noise, time).contiguous(memory_format=torch.channels_last)
        predicted = net(noisy, time, encoder(said)[0]).sample
        return ((predicted - noise).square().mean((1, 2, 3)) * weights[time]).mean()

    _loop("unet", [net, encoder], loss_of, recipe.unet_steps, recipe, checkpoint, ema=0.999)
