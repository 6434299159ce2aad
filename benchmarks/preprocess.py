"""Speed and memory of preprocessing for growing numbers of images, beside a plain OpenCV loop.

python benchmarks/preprocess.py [--sizes 100 1000 10000] [--side 224] [--to 64] [--distinct 500]

The plain loop is what a user would write: one process, imread, the common snippet for hair (grey
black-hat 9x9, threshold 10, Telea radius 6), resize, imwrite. Ours reads with all checks, finds hair by
its direction, measures 14 qualities, hashes, and writes; `hair and resize only` leaves out what the
loop does not do. Worker processes: DERM_T2IM_WORKERS, else one per core.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import cv2
from figures import machine

from derm_t2im import runtime
from derm_t2im.imaging import hair, io, pool, prepare
from derm_t2im.sources import phantom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--side", type=int, default=224, help="side of the images that are read")
    parser.add_argument("--to", type=int, default=64, help="side of the images that are written")
    parser.add_argument("--distinct", type=int, default=500, help="phantoms to render; further images are copies")
    parser.add_argument("--plain-at-most", type=int, default=1000, help="no plain loop over more images: it only waits")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder if not given")
    parser.add_argument("--one", choices=("all", "hair", "plain"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        work(asked.one, asked.folder, asked.to, asked.sizes[0])
        return
    print(machine())
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        render(folder, asked.side, asked.distinct, max(asked.sizes))
        print(f"{asked.side} px -> {asked.to} px, {runtime.workers()} workers, phantoms of clinic B, hair on 30 %")
        columns = ("images/s", "CPU ms per image", "cores got", "peak MB, parent", "peak MB, all")
        print(f"{'images':>8s}  {'what':28s}" + "".join(f"{c:>18s}" for c in columns))
        for number in asked.sizes:
            for kind, title in (("all", "preprocess, everything"), ("hair", "hair and resize only"),
                                ("plain", "plain OpenCV loop")):  # fmt: skip
                if kind == "plain" and number > asked.plain_at_most:
                    continue
                wall, cpu, parent, everyone = measured(kind, folder, asked.to, number)
                values = (number / wall, 1e3 * cpu / number, cpu / wall, parent, everyone)
                print(f"{number:8d}  {title:28s}" + "".join(f"{v:18.1f}" for v in values), flush=True)


def render(folder: Path, side: int, distinct: int, number: int) -> None:
    """``number`` PNG files of phantoms, the first ``distinct`` of them different."""
    source = folder / "source"
    source.mkdir()
    for k in range(number):
        path = source / f"{k:06d}.png"
        if k < distinct:
            io.write_png(path, phantom.render(phantom.CLINIC_B, "benchmark-preprocess", k, size=side).image)
        else:
            shutil.copy(source / f"{k % distinct:06d}.png", path)


def measured(kind: str, folder: Path, size: int, number: int) -> tuple[float, float, float, float]:
    """Run one kind in a process of its own: wall and processor seconds, peak MB of it, and of it and its workers."""
    command = [sys.executable, __file__, "--one", kind, "--folder", str(folder), "--to", str(size)]
    peak = [0.0, 0.0]
    with subprocess.Popen([*command, "--sizes", str(number)], stdout=subprocess.PIPE, text=True) as process:
        watcher = threading.Thread(target=watch, args=(process, peak))
        watcher.start()
        out, _ = process.communicate()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    wall, cpu = (float(v) for v in out.split())
    shutil.rmtree(folder / "target", ignore_errors=True)
    return wall, cpu, *peak


def watch(process: subprocess.Popen[str], peak: list[float]) -> None:
    """Keep the largest resident memory of a process, and of it with all its descendants, in MB."""
    while process.poll() is None:
        parent = resident(process.pid)
        peak[0] = max(peak[0], parent)
        peak[1] = max(peak[1], parent + sum(resident(pid) for pid in descendants(process.pid)))
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """Process ids below ``pid``."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue  # it has ended
        parents.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found


def resident(pid: int) -> float:
    """Resident memory of a process in MB; 0 where it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def work(kind: str, folder: Path, size: int, number: int) -> None:
    """Do the work of one line of the table and print wall and processor seconds."""
    target = folder / "target"
    jobs = [prepare.Job(p.stem, p, target / p.name) for p in sorted((folder / "source").iterdir())[:number]]
    target.mkdir()
    start = time.perf_counter()
    if kind == "plain":
        plain(jobs, size)
    elif kind == "hair":
        for _ in pool.each(partial(hair_and_resize, size=size), jobs):
            pass
    else:
        one = partial(prepare.prepare, size=size, min_side=32, max_pixels=io.MAX_PIXELS, method="directional")
        for _ in pool.each(one, jobs):
            pass
    wall = time.perf_counter() - start
    times = os.times()
    print(wall, times.user + times.system + times.children_user + times.children_system)


def plain(jobs: list[prepare.Job], size: int) -> None:
    """One process, no checks, the snippet."""
    cv2.setNumThreads(1)
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (9, 9))
    for job in jobs:
        image = cv2.imread(str(job.source))
        hat = cv2.morphologyEx(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.MORPH_BLACKHAT, kernel)
        _, mask = cv2.threshold(hat, 10, 255, cv2.THRESH_BINARY)
        image = cv2.inpaint(image, mask, 6, cv2.INPAINT_TELEA)
        cv2.imwrite(str(job.target), cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA))


def hair_and_resize(job: prepare.Job, size: int) -> None:
    """What the plain loop does, by our means."""
    rgb = io.read_rgb(job.source)
    io.write_png(job.target, io.square(hair.remove_hair(rgb)[0], size))


if __name__ == "__main__":
    main()
