from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derm_t2im.deploy import card as cards
from derm_t2im.deploy.card import Card, check_untampered, digest, read_card
from derm_t2im.errors import UserError
from tests.deploy import models


def test_a_file_tells_its_card_without_onnx(exported: bytes, tmp_path) -> None:  # type: ignore[no-untyped-def]
    card = read_card(exported)
    assert (card.format, card.classes, card.precision) == (2, models.CLASSES, "fp32")
    path = tmp_path / "model.onnx"
    path.write_bytes(exported)
    code = (
        "import sys, pathlib; from derm_t2im.deploy.card import read_card;"
        f"print(read_card(pathlib.Path({str(path)!r}).read_bytes()).sha256);"
        "print([name for name in ('torch', 'onnx', 'onnxruntime') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split("\n")[:2] == [card.sha256, "[]"]


def test_changed_weights_are_refused(exported: bytes) -> None:
    import onnx

    card = read_card(exported)
    model = onnx.load_from_string(exported)
    (tensor, *_) = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) > 100]
    tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 1])
    changed = model.SerializeToString(deterministic=True)
    onnx.checker.check_model(onnx.load_from_string(changed))  # sound, but not ours any more
    for call in (lambda: check_untampered(changed, card), lambda: read_card(changed)):
        with pytest.raises(UserError, match="not as it was exported"):
            call()


@pytest.mark.parametrize("key", ["threshold", "temperature", "classes"])
def test_a_changed_card_is_refused(exported: bytes, key: str) -> None:
    import onnx

    model = onnx.load_from_string(exported)
    (entry,) = [entry for entry in model.metadata_props if entry.key == f"derm_t2im.{key}"]
    entry.value = {"threshold": "0.1", "temperature": "3.0", "classes": '["malignant", "benign"]'}[key]
    with pytest.raises(UserError, match="not as it was exported"):
        read_card(model.SerializeToString())


def test_foreign_files_are_refused() -> None:
    import onnx

    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    with pytest.raises(UserError, match="no derm-t2im metadata"):
        read_card(onnx.helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(50), b"hello, world", b"\xff" * 40])
def test_what_is_no_onnx_file_is_refused(content: bytes) -> None:
    with pytest.raises(UserError):
        read_card(content)


@given(st.data())
def test_a_file_cut_or_changed_anywhere_is_refused(exported: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(exported) - 1))
    with pytest.raises(UserError):
        read_card(exported[:at])
    changed = bytearray(exported)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UserError):
        read_card(bytes(changed))


def test_the_digest_leaves_out_its_own_entry_alone(exported: bytes) -> None:
    import onnx

    model = onnx.load_from_string(exported)
    (entry,) = [entry for entry in model.metadata_props if entry.key == cards.DIGEST_KEY]
    model.metadata_props.remove(entry)
    assert digest(model.SerializeToString(deterministic=True)) == digest(exported) == read_card(exported).sha256
    model.metadata_props.add(key="another", value="entry")
    assert digest(model.SerializeToString(deterministic=True)) != digest(exported)


def test_an_older_format_is_refused_in_one_line() -> None:
    old = {**models.card(models.network()).to_metadata(), "derm_t2im.format": "1"}
    with pytest.raises(UserError, match=r"format 1, this program reads 2: export it again") as error:
        Card.from_metadata(old)
    assert "\n" not in str(error.value)
