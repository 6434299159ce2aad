from pathlib import Path

import pytest
import yaml

from derm_t2im.errors import UserError
from derm_t2im.params import load
from derm_t2im.params.generate import Generate
from derm_t2im.params.schema import Params, load_all

ROOT = Path(__file__).parents[1]


def changed(tmp_path: Path, dotted: str, value: object) -> Path:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    *parents, last = dotted.split(".")
    inner = values
    for part in parents:
        inner = inner[part]
    inner[last] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_committed_parameters_are_valid_and_complete() -> None:
    """Nothing is left to a default that a reader of params.yaml would not see."""
    written = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert load_all(ROOT / "params.yaml").model_dump(mode="json", by_alias=True) == written


@pytest.mark.parametrize(
    ("dotted", "value", "said"),
    [
        ("generate.guidence", 5, r"generate\.guidence: no such parameter; allowed here: .*guidance"),
        ("generate.samplers", ["eulr"], r"generate\.samplers\.0: .*'euler', 'euler_a'.*'eulr'"),
        ("generate.steps", 0, r"generate\.steps: .*greater than or equal to 1.*0"),
        ("acquire.source", "isik", r"acquire\.source: .*'phantom', 'folder'"),
        (
            "acquire.external.pathh",
            "x",
            r"acquire\.external\.pathh: no such parameter; allowed here: limit, name, path",
        ),
        ("preprocess.hair.method", "razor", r"preprocess\.hair\.method: .*'directional'"),
        ("train.archs", ["resnet"], r"train: .*described: mobilenetv2, vit"),
        ("train.models.vit.lrr", 1, r"train\.models\.vit\.lrr: no such parameter; allowed here: .*timm"),
        ("export.mix", "synthetic", r"mix\.mixes are real, hybrid, oversampled"),
        ("export.variants", ["fp16"], r"export\.variants: fp32 must be among the variants"),
        ("export.variants", ["fp32", "fp32"], r"export\.variants: name each variant once"),
        ("export.variants", ["fp32", "int4"], r"export\.variants\.1: .*'fp32', 'fp16' or 'int8'.*'int4'"),
        ("split.seed_images", 10_000, r"params\.yaml: split\.seed_images .*must not exceed split\.train"),
        ("finetune.token", 5, r"finetune\.token: give one token \(sks\), or one for each class .*\(it is 5\)"),
        ("finetune.token", {"benign": ""}, r"finetune\.token: give one token"),
        ("finetune.token", {}, r"finetune\.token: give one token"),
        ("finetune.caption", ["label", "age"], r"finetune\.caption\.1: .*'size'.*'age'"),
        ("finetune.caption", ["size"], r"finetune: nothing tells the classes apart: add label to finetune\.caption"),
        ("finetune.kid_samples", 1, r"finetune\.kid_samples: .*at least 2 images.*\(it is 1\)"),
        ("finetune.lr", float("inf"), r"finetune\.lr: .*finite"),
        ("finetune.targets", [], r"finetune\.targets: .*at least 1 item"),
        ("finetune.base", "", r"finetune\.base: .*at least 1 character"),
        ("finetune.caption", "label", r"finetune\.caption: .*should be a list"),
        ("generate.samplers", ["plms", "PNDMScheduler"], r"generate\.samplers: name each sampler once"),
        ("validte", {}, r"validte: no such parameter; allowed here: .*train, validate\."),
        ("validate.mostlyy", 1, r"validate\.mostlyy: no such parameter; allowed here: .*mostly"),
    ],
)
def test_wrong_values_are_one_clear_line(tmp_path: Path, dotted: str, value: object, said: str) -> None:
    path = changed(tmp_path, dotted, value)
    with pytest.raises(UserError, match=said) as caught:
        load_all(path)
    assert "\n" not in str(caught.value)


def test_a_missing_section_and_a_broken_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(UserError, match="root of the repository"):
        load_all(path)
    path.write_text("a: [1")
    with pytest.raises(UserError, match="not valid YAML"):
        load_all(path)
    path.write_text("- 1")
    with pytest.raises(UserError, match="must hold sections"):
        load_all(path)
    path.write_text("split: {}")
    with pytest.raises(UserError, match=r"generate.*missing"):
        load("generate", Generate, path)


def test_one_sampler_may_be_written_without_a_list(tmp_path: Path) -> None:
    assert load("generate", Generate, changed(tmp_path, "generate.samplers", "plms")).samplers == ("plms",)


def test_sections_are_fixed_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_all(ROOT / "params.yaml").split.train = 3  # type: ignore[misc]
    assert set(Params.model_fields) >= {"split", "train"}


def test_a_line_left_out_of_the_file_changes_nothing() -> None:
    """A default that differs from the file would come into force unseen."""
    written = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, field in Params.model_fields.items():
        section = field.alias or name
        if section == "train":  # its architectures have no default
            continue
        assert field.annotation is not None
        assert field.annotation().model_dump(mode="json", by_alias=True) == written[section]
