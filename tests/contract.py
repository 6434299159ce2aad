"""What the stages of dvc.yaml really need: first-party imports, found in the source."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "derm_t2im"

# Cannot change a result: names of paths (a new name shows in dvc.yaml itself), wording of errors,
# progress on the terminal, the choice of device and number of workers.
WITHOUT_EFFECT = {"paths.py", "errors.py", "progress.py", "runtime.py", "__init__.py"}


def file_of(module: str) -> Path | None:
    """The file of a first-party module, if there is such a module."""
    parts = module.split(".")[1:]
    for candidate in (SOURCE.joinpath(*parts).with_suffix(".py"), SOURCE.joinpath(*parts, "__init__.py")):
        if parts and candidate.is_file():
            return candidate
    return SOURCE / "__init__.py" if not parts else None


@cache
def _has_code(file: Path) -> bool:
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


@cache
def imports(file: Path) -> set[Path]:
    """Files of the first-party modules that a file imports anywhere but under ``TYPE_CHECKING``."""
    found: set[Path] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] == "derm_t2im":
                parts = name.split(".")
                # importing a.b.c runs a and a.b too
                for end in range(1, len(parts) + 1):
                    target = file_of(".".join(parts[:end]))
                    if target:
                        found.add(target)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return found


@cache
def resources(file: Path) -> set[Path]:
    """Files and folders beside a module that it names in a string: tables, templates."""
    names = {n.value for n in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
             if isinstance(n, ast.Constant) and isinstance(n.value, str) and n.value.strip("./")}  # fmt: skip
    beside = {p.name: p for p in file.parent.iterdir() if p.suffix != ".py" and p.name != "__pycache__"}
    found = {
        path
        for name, path in beside.items()
        if name in names
        and not (path / "__init__.py").exists()
        and not list(path.glob("*.py") if path.is_dir() else [])
    }
    # `templates.environment("derm_t2im.report")` reads the folder `templates` of that package.
    pages = (SOURCE.joinpath(*name.split(".")[1:], "templates") for name in names if name.startswith("derm_t2im."))
    return found | {folder for folder in pages if folder.is_dir()}


def closure(file: Path) -> set[Path]:
    """All first-party files that running ``file`` reads, itself included."""
    seen: set[Path] = set()
    waiting = [file]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting.extend(imports(current))
    return seen


@cache
def needed(stage: str) -> tuple[str, ...]:
    """Source files that dvc.yaml must list among the dependencies of a stage."""
    files = closure(SOURCE / "stages" / f"{stage}.py")
    own = {f for f in files if f.relative_to(SOURCE).as_posix() not in WITHOUT_EFFECT and _has_code(f)}
    own |= {resource for f in files for resource in resources(f)}
    return tuple(sorted(f.relative_to(ROOT).as_posix() for f in own))


def rewritten(text: str) -> str:
    """dvc.yaml's text with the source dependencies that its stages need."""
    out: list[str] = []
    stage, placed = "", False
    for line in text.splitlines():
        if re.fullmatch(r"  \w+:", line):
            stage, placed = line.strip(" :"), False
        if re.match(r"\s+- src/", line):
            if not placed:
                indent = line[: line.index("-")]
                out += [f"{indent}- {file}" for file in needed(stage)]
            placed = True
        else:
            out.append(line)
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    pipeline = ROOT / "dvc.yaml"
    pipeline.write_text(rewritten(pipeline.read_text(encoding="utf-8")), encoding="utf-8")
