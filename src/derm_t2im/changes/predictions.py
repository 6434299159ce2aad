"""Differences between two revisions on the same test images, from the predictions that DVC keeps."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from derm_t2im import manifest, paths, seeds
from derm_t2im.changes.compare import Estimate
from derm_t2im.changes.snapshot import PREDICTIONS, Snapshot
from derm_t2im.classify import statistics

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 1000
MEASURES = ("auc", "accuracy")


def fetch(snapshot: Snapshot, root: Path = Path()) -> pd.DataFrame | None:
    """The predictions of a revision; None where neither DVC's cache nor a remote has them."""
    import pandas as pd

    try:
        if not snapshot.commit:
            path = root / PREDICTIONS
            return pd.read_parquet(path) if path.is_file() else None
        from dvc.api import DVCFileSystem

        repository = DVCFileSystem(str(root.resolve()), rev=snapshot.commit)
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / PREDICTIONS.name
            repository.get_file(f"/{PREDICTIONS.as_posix()}", str(target))
            return pd.read_parquet(target)
    except Exception:  # DVC's errors share no base; without the file the wider interval is shown, and says so
        return None


def groups(root: Path = Path()) -> dict[str, str]:
    """The lesion group of each image, as the working tree's split knows it; empty where it is not there."""
    path = root / paths.SPLITS_MANIFEST
    if not path.is_file():
        return {}
    table = manifest.read(path)
    if "group_id" not in table:
        return {}
    known = table.dropna(subset=["group_id"])
    return dict(zip(known["image_id"], known["group_id"], strict=True))


def paired(
    before: pd.DataFrame, after: pd.DataFrame, group: dict[str, str], draws: int = DRAWS
) -> dict[tuple[str, str, str, str], Estimate]:
    """After minus before of AUC and accuracy, with 95 % intervals of a bootstrap over groups of images.

    Only classifiers that both tables hold, on test sets of the same images with the same labels; each measure is the
    mean over the seeds of a classifier. Keys: architecture, mix, test set, measure.
    """
    found: dict[tuple[str, str, str, str], Estimate] = {}
    classes = [name for name in after.columns if name.startswith("p_")]
    if classes != [name for name in before.columns if name.startswith("p_")]:
        return found
    keys = ["arch", "mix", "test"]
    old = {key: part for key, part in before.groupby(keys, sort=True)}
    counts: dict[tuple[str, ...], np.ndarray] = {}
    for key, part in after.groupby(keys, sort=True):
        if key not in old:
            continue
        (ids, truth, new), (old_ids, old_truth, was) = (_by_seed(one, classes) for one in (part, old[key]))
        if ids != old_ids or not np.array_equal(truth, old_truth) or (truth < 0).any():
            continue
        if tuple(ids) not in counts:
            drawn = statistics.bootstrap_counts(
                [group.get(name, name) for name in ids], truth, draws, seeds.generator(0, "changes", str(key[2]))
            )
            counts[tuple(ids)] = np.vstack([statistics.ones(len(ids)), drawn.counts])
        sample = counts[tuple(ids)]
        for measure in MEASURES:
            values = np.mean([_measure(measure, p, truth, sample) for p in new], axis=0)
            values -= np.mean([_measure(measure, p, truth, sample) for p in was], axis=0)
            arch, mix, test = map(str, key)
            found[arch, mix, test, measure] = Estimate(float(values[0]), *statistics.interval(values[1:]))
    return found


def _by_seed(table: pd.DataFrame, classes: list[str]) -> tuple[list[str], np.ndarray, list[np.ndarray]]:
    """Ids in order, truth (n,) as columns of ``classes`` (-1 unknown), and probabilities (n, k) of each seed."""
    names = [name.removeprefix("p_") for name in classes]
    parts = [part.sort_values("image_id") for _, part in table.groupby("seed", sort=True)]
    first = parts[0]
    truth = np.array([names.index(label) if label in names else -1 for label in first["label"]])
    return first["image_id"].tolist(), truth, [part[classes].to_numpy(np.float64) for part in parts]


def _measure(name: str, p: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    if name == "auc":
        return statistics.class_auc(p, truth, counts)
    return statistics.accuracy(p.argmax(axis=1), truth, counts)
