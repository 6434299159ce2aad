"""Parameters of `generate`: prompts and sampling."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from derm_t2im.params import Section

SAMPLERS = ("euler", "euler_a", "plms", "ddim", "dpmpp_2m", "heun")


def _sampler(name: str) -> str:
    if name not in SAMPLERS and not re.fullmatch(r"[A-Z]\w+", name):
        short = ", ".join(repr(s) for s in SAMPLERS)
        raise ValueError(f"should be {short} or a scheduler class of diffusers such as 'UniPCMultistep'")
    return name


#: A short name, or a class of diffusers; whether such a class exists and fits is known with the model.
Sampler = Annotated[str, AfterValidator(_sampler)]


class Attributes(Section):
    """Which variation the prompts ask for.

    ``match`` draws the attribute from the seed images, ``uniform`` gives each value the
    same share, ``none`` leaves it out of the prompt.
    """

    size: Literal["match", "uniform", "none"] = "match"
    count: Literal["match", "uniform", "none"] = "match"
    tone: Literal["match", "uniform", "none"] = "match"
    site: Literal["match", "uniform", "none"] = "none"


class Generate(Section):
    """Section `generate`."""

    images: int = Field(936, ge=1)
    samplers: tuple[Sampler, ...] = Field(("euler_a", "euler", "plms"), min_length=1)
    steps: int = Field(20, ge=1, le=1000)
    guidance: float = Field(4.0, ge=0, le=50)
    beta: float = Field(1.0, ge=0, le=4)
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    noise_mean: Literal["matched", "zero", "free"] = "matched"
    noise_mean_strength: float = Field(0.6, ge=0, le=2)
    negative_prompt: str = ""
    attributes: Attributes = Attributes()
    batch: int = Field(32, ge=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: int = 0

    @field_validator("samplers", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value
