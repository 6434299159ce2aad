"""How long the App takes to open a large set: `python benchmarks/room.py PROJECT [IMAGES]`.

PROJECT is a folder in which the pipeline has run. Its curated set and features are repeated, under new ids, in a
temporary project of IMAGES images (default 10000, real and synthetic in the project's own proportion); the image
files are shared. Timed from the start of `derm-t2im browse`: until it says that the App is open, and until a headless
Chromium shows the grid with the number of images.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from derm_t2im import features, manifest, paths
from tests.curation import headless


def repeat(source: Path, target: Path, images: int) -> None:
    synthetic, real = manifest.read(source / paths.CURATED_MANIFEST), manifest.read(source / paths.CURATED_REAL)
    share = images / (len(synthetic) + len(real))
    counts = (round(len(synthetic) * share), images - round(len(synthetic) * share))
    for table, stored, name, n in (
        (synthetic, paths.FEATURES_SYNTHETIC, paths.CURATED_MANIFEST, counts[0]),
        (real, paths.FEATURES_REAL, paths.CURATED_REAL, counts[1]),
    ):
        at = np.arange(n) % len(table)
        round_ = np.arange(n) // len(table)
        old = features.load(source / stored)
        matrix, sure = old.rows(table["image_id"]), old.probabilities[old.index(table["image_id"])]
        many = table.iloc[at].reset_index(drop=True)
        many["image_id"] = [f"{r:02d}-{one}" for r, one in zip(round_, many["image_id"], strict=True)]
        many["path"] = [str((source / one).resolve()) for one in many["path"]]
        if "nearest_real_id" in many.columns:
            many["nearest_real_id"] = [f"00-{one}" for one in many["nearest_real_id"]]
        order = np.argsort(many["image_id"].to_numpy(), kind="stable")
        many = many.iloc[order].reset_index(drop=True)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        many.to_parquet(target / name)
        (target / stored).parent.mkdir(parents=True, exist_ok=True)
        ids = tuple(many["image_id"])
        new = features.Features(ids, matrix[at][order], old.classes, sure[at][order], old.encoder, old.weights)
        features.save(new, target / stored)


def measure(project: Path, images: int) -> tuple[float, float | None]:
    start = time.perf_counter()
    code = "from derm_t2im.cli import main; main()"
    command = [sys.executable, "-c", code, "browse", "--no-open", "--reviewer", "benchmark"]
    process = subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            found = re.search(r"(\d+) images at (http://\S+)", line)
            if found:
                break
        else:
            raise SystemExit("".join(said))
        opened = time.perf_counter() - start
        assert int(found[1]) == images
        if headless.find() is None:
            return opened, None
        with headless.Browser(1600, 1000) as page:
            page.open(found[2])
            page.wait_for(f"document.body?.innerText?.includes('{images:,} samples')", 300)
            page.wait_for("document.querySelector('[data-cy=looker]') !== null", 300)
        return opened, time.perf_counter() - start
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("images", type=int, nargs="?", default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repeat(arguments.project.resolve(), Path(folder), arguments.images)
        print("images  run  App open (s)  grid shown (s)")
        for run in range(arguments.runs):
            opened, shown = measure(Path(folder), arguments.images)
            print(
                f"{arguments.images:6d}  {run:3d}  {opened:12.1f}  " + (f"{shown:14.1f}" if shown else "   no Chromium")
            )


if __name__ == "__main__":
    main()
