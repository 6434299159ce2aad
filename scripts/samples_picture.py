"""docs/images/samples.png of a finished run: real images of the training set beside kept synthetic ones.

python scripts/samples_picture.py, in the folder of the run
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from derm_t2im import manifest, paths

TARGET = Path("docs/images/samples.png")
COLUMNS, ROWS, SIDE, GAP = 8, 2, 64, 24


def block(images: pd.DataFrame) -> np.ndarray:
    """Some rows of images of each class, drawn at random, uint8 (rows * SIDE, COLUMNS * SIDE, 3)."""
    rows = []
    for label in sorted(images["label"].unique()):
        drawn = images[images["label"] == label].sample(COLUMNS * ROWS, random_state=0)
        tiles = [np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE))) for path in drawn["path"]]
        rows += [np.hstack(tiles[k * COLUMNS : (k + 1) * COLUMNS]) for k in range(ROWS)]
    return np.vstack(rows)


def main() -> None:
    """Write the picture."""
    splits, curated = manifest.read(paths.SPLITS_MANIFEST), manifest.read(paths.CURATED_MANIFEST)
    real, made = block(splits[splits["split"] == "train"]), block(curated[curated["decision"] == "kept"])
    gap = np.full((len(real), GAP, 3), 255, np.uint8)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.hstack([real, gap, made])).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
