"""Which of the networks that were trained alike is the one to use."""

from __future__ import annotations

from derm_t2im import paths
from derm_t2im.errors import UserError
from derm_t2im.state import read_json


def best_seed(arch: str, mix: str) -> int:
    """The seed with the highest validation AUC (ties: the lowest seed), by the metrics of `train`.

    Raises:
        UserError: if they are missing or name no seed.
    """
    path = paths.train_metrics(arch, mix)
    values = read_json(path, f"train@{arch}-{mix}")
    runs = {int(name.removeprefix("seed-")): run for name, run in values.items() if name.startswith("seed-")}
    if not runs:
        raise UserError(f"{path} names no seed: run `dvc repro` (stage train) again.")
    return min(runs, key=lambda seed: (-(runs[seed].get("val_auc") or 0.0), seed))
