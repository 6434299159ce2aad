"""docs/parameters.md and the drawing in docs/architecture.md, made from params.yaml, its schema and dvc.yaml.

`python -m tests.reference` writes them anew.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from derm_t2im.params.schema import Params

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "parameters.md"
DRAWING = ROOT / "docs" / "architecture.md"
MARKS = ("<!-- stages: made by python -m tests.reference -->\n", "<!-- end of stages -->\n")
HEAD = """# Parameters

All of `params.yaml`, with the default, what is allowed, and what it is. Made from the file, its schema and `dvc.yaml`
by `python -m tests.reference`; a test compares. A wrong value stops a run with a line that names what is allowed.

## What runs again

A changed parameter makes DVC run the stages that read it, and after them those whose inputs turn out different. Without
a difference they are skipped: the third column is the most that can run. `check` reads all of it first, in a second.

| Parameter | Stages that read it | Stages after them |
|---|---|---|
"""


def _stages() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]  # type: ignore[no-any-return]


def _named(entry: Any) -> str:
    return next(iter(entry)) if isinstance(entry, dict) else entry


def readers() -> dict[str, list[str]]:
    """Each parameter that dvc.yaml names, and the stages that read it."""
    found: dict[str, list[str]] = {}
    for stage, content in _stages().items():
        if stage == "check":  # reads everything, and writes the same whatever is right
            continue
        for key in content.get("params", []):
            if stage == "report" and key != "report":  # printed there, and nothing else
                continue
            found.setdefault(key.replace("${item.arch}", "<arch>"), []).append(stage)
    return found


def after(names: list[str]) -> list[str]:
    """Stages downstream of some, in the order of dvc.yaml."""
    stages = _stages()
    outs = {
        name: [_named(o) for kind in ("outs", "metrics", "plots") for o in stage.get(kind, [])]
        for name, stage in stages.items()
    }

    def reads(stage: str, path: str) -> bool:
        plain = path.split("${")[0].rstrip("/-")
        for dep in stages[stage].get("deps", []):
            dep = dep.split("${")[0].rstrip("/-")
            if dep == plain or dep.startswith(plain + "/") or plain.startswith(dep + "/"):
                return True
        return False

    reached, waiting = set(names), list(names)
    while waiting:
        current = waiting.pop()
        for stage in stages:
            if stage not in reached and any(reads(stage, path) for path in outs[current]):
                reached.add(stage)
                waiting.append(stage)
    return [name for name in stages if name in reached and name not in names]


def drawing() -> str:
    """The stages as a Mermaid graph: an arrow where one reads what another writes, unless a longer way says so too."""
    names = list(_stages())
    reach = {name: set(after([name])) for name in names}
    lines = ["flowchart TD"]
    for name in names:
        direct = [other for other in names if other in reach[name]]
        lines += [
            f"    {name} --> {other}"
            for other in direct
            if not any(other in reach[between] for between in direct if between != other)
        ]
    return "\n".join(["```mermaid", *lines, "```"]) + "\n"


def drawn(text: str) -> str:
    """The text of the page with the drawing anew."""
    start, end = (text.index(mark) for mark in MARKS)
    return text[: start + len(MARKS[0])] + drawing() + text[end:]


def _allowed(annotation: Any, metadata: list[Any]) -> str:
    """What a field takes, in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _allowed(arguments[0], [*metadata, *arguments[1:]])
    if origin is typing.Literal:
        return " \\| ".join(str(a) or '""' for a in arguments)
    if origin in (list, tuple):
        return f"list of {_allowed(arguments[0], [])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_allowed(a, []) for a in arguments if a is not type(None))
    if origin is dict:
        return f"mapping to {_allowed(arguments[1], [])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "settings, below"
    name = {int: "whole number", float: "number", str: "text", bool: "true \\| false"}.get(annotation, "value")
    bounds = []
    for rule in metadata:
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if (value := getattr(rule, attribute, None)) is not None:
                bounds.append(f"{sign} {value:g}")
    return ", ".join([name, *bounds])


def _comment(section: CommentedMap, key: str) -> str:
    token = section.ca.items.get(key, [None] * 3)[2]
    text = token.value.partition("\n")[0] if token else ""
    return " ".join(text.lstrip("# ").split())


def _rows(section: CommentedMap, model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for key, value in section.items():
        field = fields.get(key)
        annotation = field.annotation if field else Any
        inner = next((a for a in (annotation, *typing.get_args(annotation))
                      if isinstance(a, type) and issubclass(a, BaseModel)), None)  # fmt: skip
        said = _comment(section, key)
        said = "" if said.replace(" ", "") == _allowed(annotation, []).replace("\\", "").replace(" ", "") else said
        if isinstance(value, CommentedMap) and value and inner:
            if inner is annotation:
                yield from _rows(value, inner, f"{prefix}{key}.")
            else:  # a mapping of names to settings
                for name, each in value.items():
                    yield from _rows(each, inner, f"{prefix}{key}.{name}.")
            continue
        shown = yaml.safe_dump(_plain(value), default_flow_style=True, width=1000).strip().removesuffix("...").strip()
        yield f"{prefix}{key}", shown, _allowed(annotation, list(field.metadata) if field else []), said


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return (
        value if isinstance(value, bool) else next((k(value) for k in (int, float, str) if isinstance(value, k)), value)
    )


def _cell(text: str) -> str:
    return text.replace("\\|", "|").replace("|", "\\|").replace("<", "&lt;")


def page() -> str:
    """The whole page."""
    content = YAML().load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    lines = [HEAD]
    together: dict[tuple[str, str], list[str]] = {}
    for key, stages in readers().items():
        together.setdefault((", ".join(stages), ", ".join(after(stages)) or "-"), []).append(f"`{key}`")
    lines += [f"| {', '.join(keys)} | {stages} | {follow} |\n" for (stages, follow), keys in together.items()]
    fields = {field.alias or name: field for name, field in Params.model_fields.items()}
    for section, values in content.items():
        annotation = fields[section].annotation
        assert isinstance(annotation, type)
        lines.append(f"\n## {section}\n\n| Parameter | Default | Allowed | What it is |\n|---|---|---|---|\n")
        for name, shown, allowed, said in _rows(values, annotation, ""):
            default = f"`{_cell(shown)}`" if shown else ""
            lines.append(f"| `{name}` | {default} | {_cell(allowed)} | {_cell(said)} |\n")
    return "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    DRAWING.write_text(drawn(DRAWING.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)} and the drawing in {DRAWING.relative_to(ROOT)}")
