from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from derm_t2im.deploy import export, preparation, quantise, verify
from derm_t2im.deploy.card import Card
from derm_t2im.deploy.export import to_onnx
from derm_t2im.deploy.runtime import Predictor
from derm_t2im.deploy.verify import agreement
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import square
from tests.deploy import models

if TYPE_CHECKING:
    import onnx


@cache
def body(arch: str = "vit") -> onnx.ModelProto:
    """The network of `models` alone; exporting it takes seconds."""
    return export.body(models.network(arch))


def softmax(logits: np.ndarray) -> np.ndarray:
    values = np.exp(logits - logits.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("arch", models.ARCHS)
def test_the_file_says_what_the_network_says_at_any_batch(arch: str, images: np.ndarray) -> None:
    net = models.network(arch)
    predictor = Predictor(export.assemble(body(arch), models.card(net)), device="cpu", threads=1)
    reference = net.predict(images)
    assert np.ptp(reference[:, 0]) > 0.3  # else agreement would mean nothing
    for batch in (1, 4, 64):
        found = agreement(reference, predictor.predict(images, batch), [1], 0.5)
        assert found["max_abs_difference"] < 1e-5
        assert found["threshold_flips"] == found["label_flips"] == 0
    np.testing.assert_allclose(predictor.logits(images), net.logits(images), atol=1e-4)


def test_the_temperature_is_in_the_probabilities_and_the_embedding_is_the_networks(images: np.ndarray) -> None:
    net = models.network()
    content = export.assemble(body(), models.card(net, temperature=2.5))
    logits, probabilities, embedding = verify.run(content, images, ["logits", "probabilities", "embedding"])
    np.testing.assert_allclose(logits, net.logits(images), atol=1e-4)
    np.testing.assert_allclose(probabilities, softmax(logits / 2.5), atol=1e-6)
    assert np.abs(probabilities - softmax(logits)).max() > 0.05
    np.testing.assert_allclose(embedding, net.embed(images), atol=1e-4)
    assert Predictor(content, device="cpu").card.embedding == embedding.shape[1] == 24


def test_without_an_embedding_the_file_has_none(images: np.ndarray) -> None:
    import onnx

    net = models.network()
    content = to_onnx(net, models.card(net), embedding=False)
    assert [output.name for output in onnx.load_from_string(content).graph.output] == ["logits", "probabilities"]
    assert Predictor(content, device="cpu").card.embedding == 0
    assert agreement(net.predict(images), verify.run(content, images, ["probabilities"])[0])["label_flips"] == 0


# --- the resize in the graph -----------------------------------------------------------------------

SIZE = 64


@pytest.fixture(scope="module")
def resize() -> object:
    """uint8 (h, w, 3) -> float32 (SIZE, SIZE, 3) in grey levels, by the graph's own operators."""
    import onnxruntime

    graph = preparation.before(SIZE, (0, 0, 0), (1 / 255, 1 / 255, 1 / 255), 20)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(image: np.ndarray) -> np.ndarray:
        return session.run(None, {"image": image[None]})[0][0].transpose(1, 2, 0)  # type: ignore[no-any-return]

    return run


@settings(max_examples=60, deadline=None)
@given(st.integers(33, 700), st.integers(33, 700), st.integers(0, 2**31))
@example(SIZE, SIZE, 0)
@example(2 * SIZE, 3 * SIZE, 1)  # shrunk by two: OpenCV rounds otherwise there
@example(33, 700, 2)  # enlarged
@example(63, 65, 3)
def test_any_size_becomes_what_training_makes_of_it(resize, height: int, width: int, seed: int) -> None:  # type: ignore[no-untyped-def]
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    difference = np.abs(resize(image) - square(image, SIZE))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.06  # where OpenCV's own arithmetic is rounded to 1 / 2048


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 5)])
def test_the_smallest_images(resize, shape: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert np.abs(resize(image) - square(image, SIZE)).max() <= 1


def test_probabilities_of_large_images_are_those_of_prepared_ones(exported: bytes) -> None:
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    large = np.stack([np.kron(image, np.ones((25, 29, 1), np.uint8)) for image in coarse])  # 200 x 232
    small = np.stack([square(image, 32) for image in large])
    whole, prepared = (verify.run(exported, x, ["probabilities"])[0] for x in (large, small))
    assert agreement(prepared, whole)["max_abs_difference"] < 1e-3
    assert np.ptp(prepared[:, 0]) > 0.02


# --- variants --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", models.ARCHS)
def test_the_variants_are_smaller_and_say_nearly_the_same(arch: str, images: np.ndarray) -> None:
    import onnx

    net = models.network(arch)
    card = models.card(net)
    before = body(arch).SerializeToString(deterministic=True)
    made = {
        "fp32": body(arch), "fp16": quantise.half(body(arch)), "int8": quantise.eight_bit(body(arch), card, images),
    }  # fmt: skip
    assert body(arch).SerializeToString(deterministic=True) == before  # the network itself stays as it is
    sizes = {}
    for precision, network in made.items():
        content = export.assemble(network, card.model_copy(update={"precision": precision}))
        assert content == export.assemble(network, card.model_copy(update={"precision": precision}))
        predictor = Predictor(content, device="cpu", threads=1)
        assert predictor.card.precision == precision
        probabilities, embedding = verify.run(content, images, ["probabilities", "embedding"])
        assert probabilities.dtype == embedding.dtype == np.float32
        # A random network blows up what int8 rounds away: its features are compared, not its answers.
        assert (
            verify.least_cosine(net.embed(images), embedding)
            > {"fp32": 1 - 1e-6, "fp16": 0.9999, "int8": 0.9}[precision]
        )
        if precision != "int8":
            assert agreement(net.predict(images), probabilities)["max_abs_difference"] < 5e-3
        sizes[precision] = len(content)
    assert sizes["fp16"] < 0.8 * sizes["fp32"]
    kept = {tensor.data_type for tensor in made["fp16"].graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kept and onnx.TensorProto.FLOAT not in kept
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in made["int8"].graph.node}
    assert made["int8"] == quantise.eight_bit(body(arch), card, images)


def test_int8_needs_images() -> None:
    net = models.network()
    with pytest.raises(UserError, match=r"real training images.*export\.variants"):
        quantise.eight_bit(body(), models.card(net), np.empty((0, 32, 32, 3), np.uint8))


# --- the file --------------------------------------------------------------------------------------


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


def test_batch_height_and_width_are_dynamic_and_the_input_is_uint8(exported: bytes) -> None:
    import onnx

    graph = onnx.load_from_string(exported).graph
    (entry,) = graph.input

    def shape(value: onnx.ValueInfoProto) -> list[str | int]:
        return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]

    assert (entry.name, entry.type.tensor_type.elem_type, shape(entry)) == (
        "image", onnx.TensorProto.UINT8, ["batch", "height", "width", 3],
    )  # fmt: skip
    assert {output.name: shape(output) for output in graph.output} == {
        "logits": ["batch", 2], "probabilities": ["batch", 2], "embedding": ["batch", 24],
    }  # fmt: skip
    assert {entry.domain for entry in onnx.load_from_string(exported).opset_import} == {""}  # plain operators


def test_a_card_for_other_classes_is_refused() -> None:
    net = models.network()
    with pytest.raises(ValueError, match="classes"):
        to_onnx(net, models.card(net, classes=("malignant", "benign"), positive=("malignant",)))
    with pytest.raises(ValueError, match="gives 2 logits"):
        export.assemble(body(), models.card(net, classes=("a", "b", "c"), positive=("b",)))


def test_seven_classes() -> None:
    classes = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    net = models.network(classes=classes)
    made = models.card(net, positive=("akiec", "bcc", "mel"))
    predictor = Predictor(to_onnx(net, made), device="cpu", threads=1)
    known = ("opset", "embedding", "version", "sha256")  # what the graph knows better
    assert predictor.card.model_dump(exclude=set(known)) == made.model_dump(exclude=set(known))
    assert predictor.card.opset >= 17 and len(predictor.card.sha256) == 64
    assert predictor.card.columns == [0, 1, 4]
    found = predictor.predict(np.zeros((3, 32, 32, 3), np.uint8))
    assert found.shape == (3, 7)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_the_card_survives_metadata() -> None:
    made = models.card(models.network(), training_sources=("ünï", "b"), threshold=None, threshold_sensitivity=None)
    assert Card.from_metadata(made.to_metadata()) == made
