"""Parameters of `probe`: a small classifier that saw real training images only."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from derm_t2im.params import Section


class Probe(Section):
    """Section `probe`; ``model``, ``options`` and ``weights`` as in `train.models`."""

    model: str = "resnet10t"
    options: dict[str, Any] = Field(default_factory=lambda: {"channels": [32, 64, 96, 128], "stem_width": 16})
    weights: str = ""
    steps: int = Field(240, ge=1)
    batch: int = Field(32, ge=2)
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    seed: int = 0
