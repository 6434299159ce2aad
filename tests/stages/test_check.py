from pathlib import Path
from typing import Any

import pytest
import yaml

from derm_t2im import paths, runtime
from derm_t2im.errors import UserError
from derm_t2im.stages import check

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for place in ("data/import", "data/import-external", "models"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "models/base").symlink_to(ROOT / "models/base")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(**changes: Any) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for dotted, value in changes.items():
        section, name = dotted.split("__")
        values[section][name] = value
    Path("params.yaml").write_text(yaml.safe_dump(values))


def test_sound_parameters_pass_and_leave_the_same_file(project: Path) -> None:
    write()
    check.run()
    first = paths.CHECK.read_bytes()
    write(finetune__steps=5)
    check.run()
    assert paths.CHECK.read_bytes() == first


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"acquire__path": "nowhere"}, r"acquire\.path: there is no folder nowhere"),
        ({"finetune__base": "models/bse/mini"}, r"finetune\.base: there is no folder or file"),
        ({"finetune__base": "data/import"}, r"no diffusers folder"),
        ({"generate__lora": "typo.safetensors"}, r"generate\.lora: there is no file 'typo\.safetensors'"),
        ({"generate__images_from": "nowhere"}, r"generate\.images_from: there is no folder 'nowhere'"),
        ({"finetune__token": {"benign": "sks"}}, r"finetune\.token: no token for malignant"),
        ({"finetune__optimizer": "adamw8bit"}, r"adamw8bit needs bitsandbytes"),
        ({"finetune__precision": "fp16"}, r"finetune\.precision: fp16 needs a GPU"),
        ({"generate__precision": "fp16"}, r"generate\.precision: fp16 needs a GPU"),
    ],
    ids=str,
)
def test_what_would_fail_later_is_said_before_anything_is_removed(
    project: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(runtime, "device", lambda: "cpu")
    monkeypatch.setattr(check, "find_spec", lambda name: None)
    write(**changes)
    with pytest.raises(UserError, match=said) as caught:
        check.run()
    assert "\n" not in str(caught.value) and "Nothing was run or removed" in str(caught.value)
    assert not paths.CHECK.exists()
