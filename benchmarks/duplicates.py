"""Near-duplicate search for growing sets, beside the plain ways: `python benchmarks/duplicates.py`.

Images are uint8 arrays of 96 px in memory: phantoms, or those below DERM_T2IM_DATA/ham10000-full-200x150
where it is there. One in a hundred is planted again, by turns flipped, turned and cropped by 10 %. Plain:
perceptual hashes of whole images, all pairs, 4 bits - in a Python loop as one writes it with the package
imagehash, and with numpy. Each size runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

IMAGES = (1_000, 2_000, 5_000, 10_000)
HASHES = (10_000, 20_000, 50_000, 100_000)
LOOP_AT_MOST = 2_000  # beyond, a Python loop over all pairs is not waited for
TABLE_AT_MOST = 20_000
BITS = 4


def pictures(count: int) -> np.ndarray:
    """uint8 (count, 96, 96, 3)."""
    import cv2

    folder = Path(os.environ.get("DERM_T2IM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    files = sorted((folder / "ham10000-full-200x150" / "images").glob("*.jpg"))[:count]
    if len(files) == count:
        from derm_t2im.imaging import io

        return np.stack([cv2.resize(io.read_rgb(file), (96, 96), interpolation=cv2.INTER_AREA) for file in files])
    from derm_t2im.sources import phantom

    return np.stack([phantom.render(phantom.CLINIC_A, 0, k, size=96).image for k in range(count)])


def planted(images: np.ndarray) -> tuple[list[np.ndarray], set[tuple[int, int]]]:
    """Copies of one in a hundred, and the pairs that they make."""
    rng = np.random.default_rng(0)
    copies, pairs = [], set()
    for k, at in enumerate(rng.choice(len(images), len(images) // 100, replace=False).tolist()):
        image = images[at]
        top, left = rng.integers(0, 10, 2)
        changed = (image[:, ::-1], np.rot90(image), image[top : top + 86, left : left + 86])[k % 3]
        copies.append(np.ascontiguousarray(changed))
        pairs.add((at, len(images) + k))
    return copies, pairs


def timed(work: Callable[[], set[tuple[int, int]]]) -> dict[str, object]:
    wall, cpu = time.perf_counter(), time.process_time()
    pairs = work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "pairs": pairs}


def as_set(rows: np.ndarray) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in rows[:, :2]}


def numpy_pairs(hashes: list[str]) -> set[tuple[int, int]]:
    values = np.array([int(text, 16) for text in hashes], np.uint64)
    found: set[tuple[int, int]] = set()
    for start in range(0, len(values), 1000):
        block = np.bitwise_count(values[start : start + 1000, None] ^ values[None]) <= BITS
        first, second = np.nonzero(block)
        first += start
        found |= {(int(a), int(b)) for a, b in zip(first[first < second], second[first < second], strict=True)}
    return found


def loop_pairs(hashes: list[str]) -> set[tuple[int, int]]:
    arrays = [np.array([c == "1" for c in f"{int(text, 16):064b}"]) for text in hashes]  # as imagehash keeps them
    return {
        (a, b)
        for a in range(len(arrays))
        for b in range(a + 1, len(arrays))
        if np.count_nonzero(arrays[a] != arrays[b]) <= BITS
    }


def one(kind: str, count: int, way: str) -> dict[str, float]:
    """One measurement, in this process."""
    from derm_t2im import duplicates
    from derm_t2im.imaging import hashing

    before = 0
    if kind == "images":
        originals = pictures(count)
        copies, truth = planted(originals)
        everything = [*originals, *copies]
        duplicates.search(everything[:64])  # imports and threads
        hashed = {"ours": None, "numpy": numpy_pairs, "loop": loop_pairs}[way]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if hashed is None:
            result = timed(lambda: as_set(duplicates.search(everything).at))
        else:
            result = timed(lambda: hashed([hashing.phash(image) for image in everything]))
    else:
        rng = np.random.default_rng(0)
        bits = rng.integers(0, 2, (count, 64), dtype=np.uint8)
        bits[:, 0] = 0
        copies_of = rng.choice(count // 2, count // 100, replace=False)
        bits[count - len(copies_of) :] = bits[copies_of]
        truth = {(int(a), count - len(copies_of) + k) for k, a in enumerate(copies_of)}
        texts = [row.tobytes().hex() for row in np.packbits(bits, axis=1)]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ours = way == "ours"
        result = timed(lambda: as_set(duplicates.near_pairs(texts, BITS)) if ours else numpy_pairs(texts))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pairs = result.pop("pairs")
    return {**result, "peak": peak / 1024, "before": before / 1024, "recall": len(truth & pairs) / len(truth)}


def measured(kind: str, count: int, way: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, kind, str(count), way], capture_output=True, text=True, check=True, env=os.environ
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Print one table."""
    from derm_t2im import runtime

    cores = runtime.workers()
    print(f"{platform.platform()}, Python {platform.python_version()}, {cores} threads for ours, 1 for the plain ways")
    print("images: 64-bit hashes of whole images find no crops; ours also reduces, hashes, aligns and confirms")
    print(
        f"{'what':8} {'n':>7} {'way':6} {'wall s':>8} {'CPU s':>8} {'x ours':>7} {'peak MB':>8} {'planted found':>14}"
    )
    plans = [("images", count, ("ours", "numpy", "loop")) for count in IMAGES]
    plans += [("hashes", count, ("ours", "numpy")) for count in HASHES]
    for kind, count, ways in plans:
        ours = None
        for way in ways:
            most = {"ours": max(HASHES), "numpy": TABLE_AT_MOST, "loop": LOOP_AT_MOST}[way]
            if count > most:
                continue
            row = measured(kind, count, way)
            ours = ours or row
            print(
                f"{kind:8} {count:7,} {way:6} {row['wall']:8.2f} {row['cpu']:8.2f} {row['wall'] / ours['wall']:7.2f} "
                f"{row['peak']:8.0f} {row['recall']:14.3f}",
                flush=True,
            )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(one(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
    else:
        main()
