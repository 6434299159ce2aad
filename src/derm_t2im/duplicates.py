"""Near-duplicates in any set of images: flipped, turned, cropped, brightened and compressed anew.

Candidates come from two sides: perceptual hashes within a few bits in any of the eight orientations, and
nearest neighbours of sketches (an embedding of broad colours) among all images, asked for with windows
of each image, which finds crops. Neither compares all pairs. Candidates are then aligned and compared in
their fine detail; only what agrees there is a near-duplicate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from derm_t2im import runtime
from derm_t2im.imaging import alignment, hashing, io, sketch

T = TypeVar("T")
R = TypeVar("R")

BITS = 4  # of 64 that the hashes of near-duplicates may differ in
CORRELATION = 0.66  # of the aligned details, from which two images are one picture
NEIGHBOURS = 8  # of each window
DIMENSIONS = 16  # of the space in which they are found
_ALIKE = 0.94  # least correlation of the sketches of a window and an image
_BLOCK = 4_000_000  # pairs of hashes compared at a time
_BATCH = 256  # images or pairs handed to the threads at a time


class Pairs(NamedTuple):
    """Near-duplicates: ``at`` int64 (m, 2) positions, first < second, sorted; ``correlation`` float32 (m,)."""

    at: np.ndarray
    correlation: np.ndarray


class Copies(NamedTuple):
    """What is kept of n images: ``grey`` uint8 (n, 64, 64), ``colour`` uint8 (n, 32, 32, 3), 64-bit ``hashes``."""

    grey: np.ndarray
    colour: np.ndarray
    hashes: list[str]


def search(
    images: Iterable[np.ndarray | Path | str],
    hashes: list[str] | None = None,
    bits: int = BITS,
    least: float = CORRELATION,
) -> Pairs:
    """Find the near-duplicates of a set of images.

    Args:
        images: uint8 (h, w, 3) RGB images or paths of image files, of any and differing sizes; each is
            read once and only a small copy is kept, so a generator will do.
        hashes: Their perceptual hashes, where known.
        bits: Most bits that two hashes may differ in to become candidates.
        least: Least correlation of the aligned details, which lies in -1 to 1.

    Returns:
        The pairs. Of several images whose copies are equal pixel by pixel each is paired with the first
        only, and further pairs are sought for that one alone: the groups are the same. An image without
        any detail has no near-duplicates.

    Raises:
        ImageError: for a path that is no usable image; it names the file.
        ValueError: where the number of hashes is not that of the images.
    """
    return compare(reduced(images, hashes), bits, least)


def reduced(images: Iterable[np.ndarray | Path | str], hashes: list[str] | None = None) -> Copies:
    """Small copies of images, for :func:`compare`; arguments and errors as :func:`search`."""
    grey, colour, found = [], [], []
    for one in _threaded(lambda image: _reduce(image, hashes is None), images):
        grey.append(one[0])
        colour.append(one[1])
        found.append(one[2])
    if hashes is not None and len(hashes) != len(grey):
        raise ValueError(f"{len(hashes)} hashes for {len(grey)} images")
    side, small = alignment.SIDE, sketch.SIDE
    return Copies(
        np.stack(grey) if grey else np.zeros((0, side, side), np.uint8),
        np.stack(colour) if colour else np.zeros((0, small, small, 3), np.uint8),
        found if hashes is None else hashes,
    )


def _reduce(image: np.ndarray | Path | str, hashed: bool) -> tuple[np.ndarray, np.ndarray, str]:
    import cv2

    if isinstance(image, np.ndarray):
        rgb = image
    else:
        try:
            rgb = io.read_rgb(Path(image))
        except io.ImageError as error:
            raise io.ImageError(error.reason, f"{image}: {error.detail}") from None
    small = hashing.thumbnail(rgb, alignment.SIDE)
    colour = hashing.thumbnail(small, sketch.SIDE)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), colour, hashing.phash(rgb) if hashed else ""


def compare(copies: Copies, bits: int = BITS, least: float = CORRELATION) -> Pairs:
    """The near-duplicates among copies of images; arguments and result as :func:`search`."""
    firsts: dict[bytes, int] = {}
    first = np.array([firsts.setdefault(one.tobytes(), at) for at, one in enumerate(copies.grey)], np.int64)
    textured = copies.grey.std(axis=(1, 2)) > 0.5  # grey levels
    only = np.flatnonzero((first == np.arange(len(first))) & textured)
    again = np.flatnonzero((first != np.arange(len(first))) & textured)
    candidates = np.concatenate(
        [
            _from_hashes([copies.hashes[at] for at in only.tolist()], bits),
            _from_sketches(copies.colour[only]),
        ]
    )
    # Both ways of finding a pair are tried in turn, as each may know the better alignment.
    order = np.lexsort((candidates[:, 1], candidates[:, 0]))
    candidates = candidates[order]
    agreed = _agreements(copies.grey[only], candidates)
    kept = agreed >= least
    rows = np.sort(only[candidates[kept][:, :2]], axis=1)
    rows = np.concatenate([rows, np.stack([first[again], again], axis=1)])
    values = np.concatenate([agreed[kept], np.ones(len(again), np.float32)])
    order = np.lexsort((-values, rows[:, 1], rows[:, 0]))
    rows, values = rows[order], values[order]
    single = np.unique(rows, axis=0, return_index=True)[1]
    return Pairs(rows[single], values[single].astype(np.float32))


def _from_hashes(hashes: list[str], bits: int) -> np.ndarray:
    """Candidates as int64 (n, 4): first, second, window of the first, orientation of the second."""
    pairs = near_pairs(hashes, bits)
    return np.insert(pairs, 2, 0, axis=1)


def _from_sketches(colour: np.ndarray) -> np.ndarray:
    """Candidates as :func:`_from_hashes`, the best alignment of each pair; by nearest neighbours in a k-d tree."""
    from scipy.spatial import KDTree

    count = len(colour)
    if count < 2:
        return np.zeros((0, 4), np.int64)
    whole = sketch.sketches(colour)
    places = sketch.invariants(whole)
    centre = places.mean(axis=0)
    axes = np.linalg.eigh(np.cov((places - centre).T))[1][:, ::-1][:, :DIMENSIONS]
    tree = KDTree((places - centre) @ axes)
    turned = np.stack([sketch.flat(sketch.orient(whole, o)) for o in range(hashing.ORIENTATIONS)], axis=1)
    reach = np.sqrt(2 * (1 - _ALIKE))
    rows, values = [], []
    for window, where in enumerate(sketch.WINDOWS):
        parts = sketch.sketches(colour, where) if window else whole
        asked = (sketch.invariants(parts) - centre) @ axes
        # eps: neighbours may be half as far again as the nearest; what they are is checked below anyway
        distance, at = tree.query(
            asked, k=min(NEIGHBOURS, count), eps=0.5, distance_upper_bound=reach, workers=runtime.workers()
        )
        first, column = np.nonzero(np.isfinite(distance))
        second = at[first, column]
        first, second = first[first != second], second[first != second]
        part = sketch.flat(parts)
        for start in range(0, len(first), 16_384):
            mine, other = first[start : start + 16_384], second[start : start + 16_384]
            alike = np.einsum("nd,nod->no", part[mine], turned[other])
            best, orientation = alike.max(axis=1), alike.argmax(axis=1)
            good = best >= _ALIKE
            rows.append(np.stack([mine, other, np.full(len(mine), window), orientation], axis=1)[good])
            values.append(best[good])
    if not rows:
        return np.zeros((0, 4), np.int64)
    found, value = np.concatenate(rows), np.concatenate(values)
    pair = np.sort(found[:, :2], axis=1)
    order = np.lexsort((-value, pair[:, 1], pair[:, 0]))
    return found[order][np.unique(pair[order], axis=0, return_index=True)[1]]


def _agreements(grey: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """:func:`alignment.agreement` of each candidate, float32 (n,)."""

    named = np.unique(candidates[:, :2]).tolist()
    small = dict(zip(named, _threaded(alignment.halved, (grey[at] for at in named)), strict=True))

    def some(rows: np.ndarray) -> list[float]:
        ready = {at: alignment.Copy(grey[at], small[at]) for at in np.unique(rows[:, :2]).tolist()}
        return [
            alignment.agreement(ready[first], ready[second], sketch.WINDOWS[window], orientation)
            for first, second, window, orientation in rows.tolist()
        ]

    batches = [candidates[start : start + _BATCH] for start in range(0, len(candidates), _BATCH)]
    return np.array([value for values in _threaded(some, batches) for value in values], np.float32)


def _threaded(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``function`` of each item, in order; OpenCV and the decoders let threads run side by side."""
    waiting = iter(items)
    with ThreadPoolExecutor(runtime.workers()) as pool:
        while batch := list(itertools.islice(waiting, _BATCH)):
            yield from pool.map(function, batch)


def near_pairs(hashes: list[str], limit: int) -> np.ndarray:
    """Pairs of hashes within ``limit`` differing bits in any orientation, as int64 (n, 3).

    Columns: first, second (first < second), and the orientation of :func:`hashing.turn` that brings
    the second image onto the first; sorted, one row per pair, with its nearest orientation.

    By the pigeonhole principle: of ``limit + 1`` chunks of a hash at least one is equal in such a
    pair, so only images that share a chunk are compared (Norouzi et al. 2012, multi-index hashing).
    """
    if len(hashes) < 2:
        return np.zeros((0, 3), np.int64)
    plain = hashing.bits(hashes)
    packed = _pack(plain)
    chunks = [np.arange(k, 64, limit + 1) for k in range(limit + 1)]  # interleaved: even entropy
    found: list[np.ndarray] = []
    for orientation in range(hashing.ORIENTATIONS):
        turned = hashing.orient(plain, orientation)
        turned_packed = _pack(turned)
        for chunk in chunks:
            keys, asked = _pack(plain[:, chunk]), _pack(turned[:, chunk])
            order = np.argsort(keys, kind="stable")
            low = np.searchsorted(keys[order], asked, "left")
            high = np.searchsorted(keys[order], asked, "right")
            for second, at in _expand(low, high):
                first = order[at]
                ahead = first < second
                first, second = first[ahead], second[ahead]
                distance = np.bitwise_count(packed[first] ^ turned_packed[second]).astype(np.int64)
                near = distance <= limit
                if near.any():
                    turns = np.full(int(near.sum()), orientation)
                    found.append(np.stack([first[near], second[near], distance[near], turns], axis=1))
    if not found:
        return np.zeros((0, 3), np.int64)
    rows = np.unique(np.concatenate(found), axis=0)  # sorted: the nearest orientation comes first
    first_of_pair = np.unique(rows[:, :2], axis=0, return_index=True)[1]
    return rows[first_of_pair][:, [0, 1, 3]]


def _pack(rows: np.ndarray) -> np.ndarray:
    """Rows of up to 64 bits as uint64 (n,)."""
    weights = np.left_shift(np.uint64(1), np.arange(rows.shape[1], dtype=np.uint64))
    return rows.astype(np.uint64) @ weights


def _expand(low: np.ndarray, high: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each index i repeated for the positions low[i] to high[i] - 1, in blocks of bounded size."""
    lengths = high - low
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK, "right")))
        part = lengths[start:stop]
        total = int(part.sum())
        if total:
            offsets = np.arange(total) - np.repeat(np.cumsum(part) - part, part)
            yield np.repeat(np.arange(start, stop), part), np.repeat(low[start:stop], part) + offsets
        start = stop
