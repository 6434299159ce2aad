from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from derm_t2im import doctor

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture()
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As after `git clone`: parameters, base model, Git, DVC without a remote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://user:secret@db.example:27017/")  # pragma: allowlist secret
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    (tmp_path / "models/base/mini").mkdir(parents=True)
    (tmp_path / "models/base/mini/model_index.json").write_text("{}")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def found(name: str) -> doctor.Check:
    return next(check for check in doctor.examine() if check.name == name)


def test_a_clone_lacks_nothing_but_a_remote(clone: Path) -> None:
    states = {check.name: check.state for check in doctor.examine()}
    assert states.pop("DVC remote") == "note"
    assert states.pop("memory") in ("ok", "note")
    assert set(states.values()) == {"ok"}, states
    assert {"Python", "torch", "mongod (FiftyOne)", "onnxruntime", "base model", "disk", "DVC", "Git"} <= states.keys()


def test_the_command_exits_with_1_only_for_what_the_default_run_needs(clone: Path) -> None:
    app = typer.Typer()
    app.command()(doctor.command)
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0
    assert "dvc remote add -d" in done.stdout
    assert "secret" not in done.output
    (clone / "models/base/mini/model_index.json").unlink()
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 1
    assert "The default run needs: base model." in done.stderr


def test_every_component_that_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    for check in doctor.examine(tmp_path):
        assert check.state == "ok" or check.do, check


@pytest.mark.parametrize(
    ("config", "state", "said"),
    [
        ("[core]\n    remote = store\n['remote \"store\"']\n    url = /elsewhere\n", "ok", "store"),
        ("['remote \"store\"']\n    url = /elsewhere\n", "note", "store, none is the default"),
        ("[core]\n    remote = gone\n", "note", "none: nothing can be pushed"),
        ("not a section", "note", "cannot read .dvc/config"),
    ],
)
def test_the_remote(clone: Path, config: str, state: str, said: str) -> None:
    (clone / ".dvc/config").write_text(config)
    check = found("DVC remote")
    assert (check.state, said in check.found) == (state, True)


def test_wrong_parameters_and_missing_images_are_named(clone: Path) -> None:
    text = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(
        text.replace("source: phantom", "source: folder", 1).replace("source: phantom", "source: none", 1)
    )
    assert "no folder data/import" in found("images").found
    (clone / "params.yaml").write_text(text.replace("guidance:", "guidence:"))
    check = found("params.yaml")
    assert check.state == "missing" and "generate.guidence" in check.found
    assert found("images").state == "missing"


def test_a_device_that_is_not_there(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DERM_T2IM_DEVICE", "quantum")
    check = found("torch")
    assert check.state == "missing" and "quantum" in check.found


def test_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    states = {check.name: check.state for check in doctor.examine(tmp_path)}
    assert states["Git"] == states["DVC"] == states["params.yaml"] == "missing"


def test_it_imports_nothing_heavy_before_it_is_asked() -> None:
    heavy = "'torch', 'fiftyone', 'onnxruntime', 'pandas'"
    code = f"import sys, derm_t2im.doctor; print([m for m in ({heavy}) if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
