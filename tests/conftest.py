"""What all tests share."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import settings

from tests.project import Project, tiny

# A busy machine is no fault of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def blank_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project as a clone has it, with the tiny parameters; nothing has run."""
    return tiny(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def finished_project(blank_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of it after `dvc repro`, committed."""
    project = Project(shutil.copytree(blank_project.folder, tmp_path_factory.mktemp("finished") / "project"))
    project.run("dvc", "repro")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "first run")
    return project
