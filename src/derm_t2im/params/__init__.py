"""Typed parameters: one module per section of params.yaml, one section per stage.

A stage imports its own section only, so that a new parameter of the report does not make DVC
train anything again; :mod:`derm_t2im.params.schema` puts them together for the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from derm_t2im.errors import UserError


class Section(BaseModel):
    """Base of all parameter groups: unknown keys are errors, values are fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


def complaint(error: ValidationError, section: str, model: type[BaseModel]) -> str:
    """One line per wrong parameter: where, what it is, what is allowed."""
    lines = []
    for item in error.errors():
        at = ".".join(str(part) for part in (section, *item["loc"]) if part != "")
        if item["type"] == "extra_forbidden":
            lines.append(f"{at}: no such parameter; allowed here: {', '.join(_siblings(model, item['loc']))}.")
        elif item["type"] == "missing":
            lines.append(f"{at}: this parameter is missing.")
        else:
            said = item["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
            # Rules that cross parameters were given all of them: they name what they mean.
            where = f"{at}: " if at else ""
            lines.append(
                f"{where}{said}." if isinstance(item["input"], dict) else f"{where}{said} (it is {item['input']!r})."
            )
    return "params.yaml: " + " ".join(lines)


def _siblings(model: Any, loc: tuple[int | str, ...]) -> list[str]:
    """The fields allowed beside the unknown key at ``loc``."""
    for part in loc[:-1]:
        fields = getattr(model, "model_fields", {})
        field = fields.get(part) or next((f for f in fields.values() if f.alias == part), None)
        if field is None:
            continue  # a key of a mapping or an index of a list: its value type was found before it
        annotation = field.annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next((c for c in candidates if hasattr(c, "model_fields")), model)
    return sorted(field.alias or name for name, field in getattr(model, "model_fields", {}).items())


def read_yaml(path: Path) -> dict[str, Any]:
    """The raw mapping in a parameter file.

    Raises:
        UserError: if it is missing, no YAML, or no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run this in the root of the repository.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold sections (acquire: ..., split: ...), not {type(values).__name__}.")
    return values


def load(section: str, model: type[S], path: Path = Path("params.yaml")) -> S:
    """Read and check one section of ``params.yaml``.

    Raises:
        UserError: naming each wrong key or value and what is allowed.
    """
    values = read_yaml(path)
    if section not in values:
        raise UserError(f"{path}: the section {section!r} is missing.")
    try:
        return model.model_validate(values[section])
    except ValidationError as error:
        raise UserError(complaint(error, section, model)) from None
