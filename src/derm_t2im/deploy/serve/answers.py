"""The shapes of what the service says, with examples: they make the OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np

    from derm_t2im.deploy.card import Card

GOOD: dict[str, Any] = {
    "name": "lesion.jpg", "label": "malignant", "probabilities": {"benign": 0.21, "malignant": 0.79},
    "positive_probability": 0.79, "above_threshold": True, "error": None, "detail": None,
}  # fmt: skip
BAD: dict[str, Any] = {
    "name": "broken.png", "label": None, "probabilities": None, "positive_probability": None,
    "above_threshold": None, "error": "truncated", "detail": "image file is truncated",
}  # fmt: skip
MODEL: dict[str, Any] = {
    "architecture": "vit", "precision": "fp32", "sha256": "91d0...", "weights_sha256": "5f2c...",
    "training_mix": "hybrid", "version": "0.1.0", "classes": ["benign", "malignant"], "positive": ["malignant"],
    "threshold": 0.41,
}  # fmt: skip


class Model(BaseModel):
    """Which model answered."""

    architecture: str
    precision: str = Field(description="fp32, fp16 or int8: each decides a little differently.")
    sha256: str = Field(description="Digest of the file; `derm-t2im predict` gives its first 16 digits as `model`.")
    weights_sha256: str = Field(description="Of the network that was exported, alike in each precision.")
    training_mix: str
    version: str = Field(description="Of derm-t2im, which exported it.")
    classes: tuple[str, ...]
    positive: tuple[str, ...] = Field(description="Classes whose probabilities add up to positive_probability.")
    threshold: float | None = Field(description="Operating point on positive_probability.")

    @classmethod
    def of(cls, card: Card) -> Model:
        """From the description in its file."""
        return cls(**{name: getattr(card, name) for name in cls.model_fields})


class Health(BaseModel):
    """Whether requests are taken, and by which model."""

    status: str = Field(description="ready, starting or stopping.")
    model: Model


class Result(BaseModel):
    """One image's answer: probabilities, or an error and its detail."""

    name: str = Field(description="The file's name as it was sent; empty for a body that is one image.")
    label: str | None = Field(description="The most probable class.")
    probabilities: dict[str, float] | None
    positive_probability: float | None
    above_threshold: bool | None
    error: str | None = Field(description="empty, unreadable, truncated, too_small, too_large, wrong_mode or animated.")
    detail: str | None

    @classmethod
    def good(cls, name: str, row: np.ndarray, card: Card) -> Result:
        """From the probabilities (k,)."""
        positive = sum(float(row[column]) for column in card.columns) if card.positive else None
        return cls(
            name=name,
            label=card.classes[int(row.argmax())],
            probabilities={label: round(float(p), 6) for label, p in zip(card.classes, row, strict=True)},
            positive_probability=None if positive is None else round(positive, 6),
            above_threshold=None if positive is None or card.threshold is None else positive >= card.threshold,
            error=None,
            detail=None,
        )

    @classmethod
    def bad(cls, name: str, error: str, detail: str) -> Result:
        """For an image that cannot be used."""
        return cls(
            name=name, label=None, probabilities=None, positive_probability=None, above_threshold=None, error=error,
            detail=detail,
        )  # fmt: skip


class Answer(BaseModel):
    """Results in the order of the images, and what they come from."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": MODEL, "results": [GOOD, BAD], "intended_use": "Research only ..."}]}
    )

    model: Model
    results: list[Result]
    intended_use: str


class Problem(BaseModel):
    """Why a request was not answered."""

    error: str
    detail: str


def problem(what: str, error: str, detail: str) -> dict[str, Any]:
    """An entry of OpenAPI's responses."""
    example = {"error": error, "detail": detail}
    return {"model": Problem, "description": what, "content": {"application/json": {"example": example}}}


RESPONSES: dict[int | str, dict[str, Any]] = {
    400: problem("The form is broken or holds no file.", "no_image", "the form holds no file"),
    401: problem("The key is missing or wrong.", "no_key", "send the key"),
    408: problem("The body took too long to arrive.", "too_slow", "the body did not arrive"),
    413: problem("Too many bytes, or too many images.", "too_many_bytes", "send smaller images, or fewer"),
    415: problem("Neither an image nor a form.", "unsupported_media_type", "send an image as image/jpeg"),
    422: {
        "model": Answer,
        "description": "No image of the request can be used; each result says why.",
        "content": {"application/json": {"example": {
            "model": MODEL, "results": [BAD], "intended_use": "Research only ...",
        }}},
    },
    429: problem("The queue is full; Retry-After says when to try again.", "queue_full", "the service is busy"),
    503: problem("The service is starting or stopping.", "stopping", "the service is stopping"),
}  # fmt: skip

#: OpenAPI's description of the body, which no parameter of a function describes: it is read as it comes in.
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        **{
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/jpeg", "image/png", "application/octet-stream")
        },
    },
}
