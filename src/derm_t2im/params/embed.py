"""Parameters of `embed`: the encoder behind fidelity and curation."""

from __future__ import annotations

from pydantic import Field

from derm_t2im.params import Section


class Embed(Section):
    """Section `embed`. ``encoder`` is ``probe`` or the name of a timm model."""

    encoder: str = "probe"
    weights: str = ""
    batch: int = Field(64, ge=1)
