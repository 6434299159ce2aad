"""How long the exported classifiers take on this machine, of two revisions in turn."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from derm_t2im import paths
from derm_t2im.changes.compare import Times
from derm_t2im.changes.snapshot import Snapshot

if TYPE_CHECKING:
    from derm_t2im.deploy.runtime import Predictor

ROUNDS = 15
BATCHES = (1, 64)
MODEL = "model.onnx"


def measure(snapshots: tuple[Snapshot, Snapshot], root: Path = Path()) -> tuple[Times, Times]:
    """Median milliseconds per batch on the CPU of each exported file that is at hand, in alternating rounds."""
    found: list[dict[str, Predictor]] = [_load(snapshot, root) for snapshot in snapshots]
    took: list[dict[str, dict[int, list[float]]]] = [
        {arch: {batch: [] for batch in BATCHES} for arch in models} for models in found
    ]
    for round_ in range(ROUNDS + 1):
        for models, into in zip(found, took, strict=True):
            for arch, model in models.items():
                for batch in BATCHES:
                    images = np.zeros((batch, model.card.size, model.card.size, 3), np.uint8)
                    start = time.perf_counter()
                    model.predict(images, batch)
                    if round_:  # the first one warms up
                        into[arch][batch].append(1000 * (time.perf_counter() - start))
    before, after = (
        {arch: {batch: statistics.median(values) for batch, values in by.items()} for arch, by in each.items()}
        for each in took
    )
    return before, after


def _load(snapshot: Snapshot, root: Path) -> dict[str, Predictor]:
    from derm_t2im.deploy.runtime import Predictor

    archs = [name.removeprefix("onnx/") for name in snapshot.metrics if name.startswith("onnx/")]
    models = {}
    for arch in archs:
        content = _content(snapshot, paths.onnx_model(arch) / MODEL, root)
        if content is not None:
            models[arch] = Predictor(content, device="cpu")
    return models


def _content(snapshot: Snapshot, path: Path, root: Path) -> bytes | None:
    if not snapshot.commit:
        return (root / path).read_bytes() if (root / path).is_file() else None
    from dvc.api import DVCFileSystem

    try:
        with tempfile.TemporaryDirectory() as folder:
            DVCFileSystem(str(root.resolve()), rev=snapshot.commit).get_file(f"/{path.as_posix()}", f"{folder}/{MODEL}")
            return (Path(folder) / MODEL).read_bytes()
    except Exception:  # DVC's errors share no base; what is not at hand is not measured
        return None
