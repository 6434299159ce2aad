"""Synthetic images of somebody else, taken in place of drawn ones and judged by the same stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import progress, quarantine
from derm_t2im.errors import UserError
from derm_t2im.imaging import io
from derm_t2im.sources.intake import find_images, open_folder
from derm_t2im.sources.labels import normal

if TYPE_CHECKING:
    import pandas as pd

PARAMETER = "generate.images_from"


def collect(
    folder: Path, size: int, classes: Sequence[str], settings: Callable[[Path], dict[str, str]]
) -> tuple[pd.DataFrame, list[np.ndarray], pd.DataFrame]:
    """Read images from sub-folders that bear the names of classes.

    Args:
        folder: Where they lie.
        size: Side in pixels; images are cropped square and resized, never enlarged.
        classes: Of the real images, to which the sub-folders' names must belong (case does not matter).
        settings: Reads how an image was made from its file; see :func:`derm_t2im.diffusion.png.read`.

    Returns:
        Rows of the synthetic manifest without path, images uint8 (size, size, 3), and the quarantine.

    Raises:
        UserError: if the folder, or a usable image in it, is missing, or a sub-folder is no class.
    """
    import pandas as pd

    root = open_folder(folder, PARAMETER)
    known = {normal(name): name for name in classes}
    files = sorted(Path(found.file) for same in find_images(root).values() for found in same)
    others = sorted({file.parts[0] for file in files if len(file.parts) > 1 and normal(file.parts[0]) not in known})
    if others:
        raise UserError(
            f"{PARAMETER}: {folder} has sub-folders that are no classes ({', '.join(others[:5])}); "
            f"the real images' are {', '.join(classes)}."
        )
    rows, images, bad = [], [], []
    for file in progress.track(files, "generate: read"):
        name = "_".join(file.with_suffix("").parts)
        row: dict[str, Any] = {"image_id": name, "kind": "synthetic", "path": file.as_posix()}
        try:
            if len(file.parts) == 1:
                raise io.ImageError("no_label", "it lies in no sub-folder named by class")
            if not (root / file).resolve().is_relative_to(root):
                raise io.ImageError("outside", "it leads out of the folder")
            image = io.square(io.read_rgb(root / file, min_side=size), size)
        except io.ImageError as error:
            bad.append({**row, "reason": error.reason, "detail": error.detail})
            continue
        rows.append({**row, "label": known[normal(file.parts[0])], "source": root.name, **_made(settings(root / file))})
        images.append(image)
    if not rows:
        raise UserError(f"{PARAMETER}: no image in {folder} can be used ({len(bad)} in quarantine); see docs/data.md.")
    return (
        quarantine.unique_ids(pd.DataFrame(rows)),
        images,
        pd.DataFrame(bad, columns=["image_id", "kind", "path", "reason", "detail"]),
    )


def _made(said: dict[str, str]) -> dict[str, Any]:
    """Columns of the manifest from the web UI's names; what is not said, or no number, is missing."""

    def number(key: str, kind: type) -> Any:
        try:
            return kind(said[key])
        except (KeyError, ValueError):
            return None

    return {
        "prompt": said.get("prompt") or None,
        "negative_prompt": said.get("negative_prompt") or None,
        "attributes": "{}",
        "seed": number("Seed", int),
        "sampler": said.get("Sampler") or "unknown",
        "steps": number("Steps", int),
        "guidance": number("CFG scale", float),
    }
