"""Small sets of pictures with whatever is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from derm_t2im.cli import app


def pixels(seed: int, size: tuple[int, int] = (96, 96)) -> np.ndarray:
    """A picture like no other seed's: blotches with some detail, uint8 (h, w, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(150, 25, (9, 9, 3)) + rng.normal(0, 25, (9, 9, 1))
    picture = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) + rng.normal(0, 4, (*size, 1))
    return picture.clip(0, 255).astype(np.uint8)


def save(path: Path, rgb: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path, **options)
    return path


def two_classes(root: Path, each: int = 12, start: int = 0) -> None:
    """Two classes that nothing tells apart."""
    for k in range(2 * each):
        save(root / ("benign", "malignant")[k % 2] / f"{k:03d}.png", pixels(start + k))


def run(path: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["audit", str(path), *options])


def audit(path: Path, out: Path, *options: str, code: int = 0) -> dict[str, Any]:
    """The JSON file of an audit that must end with ``code``."""
    target = out / "found.json"
    done = run(path, "--json", str(target), *options)
    assert done.exit_code == code, done.output
    return json.loads(target.read_text())
