"""Parameters of `export`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from derm_t2im.params import Section
from derm_t2im.params.mix import MixName

Precision = Literal["fp32", "fp16", "int8"]


class Export(Section):
    """Section `export`."""

    mix: MixName = "hybrid"
    max_batch: int = Field(1024, ge=1)
    variants: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    embedding: bool = True
    check_images: int = Field(500, ge=1)
    calibration_images: int = Field(200, ge=1)
    max_abs_difference: float = Field(1e-4, gt=0)
    max_abs_difference_fp16: float = Field(5e-3, gt=0)

    @field_validator("variants")
    @classmethod
    def _fp32_is_there(cls, variants: tuple[Precision, ...]) -> tuple[Precision, ...]:
        if "fp32" not in variants:
            raise ValueError("fp32 must be among the variants: the others are made from it")
        if len(set(variants)) < len(variants):
            raise ValueError("name each variant once")
        return variants
