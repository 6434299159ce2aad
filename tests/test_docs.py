"""The documentation is true of this code: links, commands, parameters, Python."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from derm_t2im.cli import app
from derm_t2im.params import read_yaml
from tests import reference

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> Iterator[str]:
    for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if found.group(1) == language:
            yield found.group(2)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each shell command of a block, comments and continuation lines resolved."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s(?:&&|\|\||\||;)\s|;\s", line.removeprefix("$ ")):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                yield words


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def _options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help",
        "-h",
    }


@each_page
def test_commands_and_options_exist(page: Path) -> None:
    root = typer.main.get_command(app)
    for text in (*blocks(page, "sh"), *blocks(page, "bash"), *blocks(page, "console")):
        for words in commands(text):
            if Path(words[0]).name != "derm-t2im" or len(words) == 1:
                continue
            said = f"{page.name}: {' '.join(words)}"
            command, rest = root, words[1:]
            while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
                assert rest[0] in command.commands, said
                command, rest = command.commands[rest[0]], rest[1:]
            for word in rest:
                if re.match(r"--?[A-Za-z]", word):
                    assert word.partition("=")[0] in _options(command), f"{said}: {word}"


@each_page
def test_parameters_exist(page: Path) -> None:
    params = read_yaml(ROOT / "params.yaml")
    text = "\n".join(content for _, content in BLOCK.findall(page.read_text(encoding="utf-8")))
    for key in re.findall(r"(?:-S|--set-param)\s+['\"]?([a-z_0-9.]+)=", text):
        value: Any = params
        for part in key.split("."):
            assert isinstance(value, dict), f"{page.name}: {key}"
            if not value:  # a mapping that is empty by default takes any name
                break
            assert part in value, f"{page.name}: {key}"
            value = value[part]


@each_page
def test_make_targets_and_files_named_in_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for text in blocks(page, "sh"):
        for words in commands(text):
            if words[0] == "make":
                assert all(word in targets for word in words[1:] if "=" not in word and not word.startswith("-")), words
            if words[0] == "python" and len(words) > 1 and words[1].endswith(".py"):
                assert (ROOT / words[1]).is_file(), f"{page.name}: {words[1]}"


@each_page
def test_python_compiles_and_its_imports_exist(page: Path) -> None:
    for text in blocks(page, "python"):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("derm_t2im"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    known = hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
                    assert known, f"{page.name}: {node.module}.{alias.name}"


@each_page
def test_yaml_is_yaml(page: Path) -> None:
    for text in blocks(page, "yaml"):
        yaml.safe_load(text)


def test_the_reference_of_parameters_is_of_these_parameters() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run python -m tests.reference"


def test_the_drawing_is_of_these_stages() -> None:
    text = reference.DRAWING.read_text(encoding="utf-8")
    assert text == reference.drawn(text), "run python -m tests.reference"


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or not page.is_file():
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)\s#]+\.md)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                waiting.append((page.parent / target).resolve())
    assert set(PAGES) <= reached, sorted(page.name for page in set(PAGES) - reached)
