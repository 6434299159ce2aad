"""The second look at suspected copies: does the fine detail agree too?

Small pictures and features say that two lesions look alike; lesions of one kind do. A copy also repeats what no two
lesions share: the grain of the skin, the pigment network. So the fine detail of a suspect and of each of its nearest
originals are laid on one another (turned, mirrored, cropped, shifted by a few pixels) and correlated. How much of this
honest images reach is learnt from held-out real ones, how little a copy may have left from copies that are planted:
the bound lies midway. With this second look the first may suspect many more than there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from derm_t2im import runtime
from derm_t2im.fidelity import pixels
from derm_t2im.fidelity.copies import Copies, plant
from derm_t2im.imaging import alignment, hashing, io

SHIFT = 3  # pixels of 64 by which the detail may be off
MOST = 200  # held-out images from which is learnt
PLANTED = 60  # images of which copies are planted, of each kind of WEAK
WEAK = ("recompressed", "blended")  # the kinds of copy that keep the least of the detail
FAINT = 0.05  # evened detail below: nothing to compare
SUSPECTED = 10  # times as many held-out images may be suspected as may be called copies

Images = Sequence[np.ndarray] | np.ndarray


class Files(Sequence[np.ndarray]):
    """Image files as a sequence of uint8 (h, w, 3), each read when it is asked for."""

    def __init__(self, paths: Sequence[Path | str]) -> None:
        """Keep the paths."""
        self.paths = paths

    def __getitem__(self, at: int) -> np.ndarray:  # type: ignore[override]
        """The image."""
        return io.read_rgb(Path(self.paths[at]))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)


def details(rgb: np.ndarray) -> list[np.ndarray]:
    """Evened fine detail, float32 (64, 64), of an image uint8 (h, w, 3): whole and cropped, in every turn."""
    crops = (rgb[None], *pixels.crops(rgb[None]))
    return [turned[0] for crop in crops for turned in pixels.turns(_detail(crop[0])[None])]


def correlation(query: np.ndarray, reference: list[np.ndarray]) -> float:
    """The best correlation of an image's detail with those of a reference; NaN for an image without detail."""
    import cv2

    template = _detail(query)[SHIFT:-SHIFT, SHIFT:-SHIFT]
    if template.std() < FAINT:
        return float("nan")
    return max(float(cv2.matchTemplate(view, template, cv2.TM_CCOEFF_NORMED).max()) for view in reference)


def _detail(rgb: np.ndarray) -> np.ndarray:
    import cv2

    grey = cv2.cvtColor(hashing.thumbnail(rgb, alignment.SIDE), cv2.COLOR_RGB2GRAY)
    return np.asarray(alignment.evened(grey.astype(np.float32), 2.0, pixels.GRAIN), np.float32)


@dataclass(frozen=True)
class Confirm:
    """Keeps those suspected copies whose detail is that of an original.

    ``bound`` lies midway between ``null``, what held-out images hardly ever reach, and ``planted``, what copies hardly
    ever stay below; or at ``planted`` where the two are not apart, so that no copy is lost. Images without detail are
    copies where they are nearer than all but ``quantile`` of the held-out ones.
    """

    references: Images
    null: float
    planted: float
    quantile: float

    @property
    def bound(self) -> float:
        """The correlation from which a suspect is a copy."""
        return (self.null + self.planted) / 2 if self.planted > self.null else self.planted

    def __call__(self, queries: Images, found: Copies) -> Copies:
        """What :meth:`copies.Search.find` found, without suspects of another detail."""
        rows = np.flatnonzero(found.flagged)
        values = _best(queries, self.references, found.near, rows)
        flagged, reference = found.flagged.copy(), found.reference.copy()
        for row, (value, at) in zip(rows, values, strict=True):
            flagged[row] = found.rank[row] < self.quantile if np.isnan(value) else value >= self.bound
            reference[row] = reference[row] if np.isnan(value) else at
        return replace(found, flagged=flagged, reference=reference)


def suspected(quantile: float) -> float:
    """The quantile with which a search should suspect, for ``quantile`` of honest images being called copies."""
    return min(SUSPECTED * quantile, 0.5)


def learn(references: Images, heldout: Images, null: Copies, quantile: float, seed: int = 0) -> Confirm:
    """A check of detail for copies of ``references``.

    Args:
        references: What may have been copied, in the order of the search's references.
        heldout: Images that cannot be copies, in the order of the search's null.
        null: What the search, whose quantile is :data:`SUSPECTED` times this one, finds for them.
        quantile: Share of held-out images that may lie above ``null``, and of planted copies below ``planted``.
        seed: For the planted copies.
    """
    rows = _spread(len(heldout), MOST)
    honest = np.array([value for value, _ in _best(heldout, references, null.near, rows)])
    chosen = _spread(len(references), PLANTED)
    originals = np.stack([references[at] for at in chosen])
    views = [details(image) for image in originals]
    made = [plant(originals, kind, np.random.default_rng(seed)) for kind in WEAK]
    copied = np.array([correlation(image, view) for images in made for image, view in zip(images, views, strict=True)])
    high = np.nanquantile(honest, 1 - quantile) if np.isfinite(honest).any() else 0.0
    low = np.nanquantile(copied, quantile) if np.isfinite(copied).any() else 0.0
    return Confirm(references, float(high), float(low), quantile)


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def _best(queries: Images, references: Images, near: np.ndarray, rows: np.ndarray) -> list[tuple[float, int]]:
    """For each of ``rows`` of the queries the best correlation with one of its nearest references, and which."""
    of: dict[int, list[int]] = {}
    for row in rows.tolist():
        for at in set(near[row].tolist()):
            of.setdefault(at, []).append(row)

    def compare(at: int) -> list[float]:
        views = details(references[at])  # made once for all that are near to it
        return [correlation(queries[row], views) for row in of[at]]

    best = dict.fromkeys(rows.tolist(), (float("nan"), -1))
    with ThreadPoolExecutor(runtime.workers()) as pool:  # OpenCV lets threads run side by side
        for at, values in zip(sorted(of), pool.map(compare, sorted(of)), strict=True):
            for row, value in zip(of[at], values, strict=True):
                if value == value and not value <= best[row][0]:
                    best[row] = (value, at)
    return [best[row] for row in rows.tolist()]
