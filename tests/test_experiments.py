"""What `dvc exp run -S` does to params.yaml: the lines of that parameter and no others."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from derm_t2im import profiles

ROOT = Path(__file__).parents[1]


def changed(before: str, after: str) -> list[str]:
    return [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]


@pytest.mark.parametrize("profile", ["", "quick"])
def test_an_override_changes_its_own_line_only(tmp_path: Path, profile: str) -> None:
    """DVC writes the whole file anew: lists in blocks, single quotes. The file is kept in that form."""
    params = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", params)
    if profile:
        text, _ = profiles.apply(profile, params, ROOT / "profiles")
        params.write_text(text, encoding="utf-8")
    before = params.read_text(encoding="utf-8")
    apply_overrides(params, ["generate.guidance=5.5"])
    after = params.read_text(encoding="utf-8")
    assert [line[:12] for line in changed(before, after)] == ["-   guidance", "+   guidance"]


def test_an_override_of_a_list_changes_that_list_only(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", params)
    apply_overrides(params, ["train.seeds=[0,1,2]"])
    before = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert changed(before, params.read_text(encoding="utf-8")) == ["+   - 2"]
