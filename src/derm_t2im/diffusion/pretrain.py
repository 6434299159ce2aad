"""Train a base model, from nothing or on from another one.

Two steps, as for Stable Diffusion (Rombach et al. 2022): an autoencoder on the images, then a text
encoder and a U-Net on its latents. Each keeps a checkpoint and goes on from it after a kill.
Chance is drawn on the CPU on every device, so that a GPU sees the same batches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from derm_t2im import progress, seeds
from derm_t2im.diffusion import architecture, base, prompts
from derm_t2im.diffusion.muon import MuonAndAdamW
from derm_t2im.diffusion.replay import Replay
from derm_t2im.errors import UserError
from derm_t2im.state import seal, whole

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, StableDiffusionPipeline
    from transformers import CLIPTokenizer


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
    views: int = 2  # of each image that the U-Net learns from: 2 with its mirror image, 8 all turns and flips
    checkpoint_every: int = 250  # steps


def caption(said: Mapping[str, str]) -> str:
    """The caption for a set of attributes; ``extra`` is appended as it is."""
    text = prompts.compose({key: value for key, value in said.items() if key != "extra"})
    return f"{text}, {said['extra']}" if "extra" in said else text


def train(
    images: np.ndarray,
    captions: Sequence[str] | Sequence[tuple[str, ...]],
    recipe: Recipe,
    work: Path,
    autoencoder: Path | None = None,
    sizes: architecture.Sizes = architecture.MINI,
    init: Path | None = None,
    words: CLIPTokenizer | None = None,
    device: str = "cpu",
) -> Path:
    """Train all parts and save the pipeline in fp16 safetensors.

    Args:
        images: uint8 (n, side, side, 3).
        captions: n sentences, or n equally long tuples of sentences of which each step draws one.
        recipe: Steps, batches, learning rates.
        work: Folder for checkpoints; a killed run goes on from what it finds there.
        autoencoder: A finished base whose autoencoder is taken as it is.
        sizes: Of the parts; with ``init`` they are those of that base.
        init: A finished base to go on from instead of random weights.
        words: The tokenizer; by default one of our own prompts, with ``init`` that base's.
        device: A torch device.

    Returns:
        The folder of the finished pipeline, inside ``work``.

    Raises:
        UserError: for images or an autoencoder of another size, a caption that is too long, a loss
            that is no number, a device without enough memory.
    """
    import torch

    start = base.load(str(init)) if init else None
    side = base.image_size(start) if start else sizes.image
    if images.shape[1:3] != (side, side):
        raise UserError(
            f"base: the images have {images.shape[2]} x {images.shape[1]} pixels, the model {side} x {side}."
        )
    if start:
        _same_noise(start, str(init))
    words = start.tokenizer if start else (words or architecture.tokenizer(longest=sizes.tokens))
    tokens = _tokens(words, captions)
    try:
        if autoencoder is None:
            torch.manual_seed(seeds.derive(recipe.seed, "vae"))
            vae = (start.vae if start else architecture.autoencoder(sizes)).to(device).train()
            _train_vae(vae, images, recipe, work / "vae.pt")
        else:
            vae = _given(autoencoder, start.vae if start else architecture.autoencoder(sizes)).to(device)
        latents, scale = _encode(vae, images, recipe.views, work / "latents.safetensors")
        vae.register_to_config(scaling_factor=scale)
        torch.manual_seed(seeds.derive(recipe.seed, "unet"))
        encoder = start.text_encoder if start else architecture.text_encoder(words, sizes)
        net = start.unet if start else architecture.unet(sizes)
        _train_unet(encoder.to(device).train(), net.to(device).train(), tokens, latents, recipe, work / "unet.pt")
    except torch.OutOfMemoryError:
        raise UserError(
            f"base: the memory of {device} does not hold batches of {recipe.vae_batch} (autoencoder) and "
            f"{recipe.unet_batch} (U-Net): lower --vae-batch or --unet-batch."
        ) from None
    pipe = architecture.pipeline(vae.eval(), encoder.eval(), words, net.eval())
    out = work / "pipeline"
    pipe.to("cpu", dtype=torch.float16).save_pretrained(out, safe_serialization=True)
    _tidy(out)
    return out


def _tidy(folder: Path) -> None:
    """Take out of the configurations where the parts came from: a path of this machine."""
    for file in sorted(folder.glob("*/*config.json")):
        values = json.loads(file.read_text(encoding="utf-8"))
        kept = {
            key: value for key, value in values.items() if key not in ("_name_or_path", "is_local", "local_files_only")
        }
        if kept != values:
            file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _same_noise(start: StableDiffusionPipeline, name: str) -> None:
    for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type"):
        have, ours = start.scheduler.config.get(key), architecture.scheduler_config()[key]
        if have != ours:
            raise UserError(
                f"--init {name}: its scheduler has {key} {have!r}; `base train` goes on from {ours!r} only."
            )


def _given(folder: Path, like: AutoencoderKL) -> AutoencoderKL:
    """The autoencoder of another base, if its latents are those that the U-Net is built for."""
    vae = base.load(str(folder)).vae
    for what, of in (
        ("latent channels", lambda net: net.config.latent_channels),
        ("levels", lambda net: len(net.config.block_out_channels)),
    ):
        if of(vae) != of(like):
            raise UserError(f"--autoencoder {folder} has {of(vae)} {what}, the model is built for {of(like)}.")
    return vae


def _tokens(words: CLIPTokenizer, captions: Sequence[str] | Sequence[tuple[str, ...]]) -> torch.Tensor:
    """Token ids (n + 1, variants, longest) of all captions; the last is the empty one.

    Raises:
        UserError: for a caption that the text encoder would not read to its end.
    """
    rows = [(said,) if isinstance(said, str) else said for said in captions]
    rows.append(("",) * len(rows[0]))
    every = [said for row in rows for said in row]
    for said in dict.fromkeys(every):
        if (length := len(words(said, truncation=False, verbose=False).input_ids)) > words.model_max_length:
            raise UserError(
                f"base: a caption has {length} tokens and the text encoder takes {words.model_max_length}: "
                f"{said[:80]!r}; shorten the label, or raise `tokens` with --config."
            )
    ids = words(every, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    return ids.view(len(rows), len(rows[0]), -1)


def psnr(pipe: StableDiffusionPipeline, images: np.ndarray) -> float:
    """How faithfully the autoencoder carries images (n, side, side, 3): mean over images of their PSNR in dB."""
    import torch

    values = []
    with torch.inference_mode():
        for part in np.array_split(images, -(-len(images) // 32)):
            x = torch.from_numpy(part).permute(0, 3, 1, 2).to(pipe.device, pipe.vae.dtype) / 127.5 - 1
            y = pipe.vae.decode(pipe.vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
            values += (-10 * torch.log10((y - x).div(2).square().mean((1, 2, 3)))).tolist()
    return float(np.mean(values))


def _loop(
    name: str,
    modules: Sequence[torch.nn.Module],
    batch_of: Callable[[torch.Generator], Sequence[torch.Tensor]],
    loss_of: Callable[..., torch.Tensor],
    steps: int,
    recipe: Recipe,
    checkpoint: Path,
    ema: float = 0.998,
) -> None:
    """Train with warm-up, cosine decay and EMA; the parameters end as their averages."""
    import torch

    def backward(*batch: torch.Tensor) -> torch.Tensor:
        loss = loss_of(*batch)
        loss.backward()
        return loss.detach()

    optimiser = MuonAndAdamW(modules, recipe.matrix_lr, recipe.vector_lr)
    parameters = optimiser.parameters
    average = [p.detach().clone() for p in parameters]
    start = 0
    if whole(checkpoint.parent, checkpoint):
        saved = torch.load(checkpoint, weights_only=True, map_location=parameters[0].device)
        start, average = saved["step"], saved["average"]
        optimiser.restore(saved["optimiser"])
        with torch.no_grad():
            for p, value in zip(parameters, saved["parameters"], strict=True):
                p.copy_(value)
    replay = Replay(backward, parameters, record=True)
    recent: list[float] = []
    for step in progress.track(range(start, steps), f"base: {name}", total=steps - start):
        share = min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        # Chance belongs to the step, so a resumed run sees what an uninterrupted one would.
        batch = batch_of(torch.Generator().manual_seed(seeds.derive(recipe.seed, name, step)))
        replay.clear()
        value = replay(*batch).item()
        if not math.isfinite(value):
            raise UserError(
                f"base: the loss of {name} is {value} at step {step + 1}: lower the learning rates with --rate "
                f"(the last good checkpoint is {checkpoint})."
            )
        optimiser.step(share)
        decay = min(ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        recent.append(value)
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == steps:
            progress.say(f"base: {name} step {step + 1}/{steps}, loss {sum(recent) / len(recent):.4f}")
            recent.clear()
            partial = checkpoint.with_suffix(".partial")
            state = {
                "step": step + 1,
                "average": average,
                "optimiser": optimiser.state(),
                "parameters": [p.detach() for p in parameters],
            }
            try:
                torch.save(state, partial)
                seal(checkpoint.parent, checkpoint, partial)
                partial.replace(checkpoint)
            except (OSError, RuntimeError) as error:  # torch's own words for a full disk
                raise UserError(
                    f"base: the checkpoint {partial} cannot be written ({str(error).splitlines()[0][:120]}): make room "
                    "and start again; it goes on from the last good one."
                ) from None
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

    half, side = len(images) // 2, images.shape[-1]
    plain, varied = images[:half], images[half:]
    n = len(varied)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=chance)

    mask = functional.interpolate(torch.randn((n, 1, 5, 5), generator=chance), side, mode="bicubic").mul(4).sigmoid()
    mask = mask * (draw(n, 1, 1, 1) < 0.5)
    varied = varied * (1 - mask) + varied.roll(1, 0) * mask
    for cells in (6 << k for k in range(8) if 6 << k < side):
        grain = torch.randn((n, 1, cells, cells), generator=chance) * draw(n, 3, 1, 1)
        grain = grain + 0.3 * torch.randn((n, 3, cells, cells), generator=chance)
        varied = varied + 0.16 * draw(n, 1, 1, 1) ** 2 * functional.interpolate(grain, side, mode="bicubic")
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

    device = vae.device

    side = images.shape[1] >> (len(vae.config.block_out_channels) - 1)
    latent = (recipe.vae_batch, vae.config.latent_channels, side, side)

    def batch_of(chance: torch.Generator) -> list[torch.Tensor]:
        x = _batch(images, torch.randint(0, len(images), (recipe.vae_batch,), generator=chance), chance)
        x = _vary(x, chance).to(device).contiguous(memory_format=torch.channels_last)
        return [x, torch.randn(latent, generator=chance).to(device)]

    def loss_of(x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        with _half(device):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.mean + posterior.std * noise).sample
        d = y.float() - x
        # Colour and broad strokes first: without these terms a small network learns grey and blur for long.
        chroma = (d - d.mean(1, keepdim=True)).abs().mean()
        broad = functional.avg_pool2d(d, 8).abs().mean()
        return d.abs().mean() + 4 * d.square().mean() + 2 * chroma + 2 * broad + 1e-6 * posterior.kl().float().mean()

    _loop("vae", [vae], batch_of, loss_of, recipe.vae_steps, recipe, checkpoint)


def _half(device: torch.device) -> torch.autocast:
    """Mixed precision (bf16) on a GPU; on a CPU it brings nothing."""
    import torch

    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def _encode(vae: AutoencoderKL, images: np.ndarray, views: int, keep: Path) -> tuple[torch.Tensor, float]:
    """Latents of all images in several views (n, views, c, h, w), scaled to unit variance; the scale."""
    import torch
    from safetensors.torch import load_file, save_file

    if whole(keep.parent, keep):
        latents = load_file(keep)["latents"]
        return _scaled(latents)

    out = []
    with torch.inference_mode():
        for i in progress.track(range(0, len(images), 32), "base: encode"):
            x = torch.from_numpy(images[i : i + 32]).permute(0, 3, 1, 2).float() / 127.5 - 1
            x = x.to(vae.device).contiguous(memory_format=torch.channels_last)
            seen = [x, x.flip(3)]
            seen += [v.rot90(turns, (2, 3)) for turns in range(1, views // 2) for v in seen[:2]]
            out.append(torch.stack([vae.encode(v).latent_dist.mode().contiguous().cpu() for v in seen], 1))
    latents = torch.cat(out)
    save_file({"latents": latents}, keep.with_suffix(".partial"))
    keep.with_suffix(".partial").replace(keep)
    seal(keep.parent, keep)
    return _scaled(latents)


def _scaled(latents: torch.Tensor) -> tuple[torch.Tensor, float]:
    scale = float(f"{1 / latents.std().item():.6g}")
    return latents * scale, scale


def _train_unet(
    encoder: torch.nn.Module,
    net: torch.nn.Module,
    tokens: torch.Tensor,
    latents: torch.Tensor,
    recipe: Recipe,
    checkpoint: Path,
) -> None:
    import torch
    from diffusers import DDPMScheduler

    known = {k: v for k, v in architecture.scheduler_config().items() if k != "set_alpha_to_one"}
    schedule = DDPMScheduler(**known)
    size, variants = recipe.unet_batch, tokens.shape[1]
    device = next(net.parameters()).device
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    weights = snr.clamp(max=5.0) / snr  # min-SNR weighting (Hang et al. 2023)

    def batch_of(chance: torch.Generator) -> list[torch.Tensor]:
        index = torch.randint(0, len(latents), (size,), generator=chance)
        clean = latents[index, torch.randint(0, latents.shape[1], (size,), generator=chance)]
        dropped = torch.rand(size, generator=chance) < recipe.caption_dropout
        # No draw where there is nothing to draw from: the embedded base's stream of chance stays as it was.
        variant = torch.randint(0, variants, (size,), generator=chance) if variants > 1 else 0
        said = tokens[torch.where(dropped, len(tokens) - 1, index), variant].to(device)
        noise = torch.randn(clean.shape, generator=chance)
        # One time per equal share of the range: the same expectation with less variance.
        time = ((torch.arange(size) + torch.rand(size, generator=chance)) / size * 1000).long()
        noisy = schedule.add_noise(clean, noise, time).to(device).contiguous(memory_format=torch.channels_last)
        return [noisy, time.to(device), said, noise.to(device), weights[time].to(device)]

    def loss_of(
        noisy: torch.Tensor, time: torch.Tensor, said: torch.Tensor, noise: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        with _half(device):
            predicted = net(noisy, time, encoder(said)[0]).sample
        return ((predicted.float() - noise).square().mean((1, 2, 3)) * weight).mean()

    _loop("unet", [net, encoder], batch_of, loss_of, recipe.unet_steps, recipe, checkpoint, ema=0.999)
