"""Hair: found by its direction, removed by inpainting.

``directional``: a hair is narrow across and long along. A grey closing by a short line fills it
where the line lies across it and leaves it where the line lies along it; the difference over angles
answers to hairs and hardly to dots, globules and edges, which look the same from all sides. Dark
and light hair, hysteresis, and a filter on length, depth and elongation follow; structure that lies
within the lesion must be far longer to count as hair. All of this happens at :data:`WORKING_SIDE`;
only the width of what was found is measured on the image itself.

``blackhat``: the common snippet after DullRazor (Lee et al. 1997), kept to compare with: grey
black-hat, a fixed threshold, Telea inpainting.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

Method = Literal["none", "blackhat", "directional"]

WORKING_SIDE = 256  # hair is looked for, and filled, at this size at most
ROUGH_SIDE = 64  # for the place of the lesion
ANGLES = 8
ACROSS = 0.04  # reach of the closings, share of the image's side (two scales did no better: docs/imaging.md)
RUNS = (0.03, 0.08)  # a hair runs straight for so much of the side everywhere, and somewhere
STRONG, WEAK = 12.0, 8.0  # depth of a hair's straight part and of all of it, grey levels
NOISE = 1.6  # ... and at least so many times the mean depth around it
AMIDST = 20.0  # ... where deeper grooves count as so deep: near crossings, hair is what is around
LIGHT = 1.4  # light hair has to stand out by so much more: glare is light too
LONG, LONG_INSIDE = 0.12, 0.3  # least length, shares of the side; of what lies within the lesion
THIN, THIN_INSIDE = 5.0, 10.0  # least length over width
PLAIN = 30.0  # hair deeper than this, in grey levels, may be shorter in proportion ...
LEAST = 0.25  # ... but not below this share of LONG
CUT = 0.6  # hair that leaves the picture shows only part of its length
STRAY, STRAY_THIN = 0.04, 2.5  # the same for what is left over beside longer hair
ALIKE = 0.5  # ... and at least so deep as that, as a share of it
CURL = 1.2  # a light line that covers so much more than its box's diagonal is a bubble's rim
MESH = 0.95  # ... or, where it is shallow and within the lesion, its network
WIDE = 0.03  # no hair is wider, share of the side
FLANK = 0.42  # a hair ends where its depth falls below this share
NEAR = (0.04, 0.12, 0.4, 2.0)  # a hole is filled from squares of so much of the side, the first that will do
RIM = 0.005  # its soft rim beyond that, share of the side
MAX_SIDE = 1024  # larger images are shrunk to this before they are worked on (see `prepare`)


def remove_hair(
    rgb: np.ndarray, method: Method = "directional", lesion: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Remove hair from an image.

    Args:
        rgb: uint8 (h, w, 3).
        method: ``none``, ``blackhat`` or ``directional``.
        lesion: bool (h, w): where structure is to be protected; found here where not given.

    Returns:
        The image without hair (the same object where there was none), and the hair as bool (h, w).
    """
    import cv2

    if method == "none":
        return rgb, np.zeros(rgb.shape[:2], dtype=bool)
    if method == "blackhat":
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        hat = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, cv2.getStructuringElement(cv2.MORPH_RECT, (9, 9)))
        found = hat > 10
        return (cv2.inpaint(rgb, found.astype(np.uint8), 6, cv2.INPAINT_TELEA) if found.any() else rgb), found
    if method != "directional":
        raise ValueError(f"hair method is {method!r}: none, blackhat or directional")
    small = _shrunk(rgb)
    found = _find(rgb, small, lesion)
    return (_fill(rgb, small, found) if found.any() else rgb), found


def hair_mask(rgb: np.ndarray, lesion: np.ndarray | None = None) -> np.ndarray:
    """Hair pixels by directional closings, as bool (h, w).

    Args:
        rgb: uint8 (h, w, 3).
        lesion: bool (h, w): where structure is to be protected; found here where not given.
    """
    return _find(rgb, _shrunk(rgb), lesion)


def fill(rgb: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The image with hair, bool (h, w), and its soft rim replaced by the mean of what is beside it.

    A normalised average over a small neighbourhood, which reaches further only where that holds
    nothing but hair: as close to the truth as Telea's inpainting of radius 3, and several times faster.
    """
    return _fill(rgb, _shrunk(rgb), found)


def _find(rgb: np.ndarray, small: np.ndarray, lesion: np.ndarray | None) -> np.ndarray:
    import cv2

    from derm_t2im.imaging.lesion import black_frame

    height, width = rgb.shape[:2]
    if min(small.shape[:2]) < 3:  # nothing is left within the rim
        return np.zeros((height, width), dtype=bool)
    full = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    grey = full if small is rgb else cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    side = min(grey.shape)
    # Many archives' images carry a thin line around: a groove lies between it and a dark corner.
    rim = max(1, round(0.008 * side))
    grey = cv2.copyMakeBorder(grey[rim:-rim, rim:-rim], rim, rim, rim, rim, cv2.BORDER_REPLICATE)
    scene = _Scene(small, lesion)
    frame = black_frame(small)
    taken = frame.copy()
    found = np.zeros((height, width), np.uint8)
    for strictness in (1.0, LIGHT):  # dark hair, then light
        if strictness == LIGHT:
            grey, full = cv2.bitwise_not(grey), cv2.bitwise_not(full)
        closed = cv2.morphologyEx(grey, cv2.MORPH_CLOSE, _box(_odd(ACROSS * side, 5)))
        deep = cv2.subtract(closed, grey)
        deep[taken] = 0
        if not _any_straight(deep, side, strictness):
            continue
        depth, firm = _grooves(grey, side)
        parts = _Parts.of(depth, firm, strictness, taken)
        if parts is None:
            continue
        likely = parts.image(parts.seeded)
        if strictness != LIGHT:  # skin between dark hairs looks like light hair
            taken |= cv2.dilate(likely, _box(2 * rim + 5)).view(bool)
        chosen = _long_and_thin(parts, side, strictness, scene, likely)
        if not chosen.any():
            continue
        hairs = parts.image(chosen)
        # At crossings no direction stands out: gaps between parts of hair are hair if they are as deep.
        level = cv2.dilate(cv2.bitwise_and(depth, depth, mask=hairs), _disc(_odd(WIDE * side, 5)))
        level = np.maximum(cv2.convertScaleAbs(level, alpha=FLANK), np.uint8(4))
        near = cv2.dilate(cv2.morphologyEx(hairs, cv2.MORPH_CLOSE, _box(_odd(1.5 * WIDE * side, 5))), _box(3))
        typical = float(np.median(depth.ravel()[parts.at[chosen[parts.owner]]]))
        if typical > strictness * PLAIN:
            # Ends of hair at the edge of the picture are too short to have a direction.
            reach = 2 * rim
            for edge in (np.s_[:reach], np.s_[-reach:], np.s_[:, :reach], np.s_[:, -reach:]):
                new = ~frame[edge] & (near[edge] == 0)
                level[edge] = np.maximum(level[edge], new * np.uint8(0.5 * typical))
                near[edge] = near[edge] | new
        lower = cv2.subtract(closed, level)
        bound = cv2.bitwise_and(lower, lower, mask=near)
        if small is not rgb:
            bound = cv2.resize(bound, (width, height), interpolation=cv2.INTER_LINEAR)
        cv2.bitwise_or(found, cv2.compare(bound, full, cv2.CMP_GT), found)
    return found > 0


def _fill(rgb: np.ndarray, small: np.ndarray, found: np.ndarray) -> np.ndarray:
    import cv2

    height, width = found.shape
    rim = max(1, round(RIM * min(height, width)))
    hole = cv2.dilate(found.view(np.uint8), _disc(2 * rim + 1))
    narrow = np.asarray(hole)
    if small is not rgb:
        narrow = (cv2.resize(hole * np.uint8(255), small.shape[1::-1], interpolation=cv2.INTER_AREA) > 0).view(np.uint8)
    sound = np.uint8(1) - narrow
    bare = cv2.bitwise_and(small, small, mask=sound)
    filled = small.copy()
    colours = filled.reshape(-1, 3)
    holes = np.flatnonzero(narrow.view(bool))  # far faster than of uint8
    for share in NEAR:
        size = _odd(share * min(narrow.shape))
        weight = _sum(sound, size).ravel()[holes]
        known = weight >= 4
        at = holes[known]
        colours[at] = _sum(bare, size).reshape(-1, 3)[at] / weight[known, None].astype(np.float32) + 0.5
        holes = holes[~known]
        if not len(holes):
            break
    if small is rgb:
        return filled
    out = rgb.copy()
    cv2.copyTo(cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR), hole, out)
    return out


def _shrunk(rgb: np.ndarray) -> np.ndarray:
    import cv2

    height, width = rgb.shape[:2]
    scale = WORKING_SIDE / max(height, width)
    if scale >= 1:
        return rgb
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def _grooves(grey: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth of dark grooves that run straight for a while, and of those that do so for longer.

    Per direction: what a closing across fills and a closing along does not, opened along it.
    """
    import cv2

    depth, firm = np.zeros_like(grey), np.zeros_like(grey)
    short, long = (_odd(run * side, 5) for run in RUNS)
    closed = _closings(grey, _odd(ACROSS * side, 5))
    for angle in range(ANGLES):
        groove = cv2.subtract(closed[(angle + ANGLES // 2) % ANGLES], closed[angle])
        groove = cv2.morphologyEx(groove, cv2.MORPH_OPEN, _line(short, angle))
        cv2.max(depth, groove, depth)
        cv2.max(firm, cv2.erode(groove, _line(long, angle)), firm)
    return depth, firm


def _closings(grey: np.ndarray, length: int) -> list[np.ndarray]:
    import cv2

    return [cv2.morphologyEx(grey, cv2.MORPH_CLOSE, _line(length, angle)) for angle in range(ANGLES)]


class _Scene:
    """The picture behind the hair; where its lesion is, is found only if someone asks."""

    def __init__(self, rgb: np.ndarray, lesion: np.ndarray | None) -> None:
        self._rgb, self._given = rgb, lesion
        self._found: np.ndarray | None = None

    def lesion(self, hair: np.ndarray) -> np.ndarray:
        """The lesion and its edge, bool (h, w); ``hair``, uint8 (h, w), is left out of account."""
        import cv2

        from derm_t2im.imaging.lesion import lesion_mask

        if self._found is None:
            height, width = hair.shape
            scale = min(1.0, ROUGH_SIDE / max(height, width))
            rough = (max(1, round(width * scale)), max(1, round(height * scale)))
            if self._given is not None:
                place = cv2.resize(self._given.view(np.uint8), rough, interpolation=cv2.INTER_NEAREST)
            else:
                hairs = cv2.resize(hair, rough, interpolation=cv2.INTER_NEAREST) > 0
                picture = cv2.resize(self._rgb, rough, interpolation=cv2.INTER_AREA)
                place = lesion_mask(picture, hairs).view(np.uint8)
            # A lesion's dark rim is its own: what lies along the edge counts as inside.
            place = cv2.dilate(place, _disc(_odd(0.09 * min(rough))))
            self._found = cv2.resize(place, (width, height), interpolation=cv2.INTER_NEAREST) > 0
        return self._found


@dataclass(frozen=True)
class _Parts:
    """Connected grooves: their labels (h, w), and per label its box, area, mean depth and width."""

    labels: np.ndarray
    at: np.ndarray  # flat places of all grooves ...
    owner: np.ndarray  # ... and the label of each
    boxes: np.ndarray
    area: np.ndarray
    depth: np.ndarray
    width: np.ndarray
    seeded: np.ndarray  # bool: holds a stretch that is deep and straight

    @classmethod
    def of(cls, depth: np.ndarray, firm: np.ndarray, strictness: float, taken: np.ndarray) -> _Parts | None:
        """Grooves that stand out from the texture around; None where none of them is seeded."""
        import cv2

        # Texture has grooves everywhere, a hair has skin beside it.
        reach = _odd(0.08 * min(depth.shape))
        texture = cv2.blur(np.minimum(depth, np.uint8(AMIDST)), (reach, reach), borderType=cv2.BORDER_REFLECT)
        floor = np.maximum(cv2.convertScaleAbs(texture, alpha=NOISE), np.uint8(strictness * WEAK))
        weak = cv2.compare(depth, floor, cv2.CMP_GT)
        weak[taken] = 0
        at = np.flatnonzero(weak > 0)  # far faster than of uint8
        seeds = firm.ravel()[at] > strictness * STRONG
        if not seeds.any():
            return None
        count, labels = cv2.connectedComponents(weak, connectivity=8)
        owner = labels.ravel()[at]
        seeded = np.zeros(count, dtype=bool)
        seeded[owner[seeds]] = True
        area = np.maximum(np.bincount(owner, minlength=count), 1)
        inner = cv2.distanceTransform(weak, cv2.DIST_L2, 3).ravel()[at]
        return cls(
            labels=labels,
            at=at,
            owner=owner,
            boxes=_boxes(at, owner, count, labels.shape[1]),
            area=area,
            depth=np.bincount(owner, depth.ravel()[at], minlength=count) / area,
            width=4 * np.bincount(owner, inner, minlength=count) / area - 1,
            seeded=seeded,
        )

    def image(self, chosen: np.ndarray) -> np.ndarray:
        """The chosen labels as uint8 (h, w) of 0 and 1."""
        out = np.zeros(self.labels.shape, np.uint8)
        out.ravel()[self.at] = chosen[self.owner]
        return out

    def within(self, mask: np.ndarray) -> np.ndarray:
        """How many pixels of each label lie within a mask, bool (h, w)."""
        return np.bincount(self.owner[mask.ravel()[self.at]], minlength=len(self.area))


def _boxes(at: np.ndarray, owner: np.ndarray, count: int, columns: int) -> np.ndarray:
    """Left, top, width, height of each label, int64 (count, 4), of ascending flat places and their labels."""
    rows, across = np.divmod(at, columns)
    low, high = np.full((2, count), columns), np.full((2, count), -1)
    np.minimum.at(low[0], owner, across)
    np.maximum.at(high[0], owner, across)
    low[1, owner[::-1]] = rows[::-1]  # of several writes to one label the last one stays
    high[1, owner] = rows
    return np.concatenate([low, high - low + 1]).T


def _long_and_thin(parts: _Parts, side: int, strictness: float, scene: _Scene, likely: np.ndarray) -> np.ndarray:
    """Which parts are long and elongated enough for hair; within the lesion, far longer. Bool (labels,)."""
    import cv2

    left, top, width, height = parts.boxes.T
    rows, columns = parts.labels.shape
    cut = (left <= 1) | (top <= 1) | (left + width >= columns - 1) | (top + height >= rows - 1)
    length = np.hypot(width, height)
    thinness = length / np.maximum(parts.width, 1)
    meshed = parts.area / np.maximum(length * np.maximum(parts.width, 1), 1)  # a straight line has less than 1
    # What runs along the edge of the picture is the archive's line around it.
    margin, run = 0.02 * side, 0.03 * side
    beside = (left + width <= margin) | (left >= columns - margin)
    below = (top + height <= margin) | (top >= rows - margin)
    possible = np.ones(len(length), dtype=bool)
    possible[0] = False
    if strictness == LIGHT:
        possible &= (meshed <= CURL) | (length >= LONG_INSIDE * side)
    ease = np.where(cut, CUT, 1.0) * np.clip(strictness * PLAIN / np.maximum(parts.depth, 1), LEAST, 1)
    kept = possible & parts.seeded & (length >= LONG * ease * side)
    kept &= thinness >= np.where(cut, np.maximum(THIN * ease, 3.0), THIN)
    kept &= ~((beside & (height > run)) | (below & (width > run)))
    safe = kept & (length >= LONG_INSIDE * side) & (thinness >= THIN_INSIDE)
    safe &= (meshed <= MESH) | (parts.depth >= strictness * PLAIN)
    plain = kept & (safe | (parts.depth >= strictness * PLAIN))
    if plain.any():
        likeness = parts.depth / np.median(parts.depth[plain])
        alike = possible & (likeness >= ALIKE)
        kept |= alike & np.where(cut, length >= 0.3 * STRAY * side, (length >= STRAY * side) & (thinness >= STRAY_THIN))
        if safe.any():  # what hangs on a long hair belongs to it
            around = cv2.dilate(parts.image(safe), _box(_odd(WIDE * side)))
            touched = parts.within(around > 0) > 0
            safe |= kept & alike & (touched | ((likeness > 0.8) & (thinness >= THIN) & (meshed <= MESH)))
    if (kept & ~safe).any():
        kept &= safe | (parts.within(scene.lesion(likely)) <= 0.5 * parts.area)
    return kept


def _any_straight(deep: np.ndarray, side: int, strictness: float) -> bool:
    """Whether there may be a seed for :func:`_grooves`: no line closes more than a square around it."""
    import cv2

    long = _odd(RUNS[1] * side, 5)
    return any(cv2.minMaxLoc(cv2.erode(deep, _line(long, angle)))[1] > strictness * STRONG for angle in range(ANGLES))


def _sum(values: np.ndarray, size: int) -> np.ndarray:
    """Sums of 8-bit values over squares of ``size`` pixels."""
    import cv2

    kind = cv2.CV_16U if size * size * 255 < 1 << 16 else cv2.CV_32F
    return cv2.boxFilter(values, kind, (size, size), normalize=False, borderType=cv2.BORDER_REFLECT)


def _odd(length: float, least: int = 3) -> int:
    """The odd whole number next to ``length``, at least ``least``."""
    return max(least, 2 * round(length / 2) + 1)


def _box(size: int) -> np.ndarray:
    return np.ones((size, size), np.uint8)


@lru_cache(maxsize=32)
def _disc(size: int) -> np.ndarray:
    import cv2

    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


@lru_cache(maxsize=64)
def _line(length: int, angle: int) -> np.ndarray:
    """A line of ``length`` pixels at ``angle`` / ANGLES of a half turn, as a structuring element."""
    half = length // 2
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.uint8)
    theta = np.pi * angle / ANGLES
    along = np.linspace(-half, half, 4 * half + 1)
    rows = np.rint(half + along * np.sin(theta)).astype(int)
    columns = np.rint(half + along * np.cos(theta)).astype(int)
    kernel[rows, columns] = 1
    return kernel
