"""Maps over images, for people: tiles and grids as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

TILE = 128  # side of a tile, pixels


class Tile(NamedTuple):
    """One picture of a grid, uint8 (h, w, 3), and what stands below it."""

    rgb: np.ndarray
    caption: str


def overlay(rgb: np.ndarray, heat: np.ndarray | None, mask: np.ndarray, side: int = TILE) -> np.ndarray:
    """An image enlarged to ``side``, its heat map (h, w) over it, the mask's outline in white; uint8.

    A map is scaled to its own maximum: colours of two maps do not compare.
    """
    import cv2
    from matplotlib import colormaps

    shown: np.ndarray = np.asarray(cv2.resize(rgb, (side, side), interpolation=cv2.INTER_CUBIC), np.float32)
    if heat is not None:
        grey = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)[..., None]
        strength: np.ndarray = np.asarray(
            cv2.resize(heat.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
        )
        strength /= max(float(strength.max()), 1e-12)
        colour = np.asarray(colormaps["inferno"](strength), np.float32)[..., :3] * 255
        shown = 0.4 * grey + 0.6 * colour
    out = np.ascontiguousarray(np.clip(shown, 0, 255).astype(np.uint8))
    large = cv2.resize(mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
    contours = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    cv2.drawContours(out, contours, -1, (0, 0, 0), 3)
    cv2.drawContours(out, contours, -1, (255, 255, 255), 1)
    return out


def grid(blocks: Sequence[tuple[str, Sequence[Sequence[Tile]]]], title: str) -> bytes:
    """Blocks of rows of tiles beside each other, each below its heading, as the bytes of a PNG.

    Equal input gives equal bytes.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = max(len(tiles) for _, tiles in blocks)
    columns = [max((len(row) for row in tiles), default=1) for _, tiles in blocks]
    inch = 1.45  # a tile with its caption
    width, height = inch * sum(columns) + 0.4 * len(blocks), (inch + 0.2) * rows + 0.75
    with rc_context({"font.family": "DejaVu Sans", "font.size": 7.5}):
        figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(0.2 / width, 1 - 0.22 / height, title, fontsize=9, fontweight="bold", va="center")
        left = 0.2
        for (heading, tiles), across in zip(blocks, columns, strict=True):
            figure.text(left / width, 1 - 0.52 / height, heading, fontsize=8.5, va="center")
            for i, row in enumerate(tiles):
                for k, tile in enumerate(row):
                    bottom = height - 0.7 - (inch + 0.2) * (i + 1) + 0.28
                    place = ((left + inch * k) / width, bottom / height, (inch - 0.06) / width, (inch - 0.06) / height)
                    axes = figure.add_axes(place)
                    axes.imshow(tile.rgb, interpolation="nearest")
                    axes.set_axis_off()
                    figure.text(place[0], (bottom - 0.09) / height, tile.caption, va="center")
            left += inch * across + 0.4
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
