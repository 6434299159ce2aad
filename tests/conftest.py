"""What all tests share."""

from __future__ import annotations

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
