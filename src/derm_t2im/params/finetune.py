"""Parameters of `finetune`: DreamBooth + LoRA on the seed images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from derm_t2im.params import Section

Attribute = Literal["label", "size", "count", "tone", "site"]


class Finetune(Section):
    """Section `finetune`."""

    base: str = Field("models/base/mini", min_length=1)
    token: str | dict[str, str] = "sks"
    per_class: bool = False
    caption: tuple[Attribute, ...] = ("label", "size", "count", "tone", "site")
    method: Literal["lora", "full"] = "lora"
    rank: int = Field(8, ge=1, le=1024)
    alpha: float = Field(8, gt=0)
    targets: list[str] = Field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"], min_length=1)
    dora: bool = False
    text_encoder_rank: int = Field(0, ge=0, le=1024)
    steps: int = Field(200, ge=1)
    batch: int = Field(16, ge=1)
    accumulate: int = Field(1, ge=1)
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    lr: float = Field(5e-4, gt=0)
    warmup: int = Field(20, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    ema: float = Field(0.0, ge=0, lt=1)
    patience: int = Field(0, ge=0)
    noise_offset: float = Field(0.0, ge=0, le=1)
    caption_dropout: float = Field(0.1, ge=0, lt=1)
    flips: bool = True
    snr_gamma: float = Field(5.0, ge=0)
    prior_weight: float = Field(0.0, ge=0)
    prior_images: int = Field(64, ge=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    checkpoint_every: int = Field(50, ge=1)
    sample_every: int = Field(100, ge=0)
    kid_samples: int = Field(64, ge=0)
    adherence_samples: int = Field(48, ge=0)
    seed: int = 0

    @field_validator("token", mode="before")
    @classmethod
    def _one_or_one_per_class(cls, value: object) -> object:
        per_class = isinstance(value, dict) and bool(value)
        if isinstance(value, dict) and per_class:
            per_class = all(isinstance(word, str) and word for pair in value.items() for word in pair)
        if not (isinstance(value, str) or per_class):
            raise ValueError("give one token (sks), or one for each class ({benign: sks, malignant: zwx})")
        return value

    @field_validator("kid_samples")
    @classmethod
    def _none_or_two(cls, value: int) -> int:
        if value == 1:
            raise ValueError("a distance between distributions needs at least 2 images; 0 measures none")
        return value

    @model_validator(mode="after")
    def _classes_differ(self) -> Finetune:
        tokens = list(self.token.values()) if isinstance(self.token, dict) else []
        if "label" in self.caption or self.per_class or (tokens and len(set(tokens)) == len(tokens)):
            return self
        raise ValueError(
            "nothing tells the classes apart: add label to finetune.caption, or give each class its own "
            "finetune.token, or set finetune.per_class to true"
        )
