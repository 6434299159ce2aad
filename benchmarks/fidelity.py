"""Fidelity metrics beside torch-fidelity and prdc: seconds and peak memory on the same features.

python benchmarks/fidelity.py [--images 2000 10000] [--width 768] [--rounds 3]
python benchmarks/fidelity.py --whole [--images 10000] [--width 128]

Each measurement is a process of its own. Theirs give the same numbers (tests/fidelity/test_agreement.py): KID of the
whole sets as one subset, since ours takes none. All of ours but FID have intervals, theirs none. ``--whole`` times what
the stage does with features given: every metric with floor and ceiling, and the search for copies of 2,800 training
images (the paper's number) among n synthetic ones, with n held-out ones as the null, the second look at the detail of
those suspected included.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from figures import machine

K = 5
REFERENCES = 2800


def features(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Float32 (n, d) with a few strong directions, as those of images."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).normal(size=(32, d)) * np.geomspace(2, 0.1, 32)[:, None]
    return (rng.normal(size=(n, 32)) @ mix + 0.3 * rng.normal(size=(n, d)) + shift).astype(np.float32)


def ours(name: str, real: np.ndarray, made: np.ndarray) -> object:
    from derm_t2im.fidelity import cmmd, fid, kid, prdc, vendi

    work: dict[str, Callable[[], object]] = {
        "fid": lambda: fid.fid(made, real),
        "fid, interval": lambda: fid.fid_interval(made, real),
        "kid": lambda: kid.kid_interval(made, real),
        "prdc": lambda: prdc.prdc(real, made, K),
        "fid_infinity": lambda: fid.fid_infinity(made, real),
        "cmmd": lambda: cmmd.cmmd_interval(made, real),
        "vendi": lambda: vendi.vendi_interval(made),
    }
    return work[name]()


def theirs(name: str, real: np.ndarray, made: np.ndarray) -> object:
    import prdc
    import torch
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    a, b = torch.from_numpy(made), torch.from_numpy(real)
    work: dict[str, Callable[[], object]] = {
        "fid": lambda: metric_fid.fid_statistics_to_metric(
            *(metric_fid.fid_features_to_statistics(x) for x in (a, b)), verbose=False
        ),
        "kid": lambda: metric_kid.kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=len(made), verbose=False),
        "precision and recall": lambda: metric_prc.prc_features_to_metric(
            a, b, prc_neighborhood=K, prc_batch_size=10_000, save_cpu_ram=False, verbose=False
        ),
        "prdc": lambda: prdc.compute_prdc(real, made, nearest_k=K),
    }
    return work[name]()


def whole(name: str, n: int, d: int) -> None:
    """All metrics with floors and ceiling, or the search for copies in all spaces, as the stage calls them."""
    from derm_t2im.fidelity import detail
    from derm_t2im.fidelity.assess import compare
    from derm_t2im.fidelity.copies import Search

    real, made = features(n, d, 1), features(n, d, 2, 0.05)
    if name == "all metrics":
        begin = time.perf_counter()
        compare(real, made, features(200, d, 3), K, equal_length=True)
    else:
        # Views as in assess.views: eight turns of features, of ten crops of 16 x 16 pixels, of the detail of 32 x 32.
        views = {"features": (8, d, np.float64), "pixels": (80, 768, np.float32), "detail": (8, 1025, np.float32)}
        references = {
            space: np.stack([features(REFERENCES, width, view).astype(kind) for view in range(many)])
            for space, (many, width, kind) in views.items()
        }
        null, query = (
            {space: features(n, width, seed).astype(kind) for space, (_, width, kind) in views.items()}
            for seed in (100, 101)
        )
        originals, honest, drawn = (
            np.random.default_rng(seed).integers(0, 256, (many, 64, 64, 3), np.uint8)
            for seed, many in ((1, REFERENCES), (2, n), (3, n))
        )
        begin = time.perf_counter()
        search = Search(references, null, detail.suspected(0.01))
        detail.learn(originals, honest, search.null, 0.01)(drawn, search.find(query))
    report(time.perf_counter() - begin)


def report(seconds: float) -> None:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(f"{seconds} {int(status['VmHWM'].split()[0]) / 1024:.0f}")


def one(side: str, name: str, n: int, d: int) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--one", side, name, str(n), str(d)], capture_output=True, text=True, check=True
    )
    seconds, memory = map(float, done.stdout.split()[-2:])
    return seconds, memory


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        side, name, n, d = sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
        if side == "whole":
            whole(name, n, d)
            return
        real, made = features(n, d, 1), features(n, d, 2, 0.05)
        work = ours if side == "ours" else theirs
        work(name, real[:100], made[:100])  # imports
        begin = time.perf_counter()
        work(name, real, made)
        report(time.perf_counter() - begin)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 10_000])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", action="store_true")
    asked = parser.parse_args()
    print(machine())
    print(f"features of width {asked.width}, median of {asked.rounds}: seconds, peak memory of the process in MiB")
    for n in asked.images:
        if asked.whole:
            for name in ("all metrics", "copies"):
                seconds, memory = one("whole", name, n, asked.width)
                print(f"{n:6d} {name} {seconds:.1f} s {memory:.0f} MiB", flush=True)
            continue
        for name in OURS:
            said = [f"{n:6d} {name:22s}"]
            rates = {}
            for side, names in (("ours", OURS), ("theirs", THEIRS)):
                if name in names:
                    rounds = [one(side, names[name], n, asked.width) for _ in range(asked.rounds)]
                    seconds, memory = (statistics.median(r[i] for r in rounds) for i in (0, 1))
                    rates[side] = seconds
                    said.append(f"{side} {seconds:7.2f} s {memory:6.0f} MiB")
            if len(rates) == 2:
                said.append(f"{rates['theirs'] / rates['ours']:.2f} times as fast")
            print("  ".join(said), flush=True)


OURS = {name: name for name in ("fid", "kid", "prdc")}
OURS |= {"precision and recall": "prdc"}
OURS |= {name: name for name in ("fid, interval", "fid_infinity", "cmmd", "vendi")}
THEIRS = {name: name for name in ("fid", "kid", "prdc", "precision and recall")}

if __name__ == "__main__":
    main()
