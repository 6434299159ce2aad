"""Parameters of `fidelity`."""

from __future__ import annotations

from pydantic import Field

from derm_t2im.params import Section


class Fidelity(Section):
    """Section `fidelity`."""

    neighbours: int = Field(5, ge=1)
    bootstrap: int = Field(200, ge=20)
    copy_quantile: float = Field(0.01, gt=0, lt=0.5)
    planted_copies: int = Field(50, ge=5)
    seed: int = 0
