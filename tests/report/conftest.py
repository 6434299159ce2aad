from __future__ import annotations

from pathlib import Path

import pytest

from derm_t2im.params.report import Report
from derm_t2im.report.evidence import Evidence, collect
from derm_t2im.report.page import render
from tests.report import example


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests must not change it."""
    return example.write(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def evidence(finished: Path) -> Evidence:
    return collect(finished)


@pytest.fixture(scope="session")
def page(evidence: Evidence) -> str:
    return render(evidence, Report(samples=8))
