"""Speed and memory of an exported classifier beside torch and plain use of onnxruntime.

python benchmarks/inference.py --model models/onnx/vit/model.onnx --network models/classifiers/vit-hybrid/seed-1
       --images FOLDER [--batches 1 8 64 256] [--seconds 10] [--kinds ours torch ...] [--device cpu]
python benchmarks/inference.py --timm vit_base_patch16_224 --size 224 ...      a network of timm, random weights
python benchmarks/inference.py --model ... --images FOLDER --scale 1000 10000 100000    cost with flat memory

Tensors: prepared uint8 images in memory to probabilities. The kinds take turns of a quarter of a second, so that
other work on the machine meets all of them alike; p50 and p95 are of one call, `ratio` is the p50 of torch over that
of the kind.
Files: JPEG files to probabilities. The plain loops are what a user would write: Pillow, crop, the same hair
removal (where the model wants it, or the answers would be others), resize, a batch into torch or `session.run`.

`ours`: `Predictor`; `ours fp16`, `ours int8`: model.fp16.onnx and model.int8.onnx beside the model, where they
are; `torch`: eager, fp32; `torch fp16`: the same in half precision, on a GPU alone; `compile`: torch.compile
(its first calls, which compile, are not counted); `plain`: `session.run` of the same file with onnxruntime's
defaults. Peak memory is that of a process which does nothing else.

On a GPU machine: --device cuda, with onnxruntime-gpu and the CUDA build of torch; torch then runs there as well,
and the memory is that of the GPU, of all processes less what was taken before.
`decode share` is the share of the time from files that is left without the model.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from figures import machine
from PIL import Image

from derm_t2im import runtime
from derm_t2im.deploy.predict import predict_files
from derm_t2im.deploy.runtime import CPU, CUDA, Predictor
from derm_t2im.imaging.hair import remove_hair

Run = Callable[[np.ndarray], np.ndarray]
TURN, PAUSE = 0.25, 0.05  # seconds
KINDS = ("torch", "torch fp16", "compile", "plain", "ours", "ours fp16", "ours int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="exported file")
    parser.add_argument("--timm", help="instead of a model: this architecture, exported with random weights")
    parser.add_argument("--size", type=int, default=224, help="of --timm, pixels")
    parser.add_argument("--network", type=Path, help="folder of the network that it was exported from")
    parser.add_argument("--images", type=Path, help="folder of JPEG files; without it tensors alone")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seconds", type=float, default=10, help="for each kind and batch")
    parser.add_argument("--files", type=int, default=256, help="files of one round")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "tensorrt"))
    parser.add_argument("--no-memory", action="store_true", help="no processes for the peak memory")
    parser.add_argument("--scale", type=int, nargs="+", help="numbers of files")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        alone(asked, asked.one)
        return
    print(machine() + ("" if asked.device == "cpu" else f"; {gpu('name')}"))
    if asked.timm:
        with tempfile.TemporaryDirectory() as folder:
            asked.model, asked.network = export(asked.timm, asked.size, Path(folder))
            measure(asked)
    elif asked.model:
        measure(asked)
    else:
        parser.error("name a file with --model, or an architecture with --timm")


def measure(asked: argparse.Namespace) -> None:
    """All tables asked for."""
    card = Predictor(asked.model, asked.device).card
    print(f"{asked.model}: {card.architecture}, {card.size} px, hair removal {card.hair_removal}, {asked.device}")
    if asked.scale:
        scale(asked)
        return
    tensors(asked)
    if asked.images:
        files(asked)


def export(name: str, size: int, folder: Path) -> tuple[Path, Path]:
    """A network of random weights, in fp32 and fp16, and the folder of the network itself."""
    from derm_t2im import networks
    from derm_t2im.deploy.card import Card
    from derm_t2im.deploy.export import assemble, body
    from derm_t2im.deploy.quantise import half

    network = networks.build(name, {}, ("benign", "malignant"), size)
    networks.save(network, folder / "network")
    card = Card(architecture=name, classes=network.classes, positive=("malignant",), size=size, mean=network.mean,
                std=network.std, hair_removal="none", threshold=0.5, threshold_sensitivity=0.9, training_mix="none",
                training_seed=0, training_sources=(), weights_sha256="0" * 64)  # fmt: skip
    made = body(network)
    path = folder / "model.onnx"
    path.write_bytes(assemble(made, card))
    path.with_suffix(".fp16.onnx").write_bytes(assemble(half(made), card.model_copy(update={"precision": "fp16"})))
    return path, folder / "network"


def gpu(what: str) -> str:
    """What nvidia-smi says of the first GPU."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]


def runs(asked: argparse.Namespace) -> dict[str, Run]:
    """The kinds that can be had, each from uint8 (n, size, size, 3) to probabilities."""
    made: dict[str, Run] = {}
    for kind in asked.kinds:
        if kind in ("torch", "torch fp16", "compile"):
            if asked.network and (kind != "torch fp16" or asked.device != "cpu"):
                made[kind] = torch_run(asked, kind)
        elif kind == "plain":
            made[kind] = plain_run(asked)
        else:
            variant = kind.removeprefix("ours").strip()
            path = asked.model.with_suffix(f".{variant}.onnx") if variant else asked.model
            if path.is_file():
                predictor = Predictor(path, asked.device)
                made[kind] = lambda x, p=predictor: p.predict(x, len(x))
    return made


def torch_run(asked: argparse.Namespace, kind: str) -> Run:
    import torch

    from derm_t2im import networks

    torch.set_num_threads(runtime.threads())
    device = "cpu" if asked.device == "cpu" else "cuda"
    network = networks.load(asked.network, device)
    module = torch.compile(network.module, dynamic=False) if kind == "compile" else network.module
    if kind == "torch fp16":
        module.half()
    bits = torch.float16 if kind == "torch fp16" else torch.float32

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits = module(network.prepare(torch.from_numpy(images).to(device)).to(bits))
            return torch.softmax(logits.float(), dim=1).cpu().numpy()

    return run


def plain_run(asked: argparse.Namespace) -> Run:
    import onnxruntime

    provider = [CPU] if asked.device == "cpu" else [CUDA, CPU]
    session = onnxruntime.InferenceSession(str(asked.model), providers=provider)
    return lambda images: session.run(["probabilities"], {"image": images})[0]


def tensors(asked: argparse.Namespace) -> None:
    """The table of prepared images."""
    size = Predictor(asked.model, "cpu").card.size
    kinds = runs(asked)
    print(f"\ntensors{'batch':>9s}  {'kind':12s}{'p50 ms':>10s}{'p95 ms':>10s}{'images/s':>10s}{'ratio':>8s}"
          f"{'peak MB':>9s}{'calls':>7s}")  # fmt: skip
    for batch in asked.batches:
        images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        taken = turns({kind: partial(run, images) for kind, run in kinds.items()}, asked.seconds)
        for kind, times in taken.items():
            p50, p95 = np.percentile(times, (50, 95))
            ratio = f"{np.median(taken['torch']) / p50:8.2f}" if "torch" in taken else f"{'':8s}"
            peak = 0.0 if asked.no_memory else memory(asked, f"tensors/{kind}/{batch}")
            print(f"{batch:16d}  {kind:12s}{1e3 * p50:10.1f}{1e3 * p95:10.1f}{batch / p50:10.0f}{ratio}{peak:9.0f}"
                  f"{len(times):7d}", flush=True)  # fmt: skip


def turns(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds of each call, in turns of :data:`TURN` seconds or one call; at least three turns.

    Before each turn a pause: with its defaults onnxruntime's threads spin for a while after a call, and took the cores
    from whoever came next. Short calls have their first of a turn left out.
    """
    taken: dict[str, list[float]] = {kind: [] for kind in calls}
    for call in calls.values():
        call()
    end = time.monotonic() + seconds * len(calls)
    rounds = 0
    while time.monotonic() < end or rounds < 3:
        rounds += 1
        for kind, call in calls.items():
            time.sleep(PAUSE)
            times: list[float] = []
            while sum(times) < TURN:
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            taken[kind] += times[1:] or times
    return taken


def files(asked: argparse.Namespace) -> None:
    """The table of files."""
    named = some(asked.images, asked.files)
    predictor = Predictor(asked.model, asked.device)
    kinds = {kind: run for kind, run in runs(asked).items() if kind in ("torch", "plain")}
    print(f"\nfiles  {'batch':>9s}  {'kind':22s}{'images/s':>10s}{'p50 s':>10s}{'p95 s':>10s}{'ratio':>8s}"
          f"{'peak MB':>9s}{'rounds':>7s}")  # fmt: skip
    for batch in asked.batches:
        calls: dict[str, Callable[[], object]] = {
            f"Pillow loop, {kind}": partial(loop, predictor, named, batch, run) for kind, run in kinds.items()
        }
        calls["ours"] = partial(all_of, predictor, named, batch)
        calls["ours, without the model"] = partial(all_of, Nothing(predictor), named, batch)
        taken = turns(calls, asked.seconds)
        first = np.median(next(iter(taken.values())))
        for kind, times in taken.items():
            p50, p95 = np.percentile(times, (50, 95))
            what = {"ours": "files/ours"}.get(kind, "")
            peak = memory(asked, f"{what}/{batch}") if what and not asked.no_memory else 0.0
            print(f"{batch:16d}  {kind:22s}{len(named) / p50:10.0f}{p50:10.2f}{p95:10.2f}{first / p50:8.2f}{peak:9.0f}"
                  f"{len(times):7d}", flush=True)  # fmt: skip
        share = np.median(taken["ours, without the model"]) / np.median(taken["ours"])
        print(f"{'':16s}  decode share {share:.0%}")


def all_of(predictor: Any, named: list[Path], batch: int) -> list[object]:
    return list(predict_files(predictor, named, batch, processes=True))


def loop(predictor: Predictor, named: list[Path], batch: int, run: Run) -> list[np.ndarray]:
    """One thread, no checks: what a user would write."""
    size, method = predictor.card.size, predictor.card.hair_removal
    found = []
    for start in range(0, len(named), batch):
        images = []
        for path in named[start : start + batch]:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
            bare = Image.fromarray(remove_hair(np.asarray(image), method)[0])
            images.append(np.asarray(bare.resize((size, size), Image.Resampling.BILINEAR)))
        found.append(run(np.stack(images)))
    return found


class Nothing:
    """A predictor whose model costs nothing."""

    def __init__(self, of: Predictor) -> None:
        self.card, self.prepare = of.card, of.prepare
        self._answer = of.run(np.zeros((1, of.card.size, of.card.size, 3), np.uint8))

    def run(self, images: np.ndarray, batch: int = 64) -> object:
        return type(self._answer)(*(None if v is None else np.repeat(v, len(images), axis=0) for v in self._answer))


def some(folder: Path, number: int) -> list[Path]:
    """``number`` files of a folder, over again where it holds fewer."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise SystemExit(f"no JPEG files below {folder}")
    return [found[k % len(found)] for k in range(number)]


def scale(asked: argparse.Namespace) -> None:
    """`derm-t2im predict` on growing numbers of files, hard links to those of --images, each in a new process."""
    print(f"{'files':>8s}{'seconds':>10s}{'images/s':>10s}{'peak MB':>9s}")
    with tempfile.TemporaryDirectory(dir=asked.images.parent if os.access(asked.images.parent, os.W_OK) else None) as t:
        place = Path(t) / "files"
        place.mkdir()
        for number in asked.scale:
            for k, path in islice(enumerate(some(asked.images, number)), len(list(place.iterdir())), None):
                link(path, place / f"{k:07d}.jpg")
            start = time.perf_counter()
            code = (
                "from derm_t2im import cli\ntry: cli.main()\n"
                "finally: print([x for x in open('/proc/self/status') if 'VmHWM' in x][0].split()[1])"
            )
            command = ["predict", str(place), "--model", str(asked.model), "--out", str(Path(t) / "out.csv")]
            done = subprocess.run([sys.executable, "-c", code, *command, "--device", asked.device], text=True,
                                  capture_output=True)  # fmt: skip
            if done.returncode:
                raise SystemExit(done.stderr)
            wall = time.perf_counter() - start
            print(f"{number:8d}{wall:10.1f}{number / wall:10.0f}{int(done.stdout) / 1e3:9.0f}", flush=True)


def link(path: Path, target: Path) -> None:
    """A hard link, or a soft one where the file lies on another disk."""
    try:
        os.link(path, target)
    except OSError:
        target.symlink_to(path.resolve())


def memory(asked: argparse.Namespace, what: str) -> float:
    """Peak MB of a process that does one thing."""
    command = [sys.executable, __file__, "--one", what, "--model", str(asked.model), "--device", asked.device]
    for name in ("network", "images"):
        if getattr(asked, name):
            command += [f"--{name}", str(getattr(asked, name))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def alone(asked: argparse.Namespace, what: str) -> None:
    kind, *name, batch = what.split("/")
    before = 0.0 if asked.device == "cpu" else float(gpu("memory.used"))
    if kind == "files":
        for _ in everything(asked, int(batch)):
            pass
    else:
        asked.kinds = name
        size = Predictor(asked.model, "cpu").card.size
        run = runs(asked)[name[0]]
        images = np.zeros((int(batch), size, size, 3), np.uint8)
        for _ in range(3):
            run(images)
    if asked.device != "cpu":
        print(float(gpu("memory.used")) - before)
        return
    # Not getrusage: its peak is handed down from the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1e3)


def everything(asked: argparse.Namespace, batch: int) -> Iterator[object]:
    return predict_files(Predictor(asked.model, asked.device), some(asked.images, 4 * batch), batch, processes=True)


if __name__ == "__main__":
    main()
