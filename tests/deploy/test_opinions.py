"""Other models' opinions: ours, a stranger's ONNX, saved networks, and a tiny SAM of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from derm_t2im import manifest, networks
from derm_t2im.cli import app
from derm_t2im.deploy import opinions, segment
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import write_png
from derm_t2im.sources import phantom
from tests.deploy import models

CLASSES = list(models.CLASSES)


def redness(path: Path, size: int = 16) -> Path:
    """A stranger's model: the mean of red decides, of normalised float32 (n, 3, size, size)."""
    weight = numpy_helper.from_array(np.array([[-9, 0, 0], [9, 0, 0]], np.float32), "w")
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["y"], transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(nodes, "redness", [x], [y], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(made.SerializeToString())
    return path


def describe(model: Path, **values) -> Path:
    model.with_suffix(".json").write_text(json.dumps({"classes": CLASSES, "size": 16} | values))
    return model


def painted(red: int, side: int = 40) -> np.ndarray:
    return np.full((side, side, 3), (red, 100, 100), np.uint8)


def test_a_strangers_onnx_is_asked_as_its_description_says(tmp_path):
    model = opinions.load(describe(redness(tmp_path / "red.onnx")))
    seen = opinions.view(model, [painted(250), painted(5, 20)], ["malignant", "malignant"])
    assert seen["class"].tolist() == ["malignant", "benign"]
    assert seen["probability"][0] > 0.99 and seen["probability"][1] < 0.01


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"classes": ["benign"]}, "two or more"),
        ({"size": 24}, "takes no images of 24 px"),
        ({"size": "big"}, "size is 'big'"),
        ({"mean": [0.5]}, "mean is three numbers"),
        ({"layout": "chw"}, "layout is nchw or nhwc"),
        ({"classes": ["benign", "malignant", "other"]}, "names 3 classes"),
    ],
)
def test_a_wrong_description_is_one_clear_line(tmp_path, about, said):
    path = describe(redness(tmp_path / "red.onnx"), **about)
    with pytest.raises(UserError, match=said) as error:
        opinions.view(opinions.load(path), [painted(9)], ["benign"])
    assert "\n" not in str(error.value)


def test_what_is_no_model_is_said(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    (tmp_path / "notes.txt").write_text("")
    for name, said in (
        ("nothing.onnx", "no such model"),
        ("broken.onnx", "no ONNX file"),
        ("notes.txt", "is no model"),
    ):
        with pytest.raises(UserError, match=said):
            opinions.load(tmp_path / name)
    with pytest.raises(UserError, match="does not say what it is"):
        opinions.load(redness(tmp_path / "silent.onnx"))


def test_a_saved_network_and_a_timm_checkpoint_see_the_same(tmp_path):
    network = models.network()
    networks.save(network, tmp_path / "net")
    checkpoint = tmp_path / "alone.safetensors"
    checkpoint.write_bytes((tmp_path / "net" / networks.WEIGHTS_FILE).read_bytes())
    name, options = models.ARCHS["vit"]
    describe(checkpoint, timm=name, options=options, size=32)
    images = list(models.phantoms(6))
    one, other = (opinions.view(opinions.load(p), images, CLASSES * 3) for p in (tmp_path / "net", checkpoint))
    pd.testing.assert_frame_equal(one, other)
    with pytest.raises(UserError, match="knows benign, malignant, the images are of nevus too"):
        opinions.view(opinions.load(checkpoint), images, ["nevus"] * 6)


@pytest.fixture
def project(tmp_path, monkeypatch, model_file):
    monkeypatch.chdir(tmp_path)
    rows = {"synthetic": [], "real": []}
    for kind, found in rows.items():
        for i in range(8):
            name, made = f"{kind}-{i}", phantom.render(phantom.CLINIC_A, 0, i, size=40, label=CLASSES[i % 2], hair=0)
            write_png(Path(f"{name}.png"), made.image)
            write_png(Path(f"{name}-mask.png"), np.repeat(made.lesion[..., None], 3, 2).astype(np.uint8) * 255)
            about = {"image_id": name, "path": f"{name}.png", "label": made.label, "kind": kind}
            if kind == "real":
                about |= {"split": "test", "mask_path": f"{name}-mask.png"}
            found.append(about | {"sampler": "plms" if i < 4 else "euler"})
    manifest.write(pd.DataFrame(rows["synthetic"]), Path("synthetic.parquet"))
    manifest.write(pd.DataFrame(rows["real"]), Path("real.parquet"))
    Path("own.onnx").write_bytes(model_file.read_bytes())
    return ["opinions", "own.onnx", "--manifest", "synthetic.parquet", "--real", "real.parquet", "--out", "out"]


def test_the_command_writes_a_column_per_model_and_agreement_beside_real_images(project):
    describe(redness(Path("red.onnx")))
    assert CliRunner().invoke(app, [*project, "red.onnx"], catch_exceptions=False).exit_code == 0
    table = opinions.columns(Path("out/opinions.parquet"))
    assert list(table) == ["label", "own_probability", "own_class", "red_probability", "red_class"]
    found = json.loads(Path("out/opinions.json").read_text())
    own = found["models"]["own"]
    assert own["agreement"] == pytest.approx((table["own_class"] == table["label"]).mean())
    assert own["agreement_low"] <= own["agreement"] <= own["agreement_high"] and own["n"] == 8
    assert set(own["per_class"]) == set(CLASSES) and own["per_sampler"]["plms"]["n"] == 4
    assert own["real"]["agreement"] == own["agreement"]  # the same pictures
    assert found["masks"]["real"]["own_truth"]["dice"] > 0.8


def test_missing_images_and_two_models_of_one_name_are_said(project):
    Path("synthetic-3.png").unlink()
    with pytest.raises(UserError, match=r"the image synthetic-3 \(synthetic-3.png\) cannot be read"):
        CliRunner().invoke(app, project, catch_exceptions=False)
    with pytest.raises(UserError, match="two models are called own"):
        CliRunner().invoke(app, [*project, "own.onnx"], catch_exceptions=False)


def test_a_segmenter_is_compared_with_our_mask_and_with_the_truth(project, tmp_path):
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SamConfig(
        vision_config={
            **small,
            "image_size": 64,
            "patch_size": 16,
            "output_channels": 16,
            "num_pos_feats": 8,
            "global_attn_indexes": [0],
            "mlp_dim": 16,
            "window_size": 2,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={**small, "mlp_dim": 16, "iou_head_hidden_dim": 16},
    )  # fmt: skip
    SamModel(config).save_pretrained("sam")
    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    SamProcessor(SamImageProcessor(**sizes, mask_size={"longest_edge": 16}, mask_pad_size={"height": 16, "width": 16}))\
        .save_pretrained("sam")  # fmt: skip
    assert CliRunner().invoke(app, [*project, "--segmenter", "./sam"], catch_exceptions=False).exit_code == 0
    masks = json.loads(Path("out/opinions.json").read_text())["masks"]
    assert set(masks["synthetic"]) == {"segmenter_own"}
    assert set(masks["real"]) == {"own_truth", "segmenter_own", "segmenter_truth"}
    assert 0 <= masks["real"]["segmenter_truth"]["dice"] <= 1
    with pytest.raises(UserError, match="no such folder"):
        segment.segmenter("./nothing")
    Path("empty").mkdir()
    with pytest.raises(UserError, match="cannot be had"):
        segment.segmenter("./empty")


def test_overlap_of_masks():
    left, right = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert segment.overlap(left, right) == (1.0, 1.0)
    left[:, :2], right[:, 1:3] = True, True
    assert segment.overlap(left, right) == (0.5, pytest.approx(1 / 3))
    assert segment.middle(np.zeros((3, 3), bool)) is None
