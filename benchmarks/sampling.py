"""Drawing images: ours beside plain ``pipe(prompt)`` calls, and what steps, guidance and sampler do to the images.

python benchmarks/sampling.py [--images 16] [--steps 20] [--rounds 3] [--architecture mini|small|sd15|tiny|FOLDER]
    [--precision fp32 bf16] [--memory-images 64 512]
python benchmarks/sampling.py --table [--images 96] [--project FOLDER]

Speed: the same weights (LoRA merged), prompts, steps and guidance, alternating, medians. Peak memory: a process of
its own for each number of images, two steps each. ``sd15`` builds Stable
Diffusion 1.5's architecture with random weights (``tiny``: the same code path in a small size, to rehearse it).
The table needs a finished run in FOLDER (its splits, probe and LoRA) and goes to stdout as markdown, a row at a time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from figures import machine

import models
from derm_t2im import features, manifest, networks, paths
from derm_t2im.diffusion import adherence, base, lora, sample
from derm_t2im.fidelity import kid
from derm_t2im.imaging import quality
from derm_t2im.imaging.io import read_stack
from derm_t2im.params.generate import Attributes, Generate

CLASSES = ["benign", "malignant"]
UNIFORM = Attributes(size="uniform", count="uniform", tone="uniform")
NOBODY = pd.DataFrame({"label": CLASSES})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--architecture", default="mini", help=", ".join(models.NAMES) + ", or a folder")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16", "fp16"), default=["fp32"])
    parser.add_argument("--memory-images", type=int, nargs="*", default=[64, 512])
    parser.add_argument("--project", type=Path, default=Path(), help="a finished run")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--all-steps", type=int, nargs="+", default=[10, 20, 30])
    parser.add_argument("--all-guidance", type=float, nargs="+", default=[3.0, 4.0, 5.0, 7.0, 9.0])
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.base = models.folder(asked.architecture)
    if asked.memory_of:
        memory(asked, asked.memory_of)
    elif asked.table:
        table(asked)
    else:
        speed(asked)


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def pipeline(asked: argparse.Namespace, precision: str) -> Any:
    """The embedded base with the run's LoRA, or an architecture with random weights."""
    pipe = base.load(asked.base, precision, device())
    if asked.base == models.folder("mini"):
        lora.merge(pipe, asked.project / paths.LORA, 1.0)
    return sample.prepare(pipe)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def speed(asked: argparse.Namespace) -> None:
    """Images per second of both ways, and their peak memory."""
    base.quiet()
    number = asked.images or 16
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads, {device()}")
    for precision in asked.precision:
        torch.manual_seed(0)
        pipe = pipeline(asked, precision)
        wanted = Generate(images=number, steps=asked.steps, attributes=UNIFORM, samplers=("euler_a",))
        rows = sample.plan(wanted, NOBODY, CLASSES, "sks")
        plain = copy(pipe)
        plain.scheduler = sample.scheduler(pipe, "euler_a")

        def one_by_one(plain: Any = plain, rows: pd.DataFrame = rows) -> None:
            for row in rows.itertuples():
                plain(
                    row.prompt, num_inference_steps=row.steps, guidance_scale=row.guidance,
                    generator=torch.Generator().manual_seed(row.seed),
                )  # fmt: skip

        def ours(pipe: Any = pipe, rows: pd.DataFrame = rows) -> None:
            sample.draw(pipe, rows, asked.batch)

        took: dict[str, list[float]] = {"plain": [], "ours": []}
        sample.draw(pipe, rows.iloc[:1].assign(steps=1))  # what is set up at the first call is not counted
        for _ in range(asked.rounds):
            for name, work in (("plain", one_by_one), ("ours", ours)):
                start = time.perf_counter()
                work()
                wait()
                took[name].append(time.perf_counter() - start)
        rates = {name: number / statistics.median(times) for name, times in took.items()}
        ratios = [a / b for a, b in zip(took["plain"], took["ours"], strict=True)]
        print(
            f"{asked.architecture} {precision}: plain {rates['plain']:.2f}, ours {rates['ours']:.2f} images/s; "
            f"ratio per round {', '.join(f'{r:.2f}' for r in ratios)}, median {statistics.median(ratios):.2f}",
            flush=True,
        )
    for images in asked.memory_images:
        command = [sys.executable, __file__, "--memory-of", str(images), "--architecture", asked.base]
        command += ["--project", str(asked.project), "--batch", str(asked.batch), "--precision", asked.precision[-1]]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
        print(f"peak memory, {images} images: {done.stdout.strip()}", flush=True)


def memory(asked: argparse.Namespace, images: int) -> None:
    """Print the peak memory of this process after drawing; images are dropped as they come."""
    base.quiet()
    pipe = pipeline(asked, asked.precision[-1])
    wanted = Generate(images=images, steps=2, attributes=UNIFORM, samplers=("euler_a",))
    for _ in sample.stream(pipe, sample.plan(wanted, NOBODY, CLASSES, "sks"), asked.batch):
        pass
    # Not ru_maxrss: a process that another one started inherits the peak of that one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(f"{int(status['VmHWM'].split()[0]) / 1024:.0f} MiB", end="")
    if device() == "cuda":
        print(f", GPU {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB", end="")


def table(asked: argparse.Namespace) -> None:
    """A row for each sampler, number of steps and guidance."""
    number = asked.images or 96
    home = asked.project
    splits = manifest.read(home / paths.SPLITS_MANIFEST)
    where = [str(home / path) for path in splits["path"]]
    splits = splits.assign(path=where)
    held_out = splits[splits["split"].isin(["val", "test"])]
    seen = splits[splits["seed_image"].fillna(False).astype(bool)]
    encode = features.encoder("probe", probe_folder=home / paths.PROBE)
    opinions = networks.load(home / paths.PROBE)
    pipe = pipeline(asked, "fp32")
    means = sample.noise_means(base.latents(pipe, read_stack(seen["path"].tolist())))
    real = kid.unit(encode(read_stack(held_out["path"].tolist())))
    classes = sorted(seen["label"].unique())
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{number} images a row, {len(held_out)} held-out real images; real against real: ", end="")
    print(f"KID up to {kid.kid_floor(real).high:.2f}\n")
    print("| sampler | steps | guidance | images/s | KID (95 %) | class agreement | size | count | tone |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for steps in asked.all_steps:
        for guidance in asked.all_guidance:
            for name in ("euler_a", "euler", "plms"):
                wanted = Generate(
                    images=number, steps=steps, guidance=guidance, samplers=(name,), attributes=UNIFORM
                )  # the same prompts and seeds in each row
                rows = sample.plan(wanted, seen, classes, "sks", means)
                start = time.perf_counter()
                images = sample.draw(pipe, rows, asked.batch)
                rate = number / (time.perf_counter() - start)
                made = rows.join(pd.DataFrame([quality.measure(image) for image in images]))
                found = adherence.measure(made, np.array(opinions.classes)[opinions.predict(images).argmax(1)])
                far = kid.kid_interval(kid.unit(encode(images)), real)
                words = " | ".join(f"{found[f'{key}_rank_correlation']:.2f}" for key in ("size", "count", "tone"))
                print(
                    f"| {name} | {steps} | {guidance:g} | {rate:.1f} | {far.value:.2f} ({far.low:.2f} to "
                    f"{far.high:.2f}) | {found['class_agreement']:.2f} | {words} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
