"""Training images per second beside a plain diffusers loop, with both loss curves, and where the time goes.

python benchmarks/training.py [--batch 2 8 16] [--rank 8] [--steps 60] [--rounds 3] [--precision fp32]
    [--architecture mini|small|sd15|tiny|FOLDER] [--images 64]

The plain loop is what the public examples do in every step: encode the images, encode the captions, predict, go back.
Same model, LoRA layers, batch, precision, optimiser and clipping; both in turn, the median of the rounds. Ours is
`dreambooth.train` as the stage calls it; its cache is timed apart. The rate is that of the median five steps after the
first ten. In bf16 and fp16 the plain loop has its frozen weights in that precision, too, as the examples do. Both sets
of layers are judged on the way by the same held-out loss. On a GPU the peak memory, the share of the matmul rate
measured on this machine, and our rate without a recorded graph (DERM_T2IM_GRAPHS=off) are given as well.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import machine
from torch.utils.flop_counter import FlopCounterMode

import models
from derm_t2im import runtime
from derm_t2im.diffusion import base, dreambooth, lora, precompute, prompts
from derm_t2im.params.finetune import Finetune
from derm_t2im.sources import phantom

SKIPPED = 10  # steps before the clock starts
WINDOW = 5  # steps that are timed together
HELD_OUT = 8  # images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 8, 16])
    parser.add_argument("--rank", type=int, nargs="+", default=[8])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--architecture", default="mini", help=", ".join(models.NAMES) + ", or a folder")
    parser.add_argument("--images", type=int, default=64)
    asked = parser.parse_args()
    asked.base = models.folder(asked.architecture)
    device = runtime.device()
    name = torch.cuda.get_device_name() if device != "cpu" else f"{torch.get_num_threads()} threads"
    print(machine(), f"torch {torch.__version__}, {name}", sep="\n")
    size = base.image_size(base.load(asked.base))
    images, captions = seeds(asked.images + HELD_OUT, size)
    print(f"\n{asked.architecture}, {size} px, {asked.precision}, {asked.images} images with flips")
    print(f"{asked.rounds} rounds of {asked.steps} steps")
    titles = ("batch", "rank", "plain img/s", "ours img/s", "ratio", "cache s", "plain MB", "ours MB", "of matmul rate",
              *(["no graph"] if on_gpu() else []))  # fmt: skip
    print("".join(f"{t:>15s}" for t in titles))
    curves = []
    for rank in asked.rank:
        for batch in asked.batch:
            settings = Finetune(base=asked.base, batch=batch, rank=rank, alpha=rank, steps=asked.steps, snr_gamma=0,
                                caption_dropout=0, warmup=1, checkpoint_every=-(-asked.steps // 3),
                                precision=asked.precision)  # fmt: skip
            rounds = []
            for _ in range(asked.rounds):
                rounds.append((plain(settings, images, captions), ours(settings, images, captions)))
            slow, fast = (statistics.median(r[i]["rate"] for r in rounds) for i in (0, 1))
            last = rounds[-1]
            used = fast / batch * last[1]["flops"] / rate(asked.precision)
            values = (str(batch), str(rank), f"{slow:.1f}", f"{fast:.1f}", f"{fast / slow:.2f}",
                      f"{last[1]['cache']:.1f}", f"{last[0]['memory']:.0f}", f"{last[1]['memory']:.0f}",
                      f"{used:.0%}")  # fmt: skip
            if on_gpu():
                values += (f"{unrecorded(settings, images, captions):.1f}",)
            print("".join(f"{v:>15s}" for v in values), flush=True)
            curves.append((batch, rank, *last))
    print("\nheld-out loss on the way, at the same noise for both")
    for batch, rank, slow_run, fast_run in curves:
        for title, run in (("plain", slow_run), ("ours", fast_run)):
            told = ", ".join(f"step {step}: {loss:.4f}" for step, loss in run["heldout"])
            print(f"batch {batch:3d} rank {rank:2d} {title:6s} {told}")
    print("\nwhere one step of ours goes (last batch size)")
    for what, share in shares(settings, images, captions):
        print(f"  {share:5.1%} {what}")


def on_gpu() -> bool:
    return torch.cuda.is_available()


def unrecorded(settings: Finetune, images: np.ndarray, captions: list[str]) -> float:
    """Our rate when each kernel is launched by itself."""
    os.environ["DERM_T2IM_GRAPHS"] = "off"
    try:
        return float(ours(settings, images, captions)["rate"])
    finally:
        del os.environ["DERM_T2IM_GRAPHS"]


def seeds(n: int, size: int) -> tuple[np.ndarray, list[str]]:
    """Phantoms of clinic A, uint8 (n, size, size, 3), and a caption of each; the last ones are held out."""
    drawn = [phantom.render(phantom.CLINIC_A, "training benchmark", i, size=min(size, 512)) for i in range(n)]
    said = [prompts.compose({"label": each.label}, "sks") for each in drawn]
    return np.stack([each.image for each in drawn]), said


def ours(settings: Finetune, images: np.ndarray, captions: list[str]) -> dict[str, Any]:
    """Rate, held-out losses and memory of `dreambooth.train`."""
    pipe = ready(settings)
    begin = time.perf_counter()
    cache = precompute.encode(pipe, images[:-HELD_OUT], captions[:-HELD_OUT], flips=True)
    cached = time.perf_counter() - begin
    heldout = precompute.encode(pipe, images[-HELD_OUT:], captions[-HELD_OUT:], flips=False)
    fresh()
    times: list[float] = []

    def report(step: int, told: dict[str, float]) -> None:
        if "train_loss" in told and step >= SKIPPED and step % WINDOW == 0:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as work:
        history = dreambooth.train(pipe, cache, heldout, settings, Path(work), report=report)
    return {
        "rate": WINDOW * settings.batch / statistics.median(np.diff(times)),
        "heldout": history.heldout,
        "cache": cached,
        "memory": memory(settings),
        "flops": flops(pipe, cache, settings),
    }


def plain(settings: Finetune, images: np.ndarray, captions: list[str]) -> dict[str, Any]:
    """The same of a loop that encodes images and captions in every step."""
    from diffusers import DDPMScheduler

    pipe = ready(settings)
    heldout = precompute.encode(pipe, images[-HELD_OUT:], captions[-HELD_OUT:], flips=False)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.precision]
    if on_gpu():
        pipe.to(dtype=dtype)
    fresh()
    torch.manual_seed(0)
    weights = lora.attach(pipe, settings)
    pipe.unet.train()
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    optimiser = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=settings.weight_decay)
    device = str(pipe.device).split(":")[0]
    pixels = torch.from_numpy(images[:-HELD_OUT]).permute(0, 3, 1, 2).float() / 127.5 - 1
    told, windows = [], []
    for step in range(settings.steps):
        if step % WINDOW == 0:
            begin = time.perf_counter()
        index = torch.randint(0, len(pixels), (settings.batch,))
        x = pixels[index]
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x).to(pipe.device)
        ids = pipe.tokenizer([captions[i] for i in index], padding="max_length", truncation=True,
                             return_tensors="pt").input_ids.to(pipe.device)  # fmt: skip
        with torch.autocast(device, dtype, enabled=settings.precision != "fp32"):
            with torch.no_grad():
                clean = pipe.vae.encode(x).latent_dist.sample() * pipe.vae.config.scaling_factor
                text = pipe.text_encoder(ids)[0]
            noise = torch.randn_like(clean)
            at = torch.randint(0, schedule.config.num_train_timesteps, (len(x),), device=pipe.device)
            predicted = pipe.unet(schedule.add_noise(clean, noise, at), at, text).sample
            loss = torch.nn.functional.mse_loss(predicted.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, settings.clip)
        optimiser.step()
        optimiser.zero_grad()
        loss.item()
        if step % WINDOW == WINDOW - 1 and step >= SKIPPED:
            windows.append(time.perf_counter() - begin)
        if (step + 1) % settings.checkpoint_every == 0:
            pipe.unet.eval()
            with torch.autocast(device, dtype, enabled=settings.precision != "fp32"):
                told.append((step + 1, dreambooth.heldout_loss(pipe, heldout, settings.seed)))
            pipe.unet.train()
    return {"rate": WINDOW * settings.batch / statistics.median(windows), "heldout": told, "memory": memory(settings)}


@cache
def original(folder: str) -> Any:
    """The base on the device; whoever changes it takes a copy."""
    return base.load(folder, device=runtime.device())


def ready(settings: Finetune) -> Any:
    """A copy of the base on the device."""
    first = original(settings.base)
    parts = {name: deepcopy(part) for name, part in first.components.items()}
    pipe = type(first)(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def fresh() -> None:
    """Begin to note the peak memory of the GPU: the images are encoded before in both ways."""
    if on_gpu():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(settings: Finetune) -> float:
    """Peak memory of the GPU in MB, less the copied base; of the process on a CPU."""
    import resource

    if on_gpu():
        parts = (original(settings.base).unet, original(settings.base).vae, original(settings.base).text_encoder)
        copied = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
        return (torch.cuda.max_memory_allocated() - copied) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def one_step(pipe: Any, cache: precompute.Cache, settings: Finetune) -> Callable[[], None]:
    """Forward and backward of one batch through the U-Net, as in training."""
    text, latents = cache.text[: settings.batch], cache.latents[: settings.batch, 0]
    at = torch.full((len(latents),), 500, device=pipe.device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.precision]

    def run() -> None:
        with torch.autocast(str(pipe.device).split(":")[0], dtype, enabled=settings.precision != "fp32"):
            pipe.unet(latents, at, text).sample.float().square().mean().backward()

    return run


def flops(pipe: Any, cache: precompute.Cache, settings: Finetune) -> int:
    """Floating-point operations of one step, counted by torch."""
    run = one_step(pipe, cache, settings)
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def rate(precision: str) -> float:
    """Operations per second of one large matrix product on this device."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    n = 8192 if torch.cuda.is_available() else 2048
    a = torch.randn(n, n, device=runtime.device(), dtype=dtype)
    seconds = []
    for _ in range(12):
        begin = time.perf_counter()
        a @ a
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return 2 * n**3 / statistics.median(seconds[2:])


def shares(settings: Finetune, images: np.ndarray, captions: list[str]) -> list[tuple[str, float]]:
    """Shares of a step's time by kind of operation, from torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    pipe = ready(settings)
    lora.attach(pipe, settings)
    cache = precompute.encode(pipe, images[: settings.batch], captions[: settings.batch], flips=False)
    run = one_step(pipe, cache, settings)
    run()
    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        for _ in range(3):
            run()
    kinds = {
        "convolutions, forward": ("convolution", "conv_depthwise", "fprop"),
        "convolutions, backward": ("convolution_backward", "dgrad", "wgrad"),
        "matrix products": ("mm", "addmm", "bmm", "matmul", "linear"), "attention": ("attention",),
        "norms": ("norm",), "activations": ("silu", "gelu"),
    }  # fmt: skip
    total: dict[str, float] = dict.fromkeys([*kinds, "all else (copies, sums, dispatch)"], 0.0)
    for event in profiled.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        key = event.key.lower()
        found = [k for k, words in kinds.items() if any(w in key for w in words)]
        kind = "convolutions, backward" if "convolutions, backward" in found else (found or [*total][-1:])[0]
        total[kind] += spent
    whole = sum(total.values()) or 1.0
    return sorted(((k, v / whole) for k, v in total.items()), key=lambda pair: -pair[1])


if __name__ == "__main__":
    main()
