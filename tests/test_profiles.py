"""`derm-t2im profile`: through the command line, in a project of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from derm_t2im import profiles
from derm_t2im.params.schema import load_all

ROOT = Path(__file__).parents[1]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    code = "from derm_t2im.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, "profile", *words], cwd=folder, capture_output=True, text=True)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    return tmp_path


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


def test_the_papers_profile_is_written_and_comments_stay(project: Path) -> None:
    before = (project / "params.yaml").read_text()
    done = run(project, "paper")
    assert done.returncode == 0, done.stderr
    after = (project / "params.yaml").read_text()
    assert comments(after) == comments(before)
    params = load_all(project / "params.yaml")
    assert params.finetune.base == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert (params.preprocess.size, params.finetune.rank, params.split.seed_images) == (512, 4, 2800)
    assert (params.curate.keep, params.generate.guidance) == (6000, 7.0)
    assert params.train.models["vit"].options == {}
    assert "finetune.rank: 8 -> 4" in done.stdout and "git checkout params.yaml" in done.stdout + done.stderr
    assert "already" in (again := run(project, "paper")).stdout + again.stderr
    assert (project / "params.yaml").read_text() == after


@pytest.mark.parametrize("name", [file.stem for file in sorted((ROOT / "profiles").glob("*.yaml"))])
def test_each_profile_changes_what_it_says_and_nothing_else(name: str, project: Path) -> None:
    before = yaml.safe_load((project / "params.yaml").read_text())
    text, changes = profiles.apply(name, project / "params.yaml", project / "profiles")
    expected = before
    for where, _, new in changes:
        *path, last = where.split(".")
        inner = expected
        for part in path:
            inner = inner[part]
        inner[last] = new
    assert changes and yaml.safe_load(text) == expected


def test_a_dry_run_says_the_changes_and_writes_nothing(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    done = run(project, "quick", "--dry-run")
    assert done.returncode == 0 and "finetune.steps: 200 -> 20" in done.stdout
    assert (project / "params.yaml").read_bytes() == before


def test_without_a_name_they_are_listed_and_an_unknown_one_names_them(project: Path) -> None:
    listed = run(project)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["ham10000", "paper", "quick"]
    assert all(len(line.split()) > 3 for line in listed.stdout.splitlines())
    told = one_line(run(project, "papre"))
    assert "'papre'" in told and "paper, quick" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("finetune:\n  rnak: 4\n", "finetune.rnak: no such parameter"),
        ("finetune:\n  rank: many\n", "finetune.rank"),
        ("finetune: 3\n", "finetune"),
        ("finetune: [\n", "not valid YAML"),
        ("- 3\n", "must hold sections"),
    ],
)
def test_a_profile_that_does_not_fit_is_one_line_and_writes_nothing(project: Path, text: str, told: str) -> None:
    (project / "profiles" / "own.yaml").write_text(text)
    before = (project / "params.yaml").read_bytes()
    said = one_line(run(project, "own"))
    assert told in said and "own.yaml" in said
    assert (project / "params.yaml").read_bytes() == before


def test_outside_of_a_project_it_is_one_line(tmp_path: Path) -> None:
    assert "no profile 'paper'" in one_line(run(tmp_path, "paper"))
