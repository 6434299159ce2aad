from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from derm_t2im.deploy.card import Card
from derm_t2im.deploy.export import to_onnx
from derm_t2im.deploy.runtime import Predictor
from derm_t2im.deploy.verify import agreement
from tests.deploy import models


@pytest.mark.parametrize("arch", models.ARCHS)
def test_the_file_says_what_the_network_says_at_any_batch(arch: str, images: np.ndarray) -> None:
    net = models.network(arch)
    predictor = Predictor(to_onnx(net, models.card(net)), device="cpu", threads=1)
    reference = net.predict(images)
    assert np.ptp(reference[:, 0]) > 0.3  # else agreement would mean nothing
    for batch in (1, 4, 64):
        found = agreement(reference, predictor.predict(images, batch), [1], 0.5)
        assert found["max_abs_difference"] < 1e-5
        assert found["threshold_flips"] == found["label_flips"] == 0
    np.testing.assert_allclose(predictor.logits(images), net.logits(images), atol=1e-4)


def test_nothing_of_this_machine_is_in_the_file(exported: bytes) -> None:
    import onnx

    model = onnx.load_from_string(exported)
    assert {prop.key.split(".")[0] for prop in model.metadata_props} == {"derm_t2im"}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert not any(value.metadata_props for value in (*model.graph.input, *model.graph.output))
    for word in (b"site-packages", b".py", b"/usr", str(Path.home()).encode(), str(Path.cwd()).encode()):
        assert word not in exported
    assert not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)


def test_equal_networks_give_equal_bytes_in_another_process(exported: bytes) -> None:
    code = (
        "import hashlib; from tests.deploy import models; from derm_t2im.deploy.export import to_onnx;"
        "net = models.network(); print(hashlib.sha256(to_onnx(net, models.card(net))).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "11"}
    root = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env, cwd=root)
    assert said.stdout.split() == [hashlib.sha256(exported).hexdigest()]


def test_the_batch_is_dynamic_and_the_input_is_uint8(exported: bytes) -> None:
    import onnx

    graph = onnx.load_from_string(exported).graph
    (entry,) = graph.input
    shape = [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    assert (entry.name, entry.type.tensor_type.elem_type, shape) == (
        "image", onnx.TensorProto.UINT8, ["batch", 32, 32, 3],
    )  # fmt: skip
    assert [output.name for output in graph.output] == ["logits", "probabilities"]


def test_a_card_for_other_classes_is_refused() -> None:
    net = models.network()
    with pytest.raises(ValueError, match="classes"):
        to_onnx(net, models.card(net, classes=("malignant", "benign"), positive=("malignant",)))


def test_seven_classes() -> None:
    classes = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    net = models.network(classes=classes)
    made = models.card(net, positive=("akiec", "bcc", "mel"))
    predictor = Predictor(to_onnx(net, made), device="cpu", threads=1)
    assert predictor.card == made
    assert predictor.card.columns == [0, 1, 4]
    found = predictor.predict(np.zeros((3, 32, 32, 3), np.uint8))
    assert found.shape == (3, 7)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_the_card_survives_metadata() -> None:
    made = models.card(models.network(), training_sources=("ünï", "b"), threshold=None, threshold_sensitivity=None)
    assert Card.from_metadata(made.to_metadata()) == made
