"""Parameters of `split`: who learns, who tests."""

from __future__ import annotations

from pydantic import Field

from derm_t2im.params import Section


class Split(Section):
    """Section `split`. Sizes are numbers of images; what is over stays unused."""

    train: int = Field(120, ge=2)
    val: int = Field(120, ge=2)
    test: int = Field(500, ge=2)
    external: int = Field(500, ge=0)
    seed_images: int = Field(64, ge=1)
    near_duplicate_bits: int = Field(4, ge=0, le=16)
    near_duplicate_correlation: float = Field(0.66, gt=0, le=1)
    seed: int = 0
