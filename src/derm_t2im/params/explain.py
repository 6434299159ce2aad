"""Parameters of `explain`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from derm_t2im.params import Section


class Explain(Section):
    """Section `explain`."""

    images: int = Field(120, ge=0)
    attention: Literal["gradient", "rollout"] = "gradient"
    seed: int = 0
