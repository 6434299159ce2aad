"""What one can watch while a model is fine-tuned: figures of each step and grids of samples, kept by DVCLive.

Everything here can be made again from the training's history and the sample grids, and holds no times: a resumed run
writes the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import paths
from derm_t2im.diffusion import sample
from derm_t2im.errors import exhausted
from derm_t2im.imaging.io import write_png
from derm_t2im.progress import say
from derm_t2im.state import seal, whole

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import StableDiffusionPipeline

COLUMNS = 4  # of a grid
TILE = 128  # side of one sample in a grid, pixels: grids lie in Git
STRIP = 14  # height of a line of text


class Log:
    """A DVCLive log; :attr:`results` is the folder that `dvc plots` shows."""

    def __init__(self, folder: Path) -> None:
        """Begin anew below ``folder``; without dvclive (a machine that only trains) nothing is logged."""
        self.results = folder / "plots"
        self.results.mkdir(parents=True, exist_ok=True)
        self.live: Any = None
        try:
            from dvclive import Live
        except ModuleNotFoundError:  # a library that finds no memory is an ImportError too
            return
        try:
            self.live = Live(str(folder), save_dvc_exp=False, dvcyaml=None, monitor_system=False, report=None)
        except Exception as error:  # it looks into Git, and a repository without a commit is too little for it
            if told := exhausted(error):
                raise told from None
            say(f"finetune: no log in {paths.FINETUNE_PLOTS}: {' '.join(str(error).split())[:200]}")

    def figures(self, name: str, step: int, values: dict[str, float]) -> None:
        """Figures of one step, six significant digits as in `metrics/`; ``name`` sets those of a class apart."""
        if self.live is not None:
            self.live.step = step
            for key, value in values.items():
                self.live.log_metric(f"{name}/{key}" if name else key, float(f"{value:.6g}"))

    def image(self, file: Path, name: str = "") -> None:
        """An image file named after its step."""
        if self.live is not None:
            self.live.step = int(file.stem)
            self.live.log_image(f"samples/{name}/{file.name}" if name else f"samples/{file.name}", file)

    def close(self) -> None:
        """No more comes."""
        if self.live is not None:
            self.live.end()


class Samples:
    """The same few images of a model at several steps."""

    def __init__(
        self, pipe: StableDiffusionPipeline, rows: pd.DataFrame, folder: Path, log: Log, name: str = ""
    ) -> None:
        """Log the grids that are there.

        Args:
            pipe: The model while it learns.
            rows: :func:`sample.plan` of one sampler.
            folder: Keeps the grids, so that a resumed run draws only those that are missing.
            log: Gets each grid.
            name: Of the class, if each has its own model.
        """
        self.pipe, self.rows, self.folder, self.log, self.name = pipe, rows, folder, log, name
        for file in sorted(folder.glob("[0-9]*.png"), key=lambda file: int(file.stem)):
            if whole(folder, file):
                log.image(file, name)

    def __call__(self, step: int) -> None:
        """Draw the grid of a step, unless it is there."""
        file = self.folder / f"{step}.png"
        if file.is_file():
            return
        write_png(file, sheet(sample.draw(self.pipe, self.rows), self.rows, f"step {step}"))
        seal(self.folder, file)
        self.log.image(file, self.name)


def sheet(images: np.ndarray, rows: pd.DataFrame, title: str, columns: int = COLUMNS) -> np.ndarray:
    """Images uint8 (n, h, w, 3) in a grid below a title, each below what its prompt asked for (``rows`` of a plan)."""
    import cv2

    smaller = images.shape[1] > TILE
    tiles = []
    for image, row in zip(images, rows.itertuples(), strict=True):
        shown = cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
        asked = json.loads(str(row.attributes))
        lesion = [str(row.label), *(asked[key] for key in ("count", "size") if key in asked)]
        around = [asked[key] + " skin" * (key == "tone") for key in ("tone", "site") if key in asked]
        tiles.append(np.vstack([_line(", ".join(lesion)), _line(", ".join(around)), shown]))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    grid = [np.hstack(tiles[at : at + columns]) for at in range(0, len(tiles), columns)]
    return np.vstack([_line(title, columns * TILE), *grid])


def _line(text: str, width: int = TILE) -> np.ndarray:
    import cv2

    strip = np.full((STRIP, width, 3), 255, np.uint8)
    cv2.putText(strip, text, (2, STRIP - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.3, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
