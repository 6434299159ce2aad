"""What an exported file says about itself: its metadata, written at export and read by the runtime.

Everything lies in the ONNX file's own ``metadata_props`` under the prefix ``derm_t2im.``, each value
as JSON, so that the file alone is enough to use it rightly. One entry, ``sha256``, is a digest of all
the rest, graph, weights and the other entries: a changed or shortened file is found out. It is no
signature; who changes a file can compute it anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from derm_t2im.errors import UserError
from derm_t2im.params.export import Precision

PREFIX = "derm_t2im."
FORMAT = 2
USE = "Research only, not a medical device: not for diagnosis, triage or treatment."
INPUT = (
    "image: uint8 (batch, height, width, 3), RGB, upright, at least 1 pixel; batch, height and width are free. In the "
    "graph: the centre square, resized to (size, size) as in training, normalised. Before it, where hair_removal says "
    "so, hair is removed from the image at its own resolution."
)
OUTPUT = (
    "logits: float32 (batch, classes), as the network gives them; probabilities: softmax of logits / temperature; "
    "embedding, where the file has it: float32 (batch, embedding), the features before the last layer."
)

Share = float | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Operating(_Part):
    """What the threshold does on a set of images: sensitivity and specificity with 95 % Wilson intervals.

    None where the set has no image of that side.
    """

    positives: int = Field(ge=0)
    negatives: int = Field(ge=0)
    sensitivity: Share = Field(None, ge=0, le=1)
    sensitivity_low: float = Field(0, ge=0, le=1)
    sensitivity_high: float = Field(1, ge=0, le=1)
    specificity: Share = Field(None, ge=0, le=1)
    specificity_low: float = Field(0, ge=0, le=1)
    specificity_high: float = Field(1, ge=0, le=1)


class Measured(_Part):
    """This network on one test set, at its temperature: ``figures`` by name, ``x`` with ``x_low`` and ``x_high``.

    Intervals are 95 % bootstrap over ``groups`` (lesions). ``study`` holds the means over all seeds of this
    architecture and mix, before the temperature.
    """

    images: int = Field(ge=1)
    groups: int = Field(ge=1)
    figures: dict[str, float | None]
    operating: Operating | None = None
    study: dict[str, float | None] = Field(default_factory=dict)


class Card(BaseModel):
    """The description inside one ONNX file.

    ``positive`` are the classes whose probabilities add up to that of the positive finding (none where
    there is no such finding), ``threshold`` is the operating point on it, after the temperature; ``size``
    in pixels; ``mean`` and ``std`` of RGB in 0..1, applied inside the graph; ``embedding`` the width of that
    output, 0 where the file has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    architecture: str
    precision: Precision = "fp32"
    opset: int = Field(0, ge=0)
    classes: tuple[str, ...] = Field(min_length=2)
    positive: tuple[str, ...]
    input: str = INPUT
    output: str = OUTPUT
    size: int = Field(ge=1)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    hair_removal: Literal["none", "blackhat", "directional"]
    embedding: int = Field(0, ge=0)
    temperature: float = Field(1.0, gt=0)
    threshold: float | None = Field(ge=0, le=1)
    threshold_sensitivity: float | None = Field(ge=0, le=1)  # that it was chosen for, on validation images
    operating: Operating | None = None  # what it does there
    tests: dict[str, Measured] = Field(default_factory=dict)
    training_mix: str
    training_seed: int
    training_sources: tuple[str, ...]
    training_images: dict[str, int] = Field(default_factory=dict)  # real, synthetic -> number
    licences: dict[str, int] = Field(default_factory=dict)  # of the real training images -> number
    licence: str = "unknown"
    licence_warning: str = ""
    weights_sha256: str
    data_sha256: dict[str, str] = Field(default_factory=dict)  # manifest -> digest
    code_sha256: str = ""  # of the modules that made the file
    version: str = ""
    intended_use: str = USE
    sha256: str = ""  # of the file without this entry

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
        return {PREFIX + key: json.dumps(values[key], ensure_ascii=False, sort_keys=True) for key in sorted(values)}

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
                raise UserError(
                    f"its metadata has format {values.get('format')!r}, this program reads {FORMAT}: export it again "
                    "with `dvc repro` (stage export), or use the version of derm-t2im that wrote it."
                )
            return cls.model_validate(values)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}" for e in error.errors())
            raise UserError(f"{_DAMAGED}: {wrong[:300]}") from None
        except ValueError as error:
            raise UserError(f"{_DAMAGED}: {' '.join(str(error).split())[:300]}") from None


def read_card(content: bytes) -> Card:
    """The card of an ONNX file, checked; without onnx or ONNX Runtime.

    Raises:
        UserError: for a file that is cut short, changed, of an older format, or none of ours.
    """
    metadata: dict[str, str] = {}
    for number, start, end in _fields(content, 0, len(content)):
        if number == _METADATA:
            key, value = _entry(content, start, end)
            metadata[key] = value
    card = Card.from_metadata(metadata)
    check_untampered(content, card)
    return card


def check_untampered(content: bytes, card: Card) -> None:
    """Is this file, graph, weights and metadata, as it was exported?

    Raises:
        UserError: if not; changed and shortened files, which ONNX Runtime may well load.
    """
    if digest(content) != card.sha256:
        raise UserError(
            "the file is not as it was exported (its SHA-256 is not the one in its metadata): it was changed or "
            "damaged since; get it again (`dvc checkout`), or export it anew."
        )


def digest(content: bytes) -> str:
    """SHA-256 of an ONNX file without the metadata entry that holds this digest, in hex.

    Raises:
        UserError: if the bytes are no ONNX file, or are cut short.
    """
    found, view, done = hashlib.sha256(), memoryview(content), 0
    for number, start, end in _fields(content, 0, len(content)):
        if number != _METADATA or _entry(content, start, end)[0] != DIGEST_KEY:
            found.update(view[done:end])
        done = end
    return found.hexdigest()


DIGEST_KEY = f"{PREFIX}sha256"
_DAMAGED = "its derm-t2im metadata is damaged: get the file again (`dvc checkout`), or export it anew"
_METADATA = 14  # the field number of ModelProto.metadata_props in onnx.proto
_CUT = "the file is cut short, or is no ONNX file: get it again (`dvc checkout`)."


def _fields(content: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end (of the content) of each field of a protobuf message; groups are not in use."""
    at = start
    while at < end:
        key, at = _varint(content, at, end)
        number, kind = key >> 3, key & 7
        if kind == 0:
            first, (_, at) = at, _varint(content, at, end)
        elif kind == 2:
            length, first = _varint(content, at, end)
            at = first + length
        elif kind in (1, 5):
            first, at = at, at + (8 if kind == 1 else 4)
        else:
            raise UserError(_CUT)
        if at > end or number == 0:
            raise UserError(_CUT)
        yield number, first, at


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise UserError(_CUT)


def _entry(content: bytes, start: int, end: int) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto."""
    parts = {number: content[a:b] for number, a, b in _fields(content, start, end)}
    try:
        return parts.get(1, b"").decode(), parts.get(2, b"").decode()
    except UnicodeDecodeError:
        raise UserError("its metadata is damaged: it is no text.") from None
