"""Parameters of `train`: the classifiers under test."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from derm_t2im.params import Section


class Model(Section):
    """One architecture: a timm model by name, its options, and where its weights come from.

    ``weights`` is empty (random start), ``pretrained`` (the timm hub) or a safetensors file.
    """

    timm: str
    options: dict[str, Any] = Field(default_factory=dict)
    weights: str = ""
    lr: float = Field(1e-3, gt=0)


class Train(Section):
    """Section `train`."""

    archs: list[str] = Field(min_length=1)
    models: dict[str, Model]
    steps: int = Field(300, ge=1)
    batch: int = Field(32, ge=2)
    weight_decay: float = Field(0.05, ge=0)
    warmup: int = Field(30, ge=0)
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    evaluate_every: int = Field(50, ge=1)
    seeds: list[int] = Field(default_factory=lambda: [0, 1], min_length=1)

    @field_validator("archs")
    @classmethod
    def _described(cls, archs: list[str]) -> list[str]:
        if len(set(archs)) != len(archs):
            raise ValueError("each architecture once")
        return archs

    def model_post_init(self, _: Any) -> None:
        missing = [arch for arch in self.archs if arch not in self.models]
        if missing:
            raise ValueError(f"archs {missing} are not described in models; described: {', '.join(self.models)}")
