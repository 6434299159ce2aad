"""What the search for copies and its second look find, and what they take for one.

python benchmarks/copies.py --project FOLDER
python benchmarks/copies.py --images HAM10000/images --size 64 [--train 200]

Of each training image one copy of each kind is planted. With --project the search is that of the stage `curate`; with
--images the folder's images are shuffled into training, null and test images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from figures import machine

from derm_t2im import manifest, paths
from derm_t2im.fidelity import copies, detail, pixels
from derm_t2im.imaging.io import read_stack

QUANTILE = 0.01


def small(images: np.ndarray) -> dict[str, np.ndarray]:
    return pixels.spaces(pixels.thumbnails(images))


def measure(train: np.ndarray, heldout: np.ndarray, honest: dict[str, np.ndarray]) -> None:
    views = pixels.joined(pixels.references(train[i : i + 64]) for i in range(0, len(train), 64))
    alone = copies.Search(views, small(heldout), QUANTILE)
    search = copies.Search(views, small(heldout), detail.suspected(QUANTILE))
    confirm = detail.learn(train, heldout, search.null, QUANTILE)
    print(f"{len(train)} training images; bound {confirm.null:.2f}, {confirm.planted:.2f}: {confirm.bound:.3f}")
    planted = {kind: copies.plant(train, kind, np.random.default_rng(5)) for kind in copies.KINDS}
    for name, images in (planted | honest).items():
        suspected = search.find(small(images))
        found = confirm(images, suspected).flagged.sum()
        print(f"{name}: {suspected.flagged.sum()} suspected, {found} called copies of {len(images)}; by nearness alone "
              f"{alone.find(small(images)).flagged.sum()}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--train", type=int, default=200)
    asked = parser.parse_args()
    print(machine())
    if asked.project:
        splits = manifest.read(asked.project / paths.SPLITS_MANIFEST)
        made = manifest.read(asked.project / paths.SYNTHETIC_MANIFEST)
        train, val, test = (
            read_stack([asked.project / path for path in splits.loc[splits["split"] == name, "path"]])
            for name in ("train", "val", "test")
        )
        pool = read_stack([asked.project / path for path in made["path"]])
        measure(train, val, {"test images": test, "synthetic pool": pool})
        return
    files = sorted(asked.images.glob("*.jpg"))
    count = 2 * asked.train + 500
    chosen = [files[i] for i in np.random.default_rng(0).permutation(len(files))[:count]]
    images = pixels.thumbnails(read_stack(chosen), asked.size)
    train, val, test = np.split(images, [asked.train, 2 * asked.train])
    measure(train, val, {"test images": test})


if __name__ == "__main__":
    main()
