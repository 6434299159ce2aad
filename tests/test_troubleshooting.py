"""Every error line of docs/troubleshooting.md is one that the code says."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import dvc.lock
import dvc.rwlock
import pytest

from derm_t2im import paths
from tests.project import Project

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
#: First cells that describe what is seen and quote no line.
IN_WORDS = (
    "fewer than `validate.min_images_per_class` images of a set made elsewhere",
    "the stage evaluate runs again after an experiment was applied",
    "files in metrics/ of an architecture or a mix that params.yaml names no more",
    "two runs side by side take many times as long as one after the other",
)


def _cells() -> list[str]:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows if row != "| line | what to do |"]


def _quoted(cell: str) -> list[str]:
    """The lines that a cell quotes, without the "..." that stands for a rest."""
    return [line.removesuffix("...").strip() for line in re.findall(r"`([^`]+)`", cell)]


OF_DVC = [line for cell in _cells() if cell.startswith("DVC: ") for line in _quoted(cell)]
OURS = [line for cell in _cells() if cell not in IN_WORDS and not cell.startswith("DVC: ") for line in _quoted(cell)]


def templates() -> list[list[str]]:
    """Of each text in the source the pieces between what is filled in."""
    found = []
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value for part in parts if isinstance(part, ast.Constant)]
            pieces = [text.replace("`", "") for text in texts if isinstance(text, str)]
            if sum(map(len, pieces)) > 15:
                found.append(pieces)
    return found


def says(pieces: list[str], line: str) -> bool:
    """Whether a text with these fixed pieces begins like ``line``, and the pieces are most of it."""
    at = covered = 0
    for piece in pieces:
        found = line.find(piece, at)
        if found < 0:  # the quotation may end within a piece
            overlap = next((n for n in range(min(len(piece), len(line) - at), 0, -1) if line.endswith(piece[:n])), 0)
            return bool(overlap) and covered + overlap >= 0.4 * len(line)
        at, covered = found + len(piece), covered + len(piece)
    return covered >= 0.4 * len(line)


def test_a_line_that_nobody_says_is_found_out() -> None:
    pieces = ["Port ", " is taken: choose another with --port, or leave --port out."]
    assert says(pieces, "Port 5151 is taken: choose another with --port")
    assert not says(pieces, "Port 5151 is in use: choose another with --port")
    assert not says(["x: ", " of ", "."], "Port 5151 is taken: choose another of these.")


def test_every_row_quotes_a_line_or_is_known_to_describe_one() -> None:
    assert len(OURS) > 15
    assert set(IN_WORDS) <= set(_cells())
    assert all(_quoted(cell) for cell in _cells() if cell not in IN_WORDS)


def test_lines_of_dvc_are_still_its_own() -> None:
    source = "".join(Path(str(module.__file__)).read_text(encoding="utf-8") for module in (dvc.lock, dvc.rwlock))
    assert OF_DVC
    for line in OF_DVC:
        assert all(part.strip() in source for part in line.split("...") if part.strip() != "PID"), line


@pytest.fixture(scope="module")
def clone(blank_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("trouble") / "clone"
    shutil.copytree(blank_project.folder, folder)
    shutil.copytree(ROOT / "sweeps", folder / "sweeps")
    project = Project(folder)
    project.environment |= {"DERM_T2IM_DEVICE": "cpu"}
    project.environment.pop("DERM_T2IM_API_KEY", None)
    return project


def _with(**values: object) -> Callable[[Project], None]:
    return lambda project: project.set(**values)


def _tab(project: Project) -> None:
    path = project.folder / paths.PARAMS
    path.write_text(path.read_text().replace("acquire:", "acquire: a: b", 1))


def _cut(project: Project) -> None:
    (project.folder / "model.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch" + bytes(range(200)))


def _image(project: Project) -> None:
    _cut(project)
    shutil.copy(next((ROOT / "docs" / "images").glob("*.png")), project.folder / "one.png")


#: How a line is met: what is done before, and the command that says it.
PROVOKED: dict[str, tuple[Callable[[Project], None] | None, str]] = {
    "params.yaml: finetune.precision": (_with(**{"finetune.precision": "fp16"}), "derm-t2im stage check"),
    "params.yaml: acquire: acquire.source is": (_with(**{"acquire.source": "ham10000"}), "derm-t2im stage check"),
    "params.yaml is not valid YAML": (_tab, "derm-t2im stage check"),
    "data/splits/manifest.parquet is missing": (None, "derm-t2im stage probe"),
    "No App is open": (None, "derm-t2im review pull"),
    "model.onnx is no ONNX file": (_image, "derm-t2im predict --model model.onnx one.png"),
    "--host 0.0.0.0": (_cut, "derm-t2im serve --model model.onnx --host 0.0.0.0"),
    "Git knows no revision": (None, "derm-t2im report diff origin/main"),
    "there is no sweep": (None, "derm-t2im sweep run x"),
}


@pytest.mark.parametrize("start", PROVOKED)
def test_the_line_is_said(clone: Project, start: str) -> None:
    [line] = [line for line in OURS if line.startswith(start)]
    before = (clone.folder / paths.PARAMS).read_text()
    prepare, command = PROVOKED[start]
    try:
        if prepare:
            prepare(clone)
        done = clone.run(*command.split(), check=False)
    finally:
        (clone.folder / paths.PARAMS).write_text(before)
    said = done.stderr.replace("`", "").strip().removeprefix("Error: ")
    assert done.returncode == 1, said
    pattern = ".+".join(re.escape(part.strip()) for part in line.split("..."))
    assert re.search(pattern, said, re.DOTALL), f"{line}\nis not in\n{said}"
    assert "Traceback" not in said


@pytest.mark.parametrize("line", [line for line in OURS if not line.startswith(tuple(PROVOKED))])
def test_the_line_has_its_template_in_the_source(line: str) -> None:
    """For what needs a full run, an App or a GPU."""
    known = templates()
    for part in filter(None, (part.strip() for part in re.split(r"\.\.\.|(?<=:) - ", line))):
        assert any(says(pieces, part) for pieces in known), part
