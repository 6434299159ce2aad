"""Parameters of `evaluate`."""

from __future__ import annotations

from pydantic import Field

from derm_t2im.params import Section


class Evaluate(Section):
    """Section `evaluate`."""

    positive: str = "malignant"
    bootstrap: int = Field(2000, ge=100)
    bins: int = Field(10, ge=2)
    sensitivity: float = Field(0.9, gt=0, lt=1)
    seed: int = 0
