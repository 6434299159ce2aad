"""Parameters of `report`."""

from __future__ import annotations

from pydantic import Field

from derm_t2im.params import Section


class Report(Section):
    """Section `report`."""

    title: str = "Do synthetic lesions help?"
    samples: int = Field(32, ge=4, le=200)
