"""What an exported file says about itself: its metadata, written at export and read by the runtime.

Everything lies in the ONNX file's own ``metadata_props`` under the prefix ``derm_t2im.``, each value
as JSON, so that the file alone is enough to use it rightly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from derm_t2im.errors import UserError

PREFIX = "derm_t2im."
FORMAT = 1
USE = "Research only, not a medical device: not for diagnosis, triage or treatment."


class Card(BaseModel):
    """The description inside one ONNX file.

    ``positive`` are the classes whose probabilities add up to that of the positive finding (none where
    there is no such finding), ``threshold`` is the operating point on it; ``size`` in pixels; ``mean``
    and ``std`` of RGB in 0..1, applied inside the graph.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    architecture: str
    classes: tuple[str, ...] = Field(min_length=2)
    positive: tuple[str, ...]
    size: int = Field(ge=1)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    hair_removal: Literal["none", "blackhat", "directional"]
    threshold: float | None = Field(ge=0, le=1)
    threshold_sensitivity: float | None = Field(ge=0, le=1)  # that it was chosen for, on validation images
    training_mix: str
    training_seed: int
    training_sources: tuple[str, ...]
    weights_sha256: str
    intended_use: str = USE

    @model_validator(mode="after")
    def _positive_are_classes(self) -> Card:
        if unknown := [name for name in self.positive if name not in self.classes]:
            raise ValueError(f"positive {', '.join(unknown)} not among the classes {', '.join(self.classes)}")
        return self

    @property
    def columns(self) -> list[int]:
        """Columns of the positive finding."""
        return [self.classes.index(name) for name in self.positive]

    def to_metadata(self) -> dict[str, str]:
        """Key and value of each ``metadata_props`` entry."""
        values = self.model_dump(mode="json")
        return {PREFIX + key: json.dumps(values[key], ensure_ascii=False) for key in sorted(values)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Card:
        """The card in a file's metadata.

        Raises:
            UserError: where there is none, or not one that this version understands.
        """
        own = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
        if not own:
            raise UserError("the file has no derm-t2im metadata: export it with `dvc repro` (stage export).")
        try:
            values: dict[str, Any] = {key: json.loads(value) for key, value in own.items()}
            if values.get("format") != FORMAT:
                raise UserError(f"its metadata has format {values.get('format')!r}, this program reads {FORMAT}.")
            return cls.model_validate(values)
        except (ValidationError, ValueError) as error:
            raise UserError(f"its derm-t2im metadata is damaged: {' '.join(str(error).split())[:300]}") from None
