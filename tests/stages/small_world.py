"""A repository's worth of inputs for embed, fidelity and validate: 32-pixel phantoms and a random probe."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import yaml

from derm_t2im import manifest, networks, paths
from derm_t2im.sources.phantom import CLINIC_A, CLINIC_B, render
from derm_t2im.state import hash_file

REPOSITORY = Path(__file__).parents[2]
SPLITS = {"train": 24, "val": 16, "test": 40, "external": 12, "unused": 4}
CLASSES = ("benign", "malignant")


def set_parameter(root: Path, section: str, **values) -> None:
    path = root / "params.yaml"
    parameters = yaml.safe_load(path.read_text())
    parameters[section].update(values)
    path.write_text(yaml.safe_dump(parameters))


def _image(root: Path, folder: str, name: str, style, label: str) -> dict:
    path = root / folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), render(style, name, size=32, label=label, hair=0.0).image[..., ::-1])
    return {"image_id": name, "path": f"{folder}/{name}.png", "sha256": hash_file(path), "label": label}


def build(root: Path) -> None:
    (root / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    set_parameter(root, "validate", min_side=32, min_images_per_class=5, max_label_disagreement=1.0)
    set_parameter(root, "fidelity", bootstrap=20, planted_copies=8, neighbours=3)
    real = []
    for split, n in SPLITS.items():
        style = CLINIC_B if split == "external" else CLINIC_A
        for i in range(n):
            name = f"{split}-{i:03d}"
            row = _image(root, "data/processed/images", name, style, CLASSES[i % 2])
            seed = split == "train" and i < 10
            real.append({**row, "kind": "real", "split": split, "seed_image": seed, "group_id": name})
    made = []
    for i in range(40):
        row = _image(root, "data/synthetic/images", f"synthetic-{i:03d}", CLINIC_A, CLASSES[i % 2])
        drawn = {"prompt": f"sks {row['label']} lesion", "seed": i, "sampler": "euler", "steps": 20, "guidance": 7.0}
        made.append({**row, "kind": "synthetic", **drawn})
    write(root, real, made)
    options = {"channels": [8, 12, 16, 24], "stem_width": 8}
    networks.save(networks.build("resnet10t", options, CLASSES, 32, seed=1), root / paths.PROBE)


def write(root: Path, real: list[dict], made: list[dict]) -> None:
    raw = pd.DataFrame(real).drop(columns=["split", "seed_image", "group_id"]).assign(width=32, height=32)
    manifest.write(raw, root / paths.RAW_MANIFEST)
    manifest.write(pd.DataFrame(real).drop(columns=["split", "seed_image"]), root / paths.PROCESSED_MANIFEST)
    manifest.write(pd.DataFrame(real), root / paths.SPLITS_MANIFEST)
    manifest.write(pd.DataFrame(made), root / paths.SYNTHETIC_MANIFEST)


def change(path: Path, edit) -> None:
    """Rewrite a manifest after ``edit`` has changed the table."""
    table = manifest.read(path)
    manifest.write(edit(table.copy()), path)


def overwrite(root: Path, table: pd.DataFrame, name: str, pixels: np.ndarray) -> None:
    path = root / table.set_index("image_id").loc[name, "path"]
    cv2.imwrite(str(path), pixels[..., ::-1])
