"""How much of an attribution lies outside the lesion, and whether the map says where the answer comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from derm_t2im.explain.maps import enlarge

if TYPE_CHECKING:
    from derm_t2im.networks import Network

ERASED = 0.2  # share of an image that is painted over to test a map


def outside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Share of each map (n, s, s) outside its mask, bool (n, s, s); NaN (n,) where a map or a mask is empty."""
    total = maps.sum(axis=(1, 2), dtype=np.float64)
    beyond = np.where(masks, 0.0, maps).sum(axis=(1, 2), dtype=np.float64)
    known = (total > 0) & masks.any(axis=(1, 2))
    return np.divide(beyond, total, out=np.full(len(maps), np.nan), where=known)


def floor(masks: np.ndarray, cells: int) -> np.ndarray:
    """What :func:`outside` says of the mask itself, seen through ``cells`` x ``cells``: no map of these is better."""
    import cv2

    coarse = np.stack([cv2.resize(m.astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA) for m in masks])
    return outside(enlarge(coarse, masks.shape[1]), masks)


def erasure(
    network: Network, images: np.ndarray, masks: np.ndarray, maps: np.ndarray, target: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """What painting over the strongest fifth of a map takes from the finding, beyond that of a stranger's map.

    The fifth of the pixels that the map values most gets the colour of the skin around the lesion; so does, for
    comparison, the fifth that the map of the next image of another group values most. The log odds of the finding
    before and after tell how much of the answer lay there. About 0: the map does not say where it lay.

    Args:
        network: Whose maps they are.
        images: uint8 (n, s, s, 3).
        masks: bool (n, s, s).
        maps: float32 (n, s, s).
        target: bool (n, k), the finding.
        groups: Group of each image (n,).

    Returns:
        Differences in log odds (n,); NaN where a map is empty or there is no other group.
    """
    other = _strangers(groups)
    if other is None:
        return np.full(len(images), np.nan)
    own = _log_odds(network.logits(_painted(images, masks, maps)), target)
    strange = _log_odds(network.logits(_painted(images, masks, maps[other])), target)
    empty = (maps.sum(axis=(1, 2)) == 0) | (maps[other].sum(axis=(1, 2)) == 0)
    return np.where(empty, np.nan, strange - own)


def _strangers(groups: np.ndarray) -> np.ndarray | None:
    """For each image the next one of another group, (n,); None where all are of one."""
    n = len(groups)
    if len(set(groups.tolist())) < 2:
        return None
    return np.array([next(j % n for j in range(i + 1, i + n) if groups[j % n] != groups[i]) for i in range(n)])


def _painted(images: np.ndarray, masks: np.ndarray, maps: np.ndarray) -> np.ndarray:
    out = images.copy()
    count = round(ERASED * maps[0].size)
    for i, one in enumerate(maps):
        around = images[i][~masks[i]] if not masks[i].all() else images[i].reshape(-1, 3)
        strongest = np.argsort(-one, axis=None, kind="stable")[:count]
        out[i].reshape(-1, 3)[strongest] = np.median(around, axis=0).astype(np.uint8)
    return out


def _log_odds(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    from scipy.special import logsumexp

    logits = logits.astype(np.float64)
    return logsumexp(logits, axis=1, b=target) - logsumexp(logits, axis=1, b=~target)
