"""Does the exported file say what the network says?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def agreement(
    reference: np.ndarray, exported: np.ndarray, positive: Sequence[int] = (), threshold: float | None = None
) -> dict[str, float | int]:
    """How two sets of class probabilities for the same images differ.

    Args:
        reference: float (n, k), of the network.
        exported: float (n, k), of the exported file.
        positive: Columns of the positive finding; none where there is no such finding.
        threshold: Operating point on the sum of their probabilities.

    Returns:
        ``n``; ``max_abs_difference`` and ``mean_abs_difference`` in probability; ``label_flips``: images
        whose most probable class differs; ``threshold_flips``: images that fall on the other side of
        the threshold (of the most probable class, where there is no threshold).
    """
    if reference.shape != exported.shape or reference.ndim != 2:
        raise ValueError(f"two (n, k) arrays of one shape are needed, not {reference.shape} and {exported.shape}")
    n = len(reference)
    if n == 0:
        raise ValueError("no images to compare on")
    difference = np.abs(reference.astype(np.float64) - exported.astype(np.float64))
    label_flips = int((reference.argmax(axis=1) != exported.argmax(axis=1)).sum())
    flips = label_flips
    if len(positive) and threshold is not None:
        sides = [p[:, list(positive)].sum(axis=1) >= threshold for p in (reference, exported)]
        flips = int((sides[0] != sides[1]).sum())
    return {
        "n": n,
        "max_abs_difference": float(difference.max()),
        "mean_abs_difference": float(difference.mean()),
        "label_flips": label_flips,
        "threshold_flips": flips,
    }


def off_the_data(threshold: float, scores: np.ndarray) -> float:
    """A threshold that decides alike about ``scores`` (n,) and lies on none of them.

    A threshold chosen on data is one of its scores, and rounding in another runtime would move that
    image to the other side: this one lies halfway to the next lower score (or to 0).
    """
    below = scores[scores < threshold]
    return (threshold + (float(below.max()) if len(below) else 0.0)) / 2
