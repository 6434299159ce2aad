"""The documentation is true of this code: links, commands, parameters, Python."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import metadata
from itertools import dropwhile, groupby, takewhile
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from dvc.cli import DvcParserError
from dvc.cli.parser import get_main_parser

from derm_t2im.cli import app
from derm_t2im.params import read_yaml
from tests import reference

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ANY_BLOCK = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r'python -c "(.*?)"$', re.MULTILINE | re.DOTALL)
#: Programs of others that the pages call as they are.
KNOWN = {"git", "make", "python", "pip", "accelerate", "curl", "find", "cd", "cp", "ls", "mkdir", "export", "."}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> Iterator[str]:
    for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if found.group(1) == language:
            yield found.group(2)


def shell(page: Path) -> Iterator[str]:
    """The shell blocks of a page, and the lines after a prompt in the blocks that show output."""
    yield from blocks(page, "sh")
    for found in ANY_BLOCK.finditer(page.read_text(encoding="utf-8")):
        said = re.findall(r"^\$ (.*(?:\\\n.*)*)", found.group(1), re.MULTILINE)
        yield from said


def commands(text: str) -> Iterator[list[str]]:
    """The words of each shell command of a block, comments and continuation lines resolved."""
    for line in PYTHON.sub("python -c ...", text).replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        for operator, group in groupby(lexer, lambda word: bool(re.fullmatch("[;|&]+", word))):
            words = list(dropwhile(lambda word: re.match("[A-Z_0-9]+=", word), group))
            if words and not operator:
                yield words


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def _ours(words: list[str]) -> list[str] | None:
    """The words after `derm-t2im`, however it is called; None where another program is."""
    for start in (["derm-t2im"], ["derm_t2im"]):
        if words[:1] == start or (start[0] in words and words[words.index(start[0]) - 1] == "-m"):
            return words[words.index(start[0]) + 1 :]
    return None


@each_page
def test_commands_and_options_exist(page: Path) -> None:
    """Ours are parsed by our own command line and DVC's by its own, values and numbers of arguments included."""
    root, dvc = typer.main.get_command(app), get_main_parser()
    for words in (words for text in shell(page) for words in commands(text)):
        said = f"{page.name}: {' '.join(words)}"
        words = list(takewhile(lambda word: not re.match(r"[12]?>", word), words))
        if rest := _ours(words):
            command: Any = root
            while hasattr(command, "commands") and not rest[0].startswith("-"):
                assert rest[0] in command.commands, said
                command, rest = command.commands[rest[0]], rest[1:]
            try:
                command.make_context("derm-t2im", list(rest))
            except click.ClickException as error:
                pytest.fail(f"{said}: {error.format_message()}")
        elif words[0] == "dvc":
            try:
                dvc.parse_args(words[1:])
            except (DvcParserError, SystemExit) as error:
                pytest.fail(f"{said}: {error!r}")
        else:
            assert words[0] in KNOWN, said


@each_page
def test_extras_that_are_installed_exist(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    offered = {name for name in metadata("dvc").get_all("Provides-Extra") or []}
    for text in shell(page):
        for project, extra in re.findall(r"(derm-t2im|dvc)\[([a-z0-9_]+)\]", text):
            assert extra in (extras if project == "derm-t2im" else offered), f"{page.name}: {project}[{extra}]"


def test_every_command_is_in_the_docs() -> None:
    def walk(command: Any, name: str) -> Iterator[str]:
        for each, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, f"{name} {each}") if hasattr(inner, "commands") else (f"{name} {each}",)

    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.parent.name == "docs")
    names = list(walk(typer.main.get_command(app), "derm-t2im"))
    assert len(names) > 20
    assert [name for name in names if not re.search(rf"{name}\b(?!-)", text)] == []


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
    for text in shell(page):
        for words in commands(text):
            if words[0] == "make":
                assert all(word in targets for word in words[1:] if "=" not in word and not word.startswith("-")), words
            if words[0] == "python" and len(words) > 1 and words[1].endswith(".py"):
                assert (ROOT / words[1]).is_file(), f"{page.name}: {words[1]}"


def _python(page: Path) -> Iterator[str]:
    yield from blocks(page, "python")
    for text in shell(page):
        yield from PYTHON.findall(text)


@each_page
def test_python_compiles_and_its_names_exist(page: Path) -> None:
    """Imports are done; what is taken from an imported module or class is there."""
    for text in _python(page):
        tree = ast.parse(text)
        known: dict[str, Any] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
                    known[alias.asname or alias.name] = getattr(module, alias.name)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
                    name = alias.asname or alias.name.partition(".")[0]
                    known[name] = sys.modules[alias.name if alias.asname else name]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
                assert hasattr(known[node.value.id], node.attr), f"{page.name}: {node.value.id}.{node.attr}"


@each_page
def test_yaml_is_yaml(page: Path) -> None:
    for text in blocks(page, "yaml"):
        yaml.safe_load(text)


def test_the_reference_of_parameters_is_of_these_parameters() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run python -m tests.reference"


def test_every_parameter_is_in_the_table_of_what_runs_again() -> None:
    def leaves(values: Any, name: str) -> Iterator[str]:
        if isinstance(values, dict) and values:
            for key, value in values.items():
                yield from leaves(value, f"{name}.{key}" if name else key)
        else:
            yield name

    table = reference.page().partition("\n## acquire")[0]
    named = [key.replace("<arch>", "[^.]+") for key in re.findall(r"`([a-z_.<>]+)`", table.partition("|---|")[2])]
    covers = re.compile("|".join(rf"{key}(\..*)?" for key in named))
    every = list(leaves(read_yaml(ROOT / "params.yaml"), ""))
    assert len(every) > 150
    assert [key for key in every if not covers.fullmatch(key)] == []


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
