"""A small project as it stands before `probe` and `mix`: 32 px images whose class shows in their colour."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from derm_t2im import manifest, paths
from derm_t2im.imaging.io import write_png
from derm_t2im.state import hash_file

SIZES = {"train": 16, "val": 12, "test": 20, "external": 10, "unused": 2}
PARAMS: dict[str, Any] = {
    "probe": {
        "model": "resnet10t", "options": {"channels": [8, 12, 16, 24], "stem_width": 8},
        "steps": 20, "batch": 8, "lr": 0.005, "weight_decay": 0.01, "seed": 0,
    },
    "mix": {"mixes": ["real", "hybrid", "oversampled"], "synthetic_fraction": 0.5, "seed": 0},
    "train": {
        "archs": ["cnn", "vit"],
        "models": {
            "cnn": {"timm": "resnet10t", "options": {"channels": [8, 12, 16, 24], "stem_width": 8}, "lr": 0.005},
            "vit": {
                "timm": "vit_tiny_patch16_224",
                "options": {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}, "lr": 0.003,
            },
        },
        "steps": 12, "batch": 8, "warmup": 2, "evaluate_every": 6, "seeds": [0, 1],
    },
    "evaluate": {"positive": "malignant", "bootstrap": 200, "bins": 10, "sensitivity": 0.9, "seed": 0},
}  # fmt: skip


def write(root: Path, classes: tuple[str, ...] = ("benign", "malignant"), **changes: dict[str, Any]) -> None:
    """Images, manifests and params.yaml below ``root``; ``changes`` replace values in a section."""
    params = {name: section | changes.get(name, {}) for name, section in PARAMS.items()}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.rmtree(root / "data", ignore_errors=True)
    rng = np.random.default_rng(0)
    real = [
        _row(root, rng, f"{split}-{i:03d}", "real", classes, i) | {"split": split, "group_id": f"{split}-{i // 2}"}
        for split, n in SIZES.items()
        for i in range(n)
    ]
    synthetic = [
        _row(root, rng, f"synthetic-{i:03d}", "synthetic", classes, i)
        | {"decision": "rejected" if i % 10 > 7 else "kept", "prompt": "a"}
        for i in range(40)
    ]
    manifest.write(pd.DataFrame(real), root / paths.SPLITS_MANIFEST)
    manifest.write(pd.DataFrame(synthetic), root / paths.CURATED_MANIFEST)


def _row(
    root: Path, rng: np.random.Generator, name: str, kind: str, classes: tuple[str, ...], i: int
) -> dict[str, Any]:
    label = i % len(classes)
    pixels = rng.integers(60, 190, (32, 32, 3))
    tint = np.array([[0, 0, 0], [40, 0, 0], [0, 0, 40]])[label % 3]
    path = Path("data/processed/images") / f"{name}.png"
    write_png(root / path, np.clip(pixels + tint + rng.normal(0, 12, 3), 0, 255).astype(np.uint8))
    return {
        "image_id": name, "path": str(path), "sha256": hash_file(root / path), "kind": kind, "label": classes[label],
    }  # fmt: skip
