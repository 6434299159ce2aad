"""A second view of where the lesion is: a zero-shot segmenter beside our own mask, and both beside the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from derm_t2im.errors import UserError
from derm_t2im.imaging.lesion import lesion_mask

#: uint8 (h, w, 3), a point (x, y) in pixels -> bool (h, w).
Segment = Callable[[np.ndarray, tuple[float, float]], np.ndarray]


def overlap(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Dice coefficient and intersection over union of two masks, bool (h, w); 1 where both are empty."""
    both, either, total = int((a & b).sum()), int((a | b).sum()), int(a.sum() + b.sum())
    return (2 * both / total, both / either) if total else (1.0, 1.0)


def segmenter(place: str) -> Segment:
    """SAM (Kirillov et al. 2023) through transformers, asked for what lies at a point.

    Of the masks that it offers the one it trusts most is taken.

    Args:
        place: A folder with its configuration, weights (safetensors) and processor, or a hub id (``owner/name`` or
            ``owner/name@revision``).

    Raises:
        UserError: if it cannot be had or is no SAM.
    """
    import torch
    from transformers import SamModel, SamProcessor

    if ("/" not in place or place.startswith((".", "/"))) and not Path(place).is_dir():
        raise UserError(f"segmenter {place!r}: no such folder; give one, or a hub id (owner/name).")
    name, revision = place, "main"
    if "@" in place and not Path(place).is_dir():
        name, _, revision = place.partition("@")
    try:
        processor: Any = SamProcessor.from_pretrained(name, revision=revision)
        model: Any = SamModel.from_pretrained(name, revision=revision, use_safetensors=True).eval()
    except Exception as error:  # the hub's, transformers' and safetensors' errors share no base
        said = " ".join(str(error).split())[:200]
        raise UserError(f"segmenter {place!r} cannot be had ({type(error).__name__}: {said})") from None

    def segment(image: np.ndarray, point: tuple[float, float]) -> np.ndarray:
        inputs = processor(image, input_points=[[list(point)]], return_tensors="pt")
        with torch.inference_mode():
            out = model(**inputs)
        masks = processor.image_processor.post_process_masks(
            out.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )[0]
        best = int(out.iou_scores[0, 0].argmax())
        return np.asarray(masks[0, best].numpy(), dtype=bool)

    return segment


def middle(mask: np.ndarray) -> tuple[float, float] | None:
    """The point (x, y) deepest within a mask, or None where it is empty."""
    import cv2

    if not mask.any():
        return None
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x), float(y)


def compare(
    images: Iterable[np.ndarray], truths: Sequence[np.ndarray | None], segment: Segment | None
) -> list[dict[str, tuple[float, float]]]:
    """Dice and IoU of each image, of each pair that can be formed.

    ``own_truth``, ``segmenter_own``, ``segmenter_truth``. The segmenter is asked at the middle of our own mask, so
    images in which we find no lesion do not count for it.
    """
    found = []
    for image, truth in zip(images, truths, strict=True):
        own = lesion_mask(image)
        point = middle(own)
        other = segment(image, point) if segment is not None and point is not None else None
        pairs = {"own_truth": (own, truth), "segmenter_own": (other, own), "segmenter_truth": (other, truth)}
        found.append({name: overlap(a, b) for name, (a, b) in pairs.items() if a is not None and b is not None})
    return found


def summary(compared: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, dict[str, float]]:
    """Mean Dice and IoU of each pair with 95 % intervals (bootstrap over images), and n."""
    names = dict.fromkeys(name for one in compared for name in one)
    return {name: _summary(np.array([one[name] for one in compared if name in one])) for name in names}


def _summary(values: np.ndarray) -> dict[str, float]:
    rng = np.random.default_rng(0)
    draws = values[rng.integers(0, len(values), (1000, len(values)))].mean(axis=1)
    low, high = np.percentile(draws, (2.5, 97.5), axis=0)
    out: dict[str, float] = {"n": len(values)}
    for k, name in enumerate(("dice", "iou")):
        out |= {name: float(values[:, k].mean()), f"{name}_low": float(low[k]), f"{name}_high": float(high[k])}
    return out
