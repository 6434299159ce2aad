"""What a sweep is: ``sweeps/NAME.yaml``, read and checked.

The first line of the file is a comment that says what the sweep asks. Then::

    axis: {name: share of synthetic images, scale: linear}  # linear | log | category
    base: {train.seeds: [0, 1, 2, 3, 4]}        # parameters that all points share
    points:
      - {label: half, x: 0.5, set: {mix.synthetic_fraction: 0.5}}
    draw:
      - {key: "classification:{arch}.{mix}.{test}.auc", name: AUC, only: {mix: [real, hybrid]}}
    needs: {acquire.path: the folder of HAM10000}  # parameters that the user has to give
    targets: [evaluate]                            # the stages that a point runs up to

A ``key`` names a number in ``metrics/<file>.json`` by its path; each ``{word}`` in it stands for one part of the path,
whatever it is there, or one of ``only``. ``axis.across: mix`` lays the values of ``{mix}`` along the axis, in the order
of ``only``; each point is a series then.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from derm_t2im import paths
from derm_t2im.errors import UserError
from derm_t2im.params import Section, complaint, read_yaml

FOLDER = Path("sweeps")
_WORD = re.compile(r"\{(\w+)\}")


class Axis(Section):
    """What differs between the points."""

    name: str
    scale: Literal["linear", "log", "category"] = "category"
    across: str = ""


class Point(Section):
    """One experiment: what it changes beside the base; ``x`` is its place on a numeric axis."""

    label: str = Field(min_length=1)
    x: float | None = None
    set: dict[str, Any] = Field(default_factory=dict)

    @field_validator("label", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        return str(value) if isinstance(value, int | float) else value


class Drawn(Section):
    """A family of figures that is collected and drawn."""

    key: str = Field(pattern=r"^\w[\w/-]*:\S+$")
    name: str
    only: dict[str, list[str]] = Field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The metrics file."""
        return paths.METRICS / f"{self.key.partition(':')[0]}.json"

    @property
    def words(self) -> list[str]:
        """The placeholders of the key, in order."""
        return _WORD.findall(self.key)

    def match(self, where: str) -> dict[str, str] | None:
        """What the placeholders are at the path ``where``; None if the key does not name it."""
        pattern = ""
        for i, part in enumerate(_WORD.split(self.key.partition(":")[2])):
            pattern += re.escape(part) if i % 2 == 0 else rf"(?P<{part}>[^.]+)"
        found = re.fullmatch(pattern, where)
        if not found or any(found[word] not in allowed for word, allowed in self.only.items()):
            return None
        return found.groupdict()

    @model_validator(mode="after")
    def _only_its_words(self) -> Drawn:
        if strangers := sorted(set(self.only) - set(self.words)):
            raise ValueError(f"only: {strangers[0]} is none of the placeholders of {self.key}")
        return self


class Sweep(Section):
    """A sweep, as its file says."""

    axis: Axis
    base: dict[str, Any] = Field(default_factory=dict)
    points: list[Point] = Field(min_length=1)
    draw: list[Drawn] = Field(min_length=1)
    needs: dict[str, str] = Field(default_factory=dict)
    targets: list[str] = Field(default_factory=lambda: ["evaluate"], min_length=1)
    name: str = ""
    asks: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> Sweep:
        names = [self.experiment(point) for point in self.points]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"points: two have the name {twice[0]}; give each its own label")
        if self.axis.scale != "category" and not self.axis.across:
            for point in self.points:
                if point.x is None or (self.axis.scale == "log" and point.x <= 0):
                    raise ValueError(f"points: {point.label} needs an x{' above 0' * (point.x is not None)}")
        if self.axis.across and not all(self.axis.across in drawn.words for drawn in self.draw):
            raise ValueError(f"axis.across: {self.axis.across} is no placeholder of every key that is drawn")
        return self

    def experiment(self, point: Point) -> str:
        """The name of a point's experiment."""
        return f"sweep-{self.name}-{re.sub(r'[^A-Za-z0-9.]+', '-', point.label).strip('-.')}"

    def changes(self, point: Point, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters that a point changes; what the user gave goes over the base, the point over both."""
        return {**self.base, **given, **point.set}


def known(folder: Path = FOLDER) -> dict[str, str]:
    """Name of each sweep and what it asks."""
    return {file.stem: _asks(file) for file in sorted(folder.glob("*.yaml"))}


def _asks(file: Path) -> str:
    first = file.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


def read(name: str, folder: Path = FOLDER) -> Sweep:
    """The sweep of this name.

    Raises:
        UserError: if there is none, or its file is wrong.
    """
    names = known(folder)
    if name not in names:
        raise UserError(f"there is no sweep {name!r}; sweeps in {folder}: {', '.join(names) or 'none'}.")
    file = folder / f"{name}.yaml"
    values = read_yaml(file)
    try:
        return Sweep.model_validate({**values, "name": name, "asks": names[name]})
    except ValidationError as error:
        raise UserError(f"{file}: {complaint(error, '', Sweep).removeprefix('params.yaml: ')}") from None


def parse(given: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words of the command line, values as YAML.

    Raises:
        UserError: for a word without a key or with a value that is no YAML.
    """
    values = {}
    for word in given:
        key, sign, text = word.partition("=")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            sign = ""
        if not sign or not key.strip():
            raise UserError(f"-S {word}: write key=value, such as -S generate.guidance=5.")
    return values


def parameters(sweep: Sweep, point: Point, given: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """All of params.yaml as a point runs with it, checked against the schema.

    Args:
        sweep: The sweep.
        point: One of its points.
        given: What the user gave.
        base: The values of params.yaml.

    Raises:
        UserError: for parameters that do not exist or are not allowed.
    """
    from derm_t2im.params.schema import Params

    where = f"sweep {sweep.name}, point {point.label}"
    values = copy.deepcopy(dict(base))
    for key, value in sweep.changes(point, given).items():
        *above, last = key.split(".")
        inner: Any = values
        for part in above:
            inner = inner.get(part) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or last not in inner:
            raise UserError(f"{where}: params.yaml has no parameter {key}.")
        inner[last] = value
    try:
        Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {complaint(error, '', Params).removeprefix('params.yaml: ')}") from None
    return values


def overrides(key: str, value: Any) -> list[str]:
    """One change as words for ``dvc exp run -S`` (Hydra's grammar). A mapping takes the place of the old one."""
    if isinstance(value, Mapping):  # set alone, its keys would join those that are there
        return [f"{paths.PARAMS}:~{key}", f"{paths.PARAMS}:+{key}={_hydra(value)}"]
    return [f"{paths.PARAMS}:{key}={_hydra(value)}"]


def _hydra(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_hydra(str(key))}:{_hydra(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_hydra, value)) + "]"
    if isinstance(value, float):
        import numpy as np

        return np.format_float_positional(value, trim="0")  # 3e-05 in params.yaml would be read as text
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if re.fullmatch(r"[A-Za-z_][\w./-]*", text) and text.lower() not in ("true", "false", "null", "inf", "nan"):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
