from pathlib import Path
from typing import Any

import pytest
import yaml

from derm_t2im import networks, paths, runtime
from derm_t2im.errors import UserError
from derm_t2im.stages import check

ROOT = Path(__file__).parents[2]
MODELS = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]["models"]


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


def test_images_made_elsewhere_are_counted_when_they_are_there(project: Path) -> None:
    (project / "theirs").mkdir()
    write(generate__images_from="theirs", generate__images=10)
    check.run()


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
        ({"probe__weights": "typo.safetensors"}, r"probe\.weights: there is no file 'typo\.safetensors'"),
        ({"embed__encoder": "resnet18", "embed__weights": "x.pt"}, r"embed\.weights: there is no file 'x\.pt'"),
        ({"embed__encoder": "resnet18"}, r"embed\.encoder is 'resnet18': set embed\.weights"),
        ({"embed__weights": "pretrained"}, r"the encoder 'probe' takes none"),
        ({"embed__encoder": "random:resnet81"}, r"embed\.encoder: 'resnet81' is no timm model; nearest"),
        ({"probe__model": "resnet10"}, r"probe\.model: 'resnet10' is no timm model; nearest: .*resnet10t"),
        ({"probe__options": {"chanels": [32]}}, r"probe\.model: .*chanels"),
        ({"train__models": MODELS | {"vit": {"timm": "vit_tiny", "lr": 0.001}}}, r"models\.vit: 'vit_tiny' is no timm"),
        ({"preprocess__size": 96}, r"preprocess\.size is 96, but the base model models/base/mini draws 64 px"),
        ({"curate__keep": 601}, r"curate\.keep: 601 images cannot be kept of generate\.images=600"),
        ({"split__test": 501}, r"ask for 741 images, but acquire makes 740"),
        ({"acquire__limit": 700}, r"ask for 740 images, but acquire makes 700"),
        ({"split__external": 501}, r"split\.external asks for 501 images, but acquire makes 500"),
        (
            {"split__train": 39, "split__seed_images": 9},
            r"split\.train: 39 images cannot hold .*min_images_per_class=20",
        ),
        ({"acquire__labels": "ham10000", "curate__keep": 6}, r"less than one image for each of the 7 classes"),
        ({"generate__samplers": ["eulr"]}, r"'eulr' is no sampler.* Did you mean 'euler'"),
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
    assert "\n" not in str(caught.value)
    assert "Nothing was run or removed" in str(caught.value) or "samplers" in str(caught.value)
    assert not paths.CHECK.exists()


def test_a_file_of_weights_is_opened_before_anything_is_removed(project: Path) -> None:
    probe, vit = (project / f"{name}.safetensors" for name in ("probe", "vit"))
    own = yaml.safe_load((ROOT / "params.yaml").read_text())["probe"]
    networks.save(networks.build(own["model"], own["options"], ("a", "b", "c"), 64), project / "made")
    (project / "made/model.safetensors").rename(probe)
    write(probe__weights=str(probe))  # its head of three classes starts anew
    check.run()
    paths.CHECK.unlink()
    vit.write_text("not found")
    write(probe__weights=str(vit), train__models=MODELS | {"vit": MODELS["vit"] | {"weights": str(probe)}})
    with pytest.raises(UserError) as caught:
        check.run()
    assert f"probe.model: weights '{vit}': not a safetensors file" in str(caught.value)
    assert f"train.models.vit: weights '{probe}' do not fit the model" in str(caught.value)
    assert not paths.CHECK.exists()
