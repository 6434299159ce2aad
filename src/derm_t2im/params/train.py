"""Parameters of `train`: the classifiers under test."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from derm_t2im.params import Section


class Model(Section):
    """One architecture: a timm model by name, its options, and where its weights come from.

    ``weights`` is empty (random start), ``pretrained`` (the timm hub) or a safetensors file.
    ``size`` is the side of its input in pixels, 0 for that of the images. ``freeze_norm`` keeps
    batch-norm as it was pretrained (needed where it was folded into the weights). ``options`` may
    hold ``mean`` and ``std`` beside the arguments of the timm model.
    """

    timm: str
    options: dict[str, Any] = Field(default_factory=dict)
    weights: str = ""
    size: int = Field(0, ge=0, le=1024)
    freeze_norm: bool = False
    lr: float = Field(1e-3, gt=0)


class Train(Section):
    """Section `train`. ``steps`` is the same for every mix, whatever its size."""

    archs: list[str] = Field(min_length=1)
    models: dict[str, Model]
    steps: int = Field(300, ge=1)
    batch: int = Field(32, ge=2)
    weight_decay: float = Field(0.05, ge=0)
    warmup: int = Field(30, ge=0)
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    augment: Literal["none", "standard"] = "standard"
    evaluate_every: int = Field(50, ge=1)
    seeds: list[int] = Field(default_factory=lambda: [0, 1], min_length=1)

    @field_validator("archs", "seeds")
    @classmethod
    def _once(cls, values: list[Any]) -> list[Any]:
        if len(set(values)) != len(values):
            raise ValueError("name each once")
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Train:
        missing = [arch for arch in self.archs if arch not in self.models]
        if missing:
            raise ValueError(f"archs {missing} are not described in models; described: {', '.join(self.models)}")
        if self.warmup >= self.steps:
            raise ValueError(f"warmup ({self.warmup}) must be less than steps ({self.steps})")
        return self
