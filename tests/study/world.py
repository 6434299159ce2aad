"""A project as it stands after `curate`, as far as a study needs it: phantoms play real and synthetic images."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from derm_t2im import manifest, paths
from derm_t2im.imaging.io import write_png
from derm_t2im.sources.phantom import CLINIC_A, render

CLASSES = ("benign", "malignant")
SIZE = 48


def build(root: Path, each: int = 16) -> None:
    """``each`` test images and kept synthetic images of a class; further ones that must never be shown."""
    rows = [_row(root, "real", f"real-{s}-{i:03d}", i, split=s) for s, n in (("train", 8), ("val", 4), ("external", 4),
            ("test", 2 * each)) for i in range(n)]  # fmt: skip
    made = [_row(root, "synthetic", f"made-{i:03d}", i, decision="kept") for i in range(2 * each)]
    made += [_row(root, "synthetic", f"bad-{i:03d}", i, decision="rejected") for i in range(4)]
    manifest.write(pd.DataFrame(rows), root / paths.SPLITS_MANIFEST)
    manifest.write(pd.DataFrame(rows), root / paths.CURATED_REAL)
    manifest.write(pd.DataFrame(made), root / paths.CURATED_MANIFEST)


def _row(root: Path, kind: str, name: str, i: int, **more: Any) -> dict[str, Any]:
    path = Path(f"data/{kind}/{name}.png")
    image = render(CLINIC_A, kind, name, size=SIZE, hair=0, label=CLASSES[i % 2]).image
    if kind == "synthetic":  # smoother, as generated images are: compressed, they are smaller files
        image = (image.astype(np.uint16) // 16 * 16).astype(np.uint8)
    write_png(root / path, image)
    digest = hashlib.sha256((root / path).read_bytes()).hexdigest()
    row = {"image_id": name, "path": path.as_posix(), "sha256": digest, "kind": kind, "label": CLASSES[i % 2]}
    if kind == "real":
        row |= {"group_id": name, "seed_image": more["split"] == "train"}
    return row | more


def change(path: Path, where: str, **values: Any) -> None:
    """Change one row of a manifest."""
    table = manifest.read(path)
    for column, value in values.items():
        table.loc[table["image_id"] == where, column] = value
    manifest.write(table, path)
