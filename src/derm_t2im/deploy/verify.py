"""Does the exported file say what the network says? And what does it decide?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from derm_t2im.errors import UserError
from derm_t2im.intervals import wilson


def run(content: bytes, images: np.ndarray, outputs: Sequence[str], batch: int = 64) -> list[np.ndarray]:
    """What a file of :mod:`derm_t2im.deploy.export` gives for uint8 images (n, h, w, 3), on one thread of the CPU.

    Raises:
        UserError: if ONNX Runtime does not run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        parts = [
            session.run(list(outputs), {"image": np.ascontiguousarray(images[start : start + batch])})
            for start in range(0, len(images), batch)
        ]
    except Exception as error:  # onnxruntime's errors share no public base
        said = " ".join(str(error).split())[:300]
        raise UserError(f"ONNX Runtime does not run the exported file ({type(error).__name__}: {said}).") from error
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


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


def operating(scores: np.ndarray, positive: np.ndarray, threshold: float) -> dict[str, Any]:
    """Sensitivity and specificity of ``scores >= threshold``, with 95 % Wilson intervals, as ``card.Operating`` has it.

    Args:
        scores: Probability of the positive finding, float (n,).
        positive: The truth, bool (n,).
        threshold: The operating point.
    """
    flagged = scores >= threshold
    figures: dict[str, Any] = {"positives": int(positive.sum()), "negatives": int((~positive).sum())}
    for name, right, of in (("sensitivity", flagged, positive), ("specificity", ~flagged, ~positive)):
        hits, n = int(right[of].sum()), int(of.sum())
        figures[name] = hits / n if n else None
        figures[f"{name}_low"], figures[f"{name}_high"] = wilson(hits, n)
    return figures


def least_cosine(reference: np.ndarray, exported: np.ndarray) -> float:
    """The least cosine between rows of two float (n, d): how far embeddings turn at most."""
    a, b = (x.astype(np.float64) / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
            for x in (reference, exported))  # fmt: skip
    return float((a * b).sum(axis=1).min())


def off_the_data(threshold: float, scores: np.ndarray) -> float:
    """A threshold that decides alike about ``scores`` (n,) and lies on none of them.

    A threshold chosen on data is one of its scores, and rounding in another runtime would move that
    image to the other side: this one lies halfway to the next lower score (or to 0).
    """
    below = scores[scores < threshold]
    return (threshold + (float(below.max()) if len(below) else 0.0)) / 2
