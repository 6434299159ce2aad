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
    """Section `train`. ``steps`` is the same for every mix, whatever its size.

    ``layer_decay`` multiplies the learning rate once more for each layer away from the head. ``ema`` is the decay of an
    average of the weights, which is evaluated and kept instead. ``crop`` is the least share of the area that a random
    resized crop keeps (`standard`; `strong` crops to a half at least). ``patience`` counts evaluations on the real
    validation images without a better one.
    """

    archs: list[str] = Field(min_length=1)
    models: dict[str, Model]
    steps: int = Field(300, ge=1)
    batch: int = Field(32, ge=2)
    weight_decay: float = Field(0.05, ge=0)
    warmup: int = Field(30, ge=0)
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    layer_decay: float = Field(1.0, gt=0, le=1)
    ema: float = Field(0.0, ge=0, lt=1)
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    focal_gamma: float = Field(2.0, ge=0)
    class_weights: Literal["none", "balanced"] = "none"
    augment: Literal["none", "standard", "strong"] = "standard"
    crop: float = Field(1.0, gt=0, le=1)
    evaluate_every: int = Field(50, ge=1)
    patience: int = Field(0, ge=0)
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
