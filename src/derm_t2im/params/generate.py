"""Parameters of `generate`: prompts and sampling."""

from __future__ import annotations

import difflib
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from derm_t2im.params import Section

#: Our short name of a sampler -> the class of diffusers, without "Scheduler".
SHORT = {
    "euler": "EulerDiscrete",
    "euler_a": "EulerAncestralDiscrete",
    "plms": "PNDM",
    "ddim": "DDIM",
    "dpmpp_2m": "DPMSolverMultistep",
    "heun": "HeunDiscrete",
}
#: Further classes that draw from the noise schedule and the outputs of a Stable Diffusion U-Net, each row's noise from
#: its own generator: what their ``_compatibles`` name, less :data:`UNFIT`, and the two parallel ones.
OTHERS = (
    "DDIMParallel",
    "DDPM",
    "DDPMParallel",
    "DEISMultistep",
    "DPMSolverSinglestep",
    "KDPM2AncestralDiscrete",
    "KDPM2Discrete",
    "LMSDiscrete",
    "UniPCMultistep",
)
#: Compatible by name only -> why not.
UNFIT = {
    "DPMSolverSDE": "its noise does not come from the seed of each image",
    "EDMEuler": "it gives the U-Net other inputs (EDM) than Stable Diffusion's was trained with",
}


def sampler(name: str) -> str:
    """The one name of a sampler: a short one, or a diffusers class without ``Scheduler``.

    Raises:
        ValueError: for one that does not exist or does not fit Stable Diffusion, with the allowed names.
    """
    short = {kind: ours for ours, kind in SHORT.items()}
    plain = name.removesuffix("Scheduler")
    if plain in (*SHORT, *OTHERS):
        return plain
    if plain in short:
        return short[plain]
    if plain in UNFIT:
        said = f"does not fit: {UNFIT[plain]}"
    elif plain.startswith(("Flow", "LTX", "SCM", "Piflow")):
        said = "does not fit: it is for flow matching, and Stable Diffusion 1 predicts noise"
    else:
        said = "is no sampler for Stable Diffusion 1"
    known = {each.lower(): each for each in (*SHORT, *short, *OTHERS)}
    close = difflib.get_close_matches(plain.lower(), known, n=1, cutoff=0.5)
    hint = f" Did you mean {known[close[0]]!r}?" if close else ""
    allowed = ", ".join(repr(each) for each in (*SHORT, *OTHERS))
    raise ValueError(f"{name!r} {said}.{hint} Allowed: {allowed}")


Sampler = Annotated[str, AfterValidator(sampler)]


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

    images: int = Field(600, ge=1)
    images_from: str = ""
    max_quarantined: float = Field(0.05, ge=0, le=1)
    samplers: tuple[Sampler, ...] = ("euler_a", "euler", "plms")
    steps: int = Field(20, ge=1, le=1000)
    guidance: float = Field(4.0, ge=0, le=50)
    beta: float = Field(1.0, ge=0, le=4)
    lora: str = ""
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

    @field_validator("samplers")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one sampler")
        if len(set(value)) != len(value):
            raise ValueError("name each sampler once; short and long names mean the same one")
        return value
