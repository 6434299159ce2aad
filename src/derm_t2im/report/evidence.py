"""All that a report can draw on, read once: metrics, plot data, manifests. Everything may be missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derm_t2im import manifest, paths
from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

METRICS = {
    "data": paths.DATA_METRICS,
    "preprocess": paths.PREPROCESS_METRICS,
    "split": paths.SPLIT_METRICS,
    "probe": paths.PROBE_METRICS,
    "finetune": paths.FINETUNE_METRICS,
    "generate": paths.GENERATE_METRICS,
    "fidelity": paths.FIDELITY_METRICS,
    "validation_data": paths.DATA_VALIDATION_METRICS,
    "validation": paths.VALIDATION_METRICS,
    "curation": paths.CURATION_METRICS,
    "mix": paths.MIX_METRICS,
    "classification": paths.CLASSIFICATION_METRICS,
    "subgroups": paths.SUBGROUP_METRICS,
    "explanations": paths.EXPLANATION_METRICS,
}
PLOTS = ("roc", "reliability", "reliability_calibrated", "confusion", "abstention", "subgroups")


@dataclass(frozen=True)
class Evidence:
    """What one run left behind.

    ``metrics`` holds a mapping per name of :data:`METRICS`, empty where the file is missing;
    ``onnx`` and ``train`` one per architecture and per ``<arch>-<mix>``; ``plots`` lists of records. ``sweeps`` holds
    what each sweep found and ``swept`` its records, both by its name.
    ``raw``, ``real`` (the splits) and ``synthetic`` (the curated pool) are manifests, or None.
    ``root`` is the folder that the paths in the manifests are relative to.
    """

    root: Path
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    onnx: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    train: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    plots: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    sweeps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    swept: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    raw: pd.DataFrame | None = None
    real: pd.DataFrame | None = None
    synthetic: pd.DataFrame | None = None

    def of(self, name: str) -> Mapping[str, Any]:
        """The metrics of one stage, empty where there are none."""
        return self.metrics.get(name, {})


def collect(root: Path = Path()) -> Evidence:
    """Read everything below ``root``, the repository.

    Raises:
        UserError: for a file that is there and cannot be read.
    """
    return Evidence(
        root=root,
        metrics={name: _json(root / path) for name, path in METRICS.items()},
        onnx={path.stem: _json(path) for path in sorted((root / paths.ONNX_METRICS).glob("*.json"))},
        train={path.stem: _json(path) for path in sorted((root / paths.TRAIN_METRICS).glob("*.json"))},
        plots={name: _records(root / paths.PLOTS / f"{name}.json") for name in PLOTS},
        sweeps={path.stem: _json(path) for path in sorted((root / paths.SWEEP_METRICS).glob("*.json"))},
        swept={path.stem: _swept(path) for path in sorted((root / paths.SWEEP_PLOTS).glob("*.json"))},
        raw=_manifest(root / paths.RAW_MANIFEST),
        real=_manifest(root / paths.SPLITS_MANIFEST),
        synthetic=_manifest(root / paths.CURATED_MANIFEST),
    )


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}; run `dvc repro`.") from None


def _json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    values = _load(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a mapping, not {type(values).__name__}; run `dvc repro`.")
    return values


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    values = _load(path)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise UserError(f"{path} must hold a list of records; run `dvc repro`.")
    return values


def _swept(path: Path) -> list[dict[str, Any]]:
    """Records of a sweep without what is null in them: there all have the same keys, for `dvc plots`."""
    return [{key: value for key, value in record.items() if value is not None} for record in _records(path)]


def _manifest(path: Path) -> pd.DataFrame | None:
    return manifest.read(path) if path.is_file() else None
