from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from derm_t2im import paths
from derm_t2im.errors import UserError
from derm_t2im.stages import report
from tests.report import example

REPOSITORY = Path(__file__).parents[2]


def test_the_page_is_written_once_and_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    example.write(Path(), per_class=2)
    parameters = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump(parameters))
    report.run()
    first = paths.REPORT.read_bytes()
    assert first.startswith(b"<!doctype html>") and b"Do synthetic lesions help?" in first
    assert "reports/index.html" in capsys.readouterr().err
    assert [p.name for p in paths.REPORT.parent.iterdir()] == ["index.html"]


def test_a_wrong_parameter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("report: {title: x, samles: 3}")
    with pytest.raises(UserError, match=r"report\.samles: no such parameter; allowed here: samples, title"):
        report.run()
    assert not paths.REPORT.exists()
