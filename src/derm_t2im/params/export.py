"""Parameters of `export`."""

from __future__ import annotations

from pydantic import Field

from derm_t2im.params import Section
from derm_t2im.params.mix import MixName


class Export(Section):
    """Section `export`."""

    mix: MixName = "hybrid"
    max_batch: int = Field(1024, ge=1)
    max_abs_difference: float = Field(1e-4, gt=0)
