"""Parameters of `preprocess`: one size, no hair, quality measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from derm_t2im.params import Section


class Hair(Section):
    """Hair removal."""

    method: Literal["none", "blackhat", "directional"] = "directional"


class Preprocess(Section):
    """Section `preprocess`."""

    size: int = Field(64, ge=32, le=1024, multiple_of=8)
    min_side: int = Field(32, ge=1)
    max_pixels: int = Field(100_000_000, ge=1, le=178_000_000)  # more is a bomb to Pillow too
    hair: Hair = Hair()
    max_quarantined: float = Field(0.05, ge=0, le=1)
