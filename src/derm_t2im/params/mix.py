"""Parameters of `mix`: what each classifier is trained on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from derm_t2im.params import Section

MixName = Literal["real", "hybrid", "oversampled", "synthetic", "augmented", "unfiltered"]


class Mix(Section):
    """Section `mix`. With a ``synthetic_fraction`` of 1 the hybrid mix holds no real image."""

    mixes: tuple[MixName, ...] = Field(("real", "hybrid", "oversampled"), min_length=1)
    synthetic_fraction: float = Field(0.75, ge=0, le=1)
    seed: int = 0
