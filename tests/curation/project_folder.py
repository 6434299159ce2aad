"""A small project as it stands before `curate`: phantoms play both the real and the synthetic images."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import yaml

from derm_t2im import features, manifest, paths
from derm_t2im.imaging.io import write_png
from derm_t2im.imaging.quality import measure
from derm_t2im.params.curate import Curate
from derm_t2im.sources.phantom import CLINIC_A, CLINIC_B, Phantom, render

REPOSITORY = Path(__file__).parents[2]
CLASSES = ("benign", "malignant")
PLANTED = {"blur": 3, "copy": 3, "off_manifold": 3, "label_disagreement": 3, "near_duplicate": 3}


def build(root: Path, synthetic: int = 60, size: int = 64) -> dict[str, list[str]]:
    """Make the project below ``root``; returns the ids of the planted defects by reason."""
    root.mkdir(parents=True, exist_ok=True)
    # The rules at their own defaults, whatever bounds the committed run uses.
    params = yaml.safe_load((REPOSITORY / paths.PARAMS).read_text())
    params["curate"] = Curate().model_dump(mode="json")
    (root / paths.PARAMS).write_text(yaml.safe_dump(params))
    (root / paths.REVIEW_DECISIONS).parent.mkdir(parents=True, exist_ok=True)
    (root / paths.REVIEW_DECISIONS).write_text("image_id,decision,reason,reviewer,date\n")
    (root / paths.METRICS).mkdir(exist_ok=True)
    (root / paths.VALIDATION_METRICS).write_text(json.dumps({"critical_failures": 0}))
    images: dict[str, np.ndarray] = {}
    real = []
    for split, n, style in (
        ("train", 40, CLINIC_A),
        ("val", 20, CLINIC_A),
        ("test", 20, CLINIC_A),
        ("external", 10, CLINIC_B),
    ):
        for i in range(n):
            name = f"{style.name}-{split}-{i:03d}"
            phantom = render(style, "real", name, size=size, hair=0, label=CLASSES[i % 2])
            images[name] = phantom.image
            path = Path(f"data/processed/images/{name}.png")
            real.append(
                _row(root, path, name, phantom, phantom.image)
                | {"kind": "real", "split": split, "seed_image": split == "train" and i < 10, "group_id": name}
                | {"source": style.name, "licence": "CC0-1.0", "attribution": "rendered", "hair_left": 0.0}
            )
    rows, planted = _synthetic(root, images, synthetic, size)
    manifest.write(pd.DataFrame(real), root / paths.SPLITS_MANIFEST)
    manifest.write(pd.DataFrame(rows), root / paths.SYNTHETIC_MANIFEST)
    wrong = set(planted["label_disagreement"])
    features.save(_features(real, images, set()), root / paths.FEATURES_REAL)
    features.save(_features(rows, images, wrong), root / paths.FEATURES_SYNTHETIC)
    return planted


def _synthetic(
    root: Path, images: dict[str, np.ndarray], n: int, size: int
) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    kinds = [kind for kind, count in PLANTED.items() for _ in range(count)]
    rows, planted = [], {kind: [] for kind in PLANTED}
    rng = np.random.default_rng(0)
    for i in range(n):
        name = f"synthetic-{i:06d}"
        phantom = render(CLINIC_A, "synthetic", name, size=size, hair=0, label=CLASSES[i % 2])
        image, kind = phantom.image, kinds[n - 1 - i] if n - 1 - i < len(kinds) else None
        if kind == "blur":
            image = cv2.GaussianBlur(image, (0, 0), size / 12)
        elif kind == "copy":
            image = np.clip(images[f"{CLINIC_A.name}-train-{i % 40:03d}"] + rng.normal(0, 1, image.shape), 0, 255)
        elif kind == "off_manifold":
            grey = cv2.resize(rng.integers(0, 256, (4, 4), np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
            image = np.repeat(grey[..., None], 3, axis=2)
        elif kind == "near_duplicate":
            image = np.clip(images[f"synthetic-{i - 30:06d}"] + rng.normal(0, 1, image.shape), 0, 255)
        image = image.astype(np.uint8)
        images[name] = image
        if kind:
            planted[kind].append(name)
        words = {"size": phantom.size, "count": "one", "tone": phantom.tone}
        rows.append(
            _row(root, Path(f"data/synthetic/images/{name}.png"), name, phantom, image)
            | {"kind": "synthetic", "source": "derm-t2im", "licence": "CC0-1.0", "negative_prompt": ""}
            | {"prompt": f"sks dermoscopic image of a {phantom.size} {phantom.label} lesion, {phantom.tone} skin"}
            | {"attributes": json.dumps(words, sort_keys=True), "seed": i, "steps": 20, "guidance": 7.0}
            | {"sampler": ("euler_a", "euler", "plms")[i % 3], "base_sha256": "0" * 64, "lora_sha256": "1" * 64}
        )  # fmt: skip
    return rows, planted


def _row(root: Path, path: Path, name: str, phantom: Phantom, image: np.ndarray) -> dict[str, Any]:
    write_png(root / path, image)
    digest = hashlib.sha256((root / path).read_bytes()).hexdigest()
    about = {"image_id": name, "path": path.as_posix(), "sha256": digest, "label": phantom.label}
    return about | {"width": image.shape[1], "height": image.shape[0], "site": phantom.site} | measure(image)


def _features(rows: list[dict[str, Any]], images: dict[str, np.ndarray], wrong: set[str]) -> features.Features:
    """Coarse pixels as features; a probe that is right and sure, but for ``wrong``."""
    rows = sorted(rows, key=lambda row: row["image_id"])
    ids = tuple(row["image_id"] for row in rows)
    matrix = np.stack([cv2.resize(images[i], (5, 5), interpolation=cv2.INTER_AREA).ravel() / 255 for i in ids])
    sure = np.array([[0.9, 0.1] if row["label"] == CLASSES[0] else [0.1, 0.9] for row in rows])
    flip = np.array([i in wrong for i in ids])
    sure[flip] = sure[flip, ::-1]
    return features.Features(ids, matrix.astype(np.float32), CLASSES, sure.astype(np.float32), "coarse")
