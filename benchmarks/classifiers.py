"""Training images per second of `classify.train` beside timm's own data loader and a plain PIL + DataLoader loop.

python benchmarks/classifiers.py [--case small mobilenetv2_100] [--rounds 5] [--steps 0] [--batch 32] [--workers 2]

Same files, model, batch, optimiser and loss; augmentation of the same strength (flips, small shifts or crops,
brightness and contrast; ours and the plain loop turn by quarters as well). ``small`` is the default run's MobileNetV2
on 64 px PNG files as `preprocess` leaves them, ``mobilenetv2_100`` takes 224 px JPEG files as they were released. The
images are HAM10000's where DERM_T2IM_DATA has them, else phantoms. All ways run in turn in one process, each with the
memory layout that torch starts with and with channels_last; a round of a way is timed after its first steps, when the
loader's workers are at work. The processor time of all processes is given as well: other work on the machine disturbs
it less. Ours reads all files before its first step, timed apart. Then all are shown the same images in the same
order, without augmentation, and their losses compared.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import timm.data
import timm.optim
import torch
from figures import DATA, machine
from PIL import Image
from torch.nn import functional
from torchvision.transforms import v2

from derm_t2im import networks, runtime
from derm_t2im.classify import data
from derm_t2im.classify import train as training
from derm_t2im.imaging.io import read_rgb, square, write_png
from derm_t2im.sources import phantom
from derm_t2im.state import hash_file

CLASSES = ("benign", "malignant")
SMOOTHING = 0.05
Pace = tuple[float, float]
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Case:
    """A model, the side of its images in pixels, and how many steps a round times after how many others."""

    timm: str
    options: dict[str, Any]
    size: int
    steps: int
    skipped: int


CASES = {
    "small": Case("mobilenetv2_050", {"depth_multiplier": 0.3, "act_layer": "silu"}, 64, 32, 8),
    "mobilenetv2_100": Case("mobilenetv2_100", {}, 224, 4, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="timed steps of a round; 0 = as many as suit the case")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2, help="processes that read for the loaders")
    parser.add_argument("--images", type=int, default=256)
    asked = parser.parse_args()
    runtime.device()
    print(machine(), f"torch {torch.__version__}, timm {timm.__version__}, {torch.get_num_threads()} threads", sep="\n")
    for name in asked.case:
        case = CASES[name] if not asked.steps else replace(CASES[name], steps=asked.steps)
        with tempfile.TemporaryDirectory() as folder:
            table = files(Path(folder), case.size, asked.images)
            compare(name, case, table, Path(folder), asked)


def files(folder: Path, size: int, n: int) -> pd.DataFrame:
    """Images in sub-folders by class, as timm reads them, and the table of them: image_id, path, sha256, label."""
    released = sorted((DATA / "ham10000-224" / "images").glob("*.jpg"))[:n]
    rows = []
    for i in range(n):
        label = CLASSES[i % 2]
        path = folder / label / (f"{i:04d}.jpg" if released and size == 224 else f"{i:04d}.png")
        path.parent.mkdir(exist_ok=True)
        if not released:
            write_png(path, phantom.render(phantom.CLINIC_A, "classifier benchmark", i, size=size, label=label).image)
        elif path.suffix == ".jpg":
            path.write_bytes(released[i % len(released)].read_bytes())
        else:
            write_png(path, square(read_rgb(released[i % len(released)]), size))
        rows.append({"image_id": f"{i:04d}", "path": str(path), "sha256": hash_file(path), "label": label})
    return pd.DataFrame(rows).sort_values("path", ignore_index=True)


def compare(name: str, case: Case, table: pd.DataFrame, folder: Path, asked: argparse.Namespace) -> None:
    begin = time.perf_counter()
    images = training.Images.of(data.read_images(table), data.encode(list(table["label"]), CLASSES))
    read = time.perf_counter() - begin
    ways: dict[str, Callable[[bool], Pace]] = {
        "timm's loader": lambda layout: looped(case, partial(of_timm, case, folder, asked), layout, asked.batch),
        "plain loop": lambda layout: looped(case, partial(of_torch, table, asked), layout, asked.batch),
        "ours": lambda layout: ours(case, images, layout, asked.batch),
    }
    paces: dict[tuple[str, bool], list[Pace]] = {(way, layout): [] for layout in (False, True) for way in ways}
    for _ in range(asked.rounds):
        for (way, layout), measured in paces.items():
            measured.append(ways[way](layout))
    kind = Path(table["path"].iloc[0]).suffix[1:].upper()
    print(f"\n{name}, {case.size} px {kind}, batch {asked.batch}, {asked.rounds} rounds of {case.steps} steps, "
          f"{asked.workers} workers; ours read {len(table)} files in {read:.2f} s")  # fmt: skip
    titles = (
        "channels_last",
        "way",
        "images/s",
        "least",
        "most",
        "CPU ms/image",
        "ours / it",
        "least",
        "most",
        "by CPU",
    )
    print("".join(f"{title:>14s}" for title in titles))
    for (way, layout), measured in paces.items():
        rate, cost = np.array(measured).T
        own_rate, own_cost = np.array(paces["ours", layout]).T
        told = [f"{of(rate):.1f}" for of in (np.median, np.min, np.max)]
        told += [f"{np.median(cost):.1f}", *(f"{of(own_rate / rate):.2f}" for of in (np.median, np.min, np.max))]
        told += [f"{np.median(cost / own_cost):.2f}"]
        print("".join(f"{value:>14s}" for value in ("yes" if layout else "no", way, *told)))
    best, other = np.array(paces["ours", True]), np.array(paces["timm's loader", False])
    gain = best[:, 0] / other[:, 0]
    print(f"ours with channels_last / timm's loader without: {np.median(gain):.2f} ({gain.min():.2f} to "
          f"{gain.max():.2f}), by CPU {np.median(other[:, 1] / best[:, 1]):.2f}", flush=True)  # fmt: skip
    print("losses of the same batches:", losses(case, table, images, asked.batch), flush=True)


def network_of(case: Case) -> networks.Network:
    return networks.build(case.timm, case.options, CLASSES, case.size, seed=0)


def settings_of(case: Case, batch: int, layout: bool, **change: Any) -> training.Settings:
    steps = case.skipped + case.steps
    how = training.Settings(steps, batch, 1e-3, 0.05, label_smoothing=SMOOTHING, channels_last=layout)
    return replace(how, **change)


class Clock:
    """A moment: by the wall, and by the processor time of this process and those that read for it."""

    def __init__(self) -> None:
        self.wall = time.perf_counter()
        own = psutil.Process()
        spent = [each.cpu_times() for each in (own, *own.children(recursive=True))]
        self.processor = sum(each.user + each.system for each in spent)

    def until(self, end: Clock, images: int) -> Pace:
        """Images per second, and milliseconds of processor time per image."""
        return images / (end.wall - self.wall), 1000 * (end.processor - self.processor) / images


def ours(case: Case, images: training.Images, layout: bool, batch: int) -> Pace:
    """The pace of `training.fit` after the first steps."""
    passed: dict[float, Clock] = {}

    def report(point: dict[str, float]) -> None:
        passed[point["step"]] = Clock()

    training.fit(
        network_of(case), images, settings_of(case, batch, layout, evaluate_every=case.skipped), 0, report=report
    )
    return passed[case.skipped].until(passed[case.skipped + case.steps], case.steps * batch)


def looped(case: Case, batches: Callable[[networks.Network], Batches], layout: bool, batch: int) -> Pace:
    """The pace of the loop that a user of timm or torch would write."""
    network = network_of(case)
    step = stepper(network, layout)
    source = batches(network)
    for images, truth in islice(source, case.skipped):
        step(images, truth)
    begin = Clock()
    for images, truth in islice(source, case.steps):
        step(images, truth)
    return begin.until(Clock(), case.steps * batch)


def stepper(network: networks.Network, layout: bool) -> Callable[..., float]:
    """One step of a plain loop: normalised images (b, 3, s, s) and class indices in, the loss out."""
    wanted = torch.channels_last if layout else torch.contiguous_format
    module = network.module.to(memory_format=wanted).train()
    optimiser = torch.optim.AdamW(timm.optim.param_groups_weight_decay(module, 0.05), lr=1e-3)

    def step(images: torch.Tensor, truth: torch.Tensor, lr: float = 1e-3) -> float:
        for group in optimiser.param_groups:
            group["lr"] = lr
        logits = module(images.contiguous(memory_format=wanted))
        loss = functional.cross_entropy(logits, truth, label_smoothing=SMOOTHING)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def of_timm(case: Case, folder: Path, asked: argparse.Namespace, network: networks.Network) -> Batches:
    """Batches of timm's dataset and loader, without end."""
    loader = timm.data.create_loader(
        timm.data.create_dataset("", root=str(folder), is_training=True),
        (3, case.size, case.size), asked.batch, is_training=True, scale=(0.85, 1.0), ratio=(1.0, 1.0), hflip=0.5,
        vflip=0.5, color_jitter=(0.12, 0.12, 0.0), interpolation="bilinear", mean=network.mean, std=network.std,
        num_workers=asked.workers, persistent_workers=asked.workers > 0, use_prefetcher=False,
        device=torch.device("cpu"),
    )  # fmt: skip
    while True:
        yield from loader


class Files(torch.utils.data.Dataset):
    """A dataset as one writes it: open, transform."""

    def __init__(self, table: pd.DataFrame, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.paths, self.labels = list(table["path"]), data.encode(list(table["label"]), CLASSES)
        side = Image.open(self.paths[0]).size[0]
        turns = v2.RandomChoice([v2.Identity(), *(v2.RandomRotation((k, k)) for k in (90, 180, 270))])
        self.transform = v2.Compose([
            v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), turns,
            v2.RandomCrop(side, padding=side // 12, padding_mode="reflect"),
            v2.ColorJitter(brightness=0.12, contrast=0.12), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.open(self.paths[i]).convert("RGB")), int(self.labels[i])


def of_torch(table: pd.DataFrame, asked: argparse.Namespace, network: networks.Network) -> Batches:
    """Batches of a plain dataset and torch's loader, without end."""
    loader = torch.utils.data.DataLoader(
        Files(table, network.mean, network.std), asked.batch, shuffle=True, drop_last=True, num_workers=asked.workers,
        persistent_workers=asked.workers > 0,
    )  # fmt: skip
    while True:
        yield from loader


def losses(case: Case, table: pd.DataFrame, images: training.Images, batch: int, steps: int = 4) -> str:
    """Loss by step of ours and of a plain loop that opens the same files in the same order."""
    told = {}
    for layout in (False, True):
        how = settings_of(case, batch, layout, steps=steps, evaluate_every=1, augment="none")
        told[layout] = [point["train_loss"] for point in training.fit(network_of(case), images, how, 0).curve]
    network = network_of(case)
    step = stepper(network, False)
    normalise = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(network.mean, network.std)]
    )
    plain = []
    for k in range(steps):
        rows = data.batch_rows(images.weights, batch, k, 0)
        shown = torch.stack([normalise(Image.open(table["path"].iloc[i]).convert("RGB")) for i in rows])
        plain.append(step(shown, torch.from_numpy(images.labels[rows]), training.learning_rate(how, k)))
    lines = [f"\n  {title:24s}" + " ".join(f"{value:.5f}" for value in values) for title, values in
             (("plain loop", plain), ("ours", told[False]), ("ours, channels_last", told[True]))]  # fmt: skip
    largest = np.abs(np.array([told[False], told[True]]) - np.array(plain)).max(axis=1)
    return "".join(lines) + f"\n  largest difference {largest[0]:.1e}, with channels_last {largest[1]:.1e}"


if __name__ == "__main__":
    main()
