"""Phantoms of the broad distribution with captions, for training the embedded base model."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np

from derm_t2im import progress, runtime, seeds
from derm_t2im.sources import phantom
from derm_t2im.vocabulary import count_of


def _one(seed: int, size: int, index: int) -> tuple[np.ndarray, dict[str, str]]:
    drawn = phantom.render(phantom.BROAD, seed, "broad", index, size=size, hair=0.35)
    said = {
        "label": drawn.label,
        "size": drawn.size,
        "count": count_of(drawn.count),
        "tone": drawn.tone,
        "site": drawn.site,
    }
    # Captions leave words out at random, so that prompts may, too.
    rng = seeds.generator(seed, "caption", index)
    leave_out = {"label": 0.1, "size": 0.15, "count": 0.25, "tone": 0.2, "site": 0.6}
    said = {key: value for key, value in said.items() if rng.random() >= leave_out[key]}
    if rng.random() < 0.35:
        said["extra"] = "with hair" if "hair" in drawn.artefacts else "without hair"
    return drawn.image, said


def collection(count: int, seed: int, size: int = 64) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Render ``count`` phantoms of no clinic.

    Returns:
        uint8 (count, size, size, 3) and, for each image, the attributes that its caption says
        (``extra`` holds words to append).
    """
    images = np.empty((count, size, size, 3), np.uint8)
    said = []
    with ProcessPoolExecutor(runtime.workers(), mp_context=get_context("spawn")) as pool:
        results = pool.map(partial(_one, seed, size), range(count), chunksize=64)
        for i, (image, words) in enumerate(progress.track(results, "base: render", total=count)):
            images[i] = image
            said.append(words)
    return images, said
