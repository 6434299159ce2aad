"""The model card beside exported files, in the form of the Hugging Face Hub: generated, never written by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from derm_t2im import licences, templates
from derm_t2im.deploy.card import Card

_METRICS = {
    "auc": ("roc_auc", "AUC"),
    "accuracy": ("accuracy", "Accuracy"),
    "brier": ("brier_score", "Brier score"),
    "ece": ("ece", "Expected calibration error"),
}


def render(card: Card, metrics: Mapping[str, Any]) -> str:
    """The model card as Markdown with YAML front matter.

    Args:
        card: Of the fp32 file.
        metrics: Of the stage export: ``variants`` by precision, ``checked`` images by split.
    """
    variants = [
        {**figures, "precision": name, "file": file_name(name)} for name, figures in metrics["variants"].items()
    ]
    source = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    page = templates.environment().overlay(autoescape=False).from_string(source)  # Markdown, not HTML
    front = yaml.safe_dump(_front(card), sort_keys=False, allow_unicode=True)
    text = page.render(
        card=card,
        variants=variants,
        checked=metrics["checked"],
        front=front,
        interval=_interval,
        phantoms=[name for name in card.training_sources if name.startswith("phantom-")],
        seeds=max((int(one.study.get("seeds") or 0) for one in card.tests.values()), default=0),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def file_name(precision: str) -> str:
    """Name of a variant's file."""
    return "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"


def _front(card: Card) -> dict[str, Any]:
    licence = licences.hub_id(card.licence)
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {"name": f"{name} test images", "type": name},
            "metrics": [
                {"type": kind, "name": title, "value": one.figures[key]}
                for key, (kind, title) in _METRICS.items()
                if one.figures.get(key) is not None
            ],
        }
        for name, one in card.tests.items()
    ]
    front: dict[str, Any] = {"license": licence}
    if licence == "other":
        front["license_name"] = card.licence
    front |= {
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["onnx", "dermoscopy", "image-classification", "research-only"],
    }
    if results:
        front["model-index"] = [{"name": f"{card.architecture}-{card.training_mix}", "results": results}]
    return front


def _interval(figures: Any, name: str, digits: int = 3) -> str:
    """``x (low to high)`` from a mapping or model with ``x``, ``x_low`` and ``x_high``."""
    values = figures.model_dump() if hasattr(figures, "model_dump") else figures or {}
    value, low, high = (values.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if value is None or value != value:
        return "none"
    if low is None or high is None or low != low:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
