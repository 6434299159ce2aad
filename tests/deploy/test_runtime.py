from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derm_t2im.deploy import runtime
from derm_t2im.deploy.card import Card
from derm_t2im.deploy.preparation import without_resize
from derm_t2im.deploy.runtime import Device, Predictor, loaded_providers, wanted_providers
from derm_t2im.errors import UserError
from derm_t2im.imaging import prepare
from derm_t2im.imaging.io import read_rgb, write_png
from derm_t2im.sources import phantom
from tests.deploy import models


def test_it_works_without_torch(model_file: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "for name in ('torch', 'torchvision', 'timm', 'onnx', 'pandas'): sys.modules[name] = None\n"
        "from derm_t2im.deploy.predict import predict_files\n"
        "from derm_t2im.deploy.runtime import Predictor\n"
        "from derm_t2im.imaging.io import write_png\n"
        "p = Predictor(sys.argv[1], device='cpu'); image = Path(sys.argv[2])\n"
        "write_png(image, np.zeros((40, 40, 3), np.uint8))\n"
        "print(p.predict(np.zeros((2, 32, 32, 3), np.uint8)).shape)\n"
        "print(*[found.probabilities.shape for found in predict_files(p, [image])])"
    )
    command = [sys.executable, "-c", code, str(model_file), str(tmp_path / "a.png")]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["(2,", "2)", "(2,)"]
    assert said.stderr == ""


@pytest.mark.parametrize(("size", "hair"), [(64, 1.0), (51, 0.0), (97, 1.0), (32, 1.0), (20, 0.0)])
def test_images_are_prepared_as_for_training(model_file: Path, tmp_path: Path, size: int, hair: float) -> None:
    drawn = phantom.render(phantom.CLINIC_B, 2, size, size=max(size, 32), hair=hair).image[: size + 9, :size]
    write_png(tmp_path / "a.png", drawn)
    job = prepare.Job("a", tmp_path / "a.png", tmp_path / "b.png")
    assert "reason" not in prepare.prepare(job, 32, 1, 10**8, "directional")
    assert np.array_equal(Predictor(model_file, device="cpu").prepare(drawn), read_rgb(tmp_path / "b.png"))


@pytest.mark.skipif("CUDAExecutionProvider" in loaded_providers(), reason="CUDA loads here")
@pytest.mark.parametrize(("device", "name"), [("cuda", "CUDA"), ("tensorrt", "Tensorrt")])
def test_what_does_not_load_is_an_error_unless_the_cpu_is_allowed(
    model_file: Path, tmp_path: Path, device: Device, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=rf"{name}ExecutionProvider did not load \(.+\).*--allow-cpu"):
        Predictor(model_file, device=device, engine_cache=tmp_path)
    allowed = Predictor(model_file, device=device, allow_cpu=True, engine_cache=tmp_path)
    assert allowed.provider == "CPUExecutionProvider"
    assert capfd.readouterr() == ("", "")  # onnxruntime's own words are not for the table on stdout


def test_batches_parts_and_threads_say_the_same(model_file: Path, images: np.ndarray) -> None:
    one = Predictor(model_file, device="cpu", threads=1).run(images)
    assert one.embeddings is None or one.embeddings.shape[0] == len(images)
    np.testing.assert_allclose(one.probabilities.sum(axis=1), 1, atol=1e-5)
    for threads, batch in ((2, 64), (3, 2), (1, 1), (4, 10)):
        many = Predictor(model_file, device="cpu", threads=threads).run(images, batch)
        np.testing.assert_allclose(many.probabilities, one.probabilities, atol=2e-6)
        np.testing.assert_allclose(many.logits, one.logits, atol=1e-4)


def test_embeddings_are_the_networks(exported: bytes, images: np.ndarray) -> None:
    predictor = Predictor(models.with_embedding(exported), device="cpu")
    found = predictor.run(images)
    assert predictor.embeds and found.embeddings is not None
    np.testing.assert_allclose(found.embeddings, models.network().embed(images), atol=1e-4)


def test_the_graph_of_prepared_images_has_no_branch_and_one_size(model_file: Path, images: np.ndarray) -> None:
    content = model_file.read_bytes()
    onnx = pytest.importorskip("onnx")
    lean = onnx.load_from_string(without_resize(content))
    onnx.checker.check_model(lean, full_check=True)
    assert not any(node.op_type == "If" or "prepare.side" in node.input for node in lean.graph.node)
    session = runtime._session(without_resize(content), [runtime.CPU], 1, "test")
    assert runtime._signature(session, 2)[0] == images.shape[1:3]
    assert Card.from_metadata(runtime.metadata(session)) == Predictor(model_file, "cpu").card
    found = session.run(["probabilities"], {"image": images})[0]
    np.testing.assert_allclose(found, Predictor(model_file, "cpu").predict(images), atol=2e-6)
    for other in (b"", b"no file", content[:100]):
        assert without_resize(other) == other


def test_bound_buffers_say_the_same(model_file: Path, images: np.ndarray) -> None:
    plain = Predictor(model_file, device="cpu")
    bound = Predictor(model_file, device="cpu")
    # What CUDA does, on the CPU: the graph of prepared images, and buffers bound to it.
    session = runtime._session(without_resize(model_file.read_bytes()), [runtime.CPU], 1, "test")
    bound._sides, bound._outputs = runtime._signature(session, 2)
    bound._bound = runtime._Bound(session, bound._outputs, device="cpu")
    for n in (1, 3, 4, 21, 2):
        np.testing.assert_allclose(bound.predict(images[:n], batch=8), plain.predict(images[:n]), atol=2e-6)
    assert sorted(shape[0] for shape in bound._bound._buffers) == [1, 2, 4, 8]
    found = bound.run(images[:4])
    kept = found.probabilities.copy()
    bound.run(images[4:8])
    assert np.array_equal(found.probabilities, kept)


class Small:
    """A session with memory for so many images."""

    def __init__(self, session: Any, room: int) -> None:
        self.session, self.room, self.seen = session, room, list[int]()

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> Any:
        n = len(feed["image"])
        self.seen.append(n)
        if n > self.room:
            raise RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 1")
        return self.session.run(names, feed)


def test_a_batch_that_does_not_fit_is_halved_and_stays_so(
    model_file: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "PART", 1000)
    predictor = Predictor(model_file, device="cpu", threads=1)
    expected = predictor.run(images)
    predictor._session = small = Small(predictor._session, 6)
    np.testing.assert_allclose(predictor.run(images).probabilities, expected.probabilities, atol=2e-6)
    assert small.seen == [21, 11, 6, 6, 6, 3]
    small.seen.clear()
    predictor.run(images[:7])
    assert small.seen == [6, 1]
    small.room = 0
    with pytest.raises(UserError, match="out of memory with a single image"):
        predictor.run(images)


def test_other_errors_of_a_run_are_not_hidden(model_file: Path, images: np.ndarray) -> None:
    predictor = Predictor(model_file, device="cpu", threads=1)

    class Broken:
        def run(self, *_: Any) -> Any:
            raise RuntimeError("broken kernel")

    predictor._session = Broken()
    with pytest.raises(RuntimeError, match="broken kernel"):
        predictor.run(images)


def test_several_threads_share_one_predictor(model_file: Path, images: np.ndarray) -> None:
    predictor = Predictor(model_file, device="cpu", threads=2)
    expected = predictor.predict(images)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: predictor.predict(images, 5), range(12)):
            np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_device_that_does_not_exist() -> None:
    with pytest.raises(UserError, match="auto, cpu, cuda or tensorrt"):
        wanted_providers("tpu")  # type: ignore[arg-type]


def test_files_that_are_no_model_of_ours(exported: bytes, tmp_path: Path) -> None:
    import onnx

    bad = tmp_path / "model.onnx"
    with pytest.raises(UserError, match="missing"):
        Predictor(bad)
    for content in (b"", b"\x89PNG not a model", exported[: len(exported) // 2]):
        bad.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.onnx"):
            Predictor(bad, device="cpu")
    foreign = onnx.load_from_string(exported)
    del foreign.metadata_props[:]
    with pytest.raises(UserError, match="no derm-t2im metadata"):
        Predictor(foreign.SerializeToString(), device="cpu")
    for key, value in (("classes", '["one"]'), ("threshold", "2"), ("positive", '["other"]'), ("size", "{")):
        damaged = onnx.load_from_string(exported)
        next(p for p in damaged.metadata_props if p.key == f"derm_t2im.{key}").value = value
        with pytest.raises(UserError, match="damaged"):
            Predictor(damaged.SerializeToString(), device="cpu")
    for value in ("logits", "probabilities", "image"):
        renamed = onnx.load_from_string(exported)
        models.rename(renamed, value, "something_else")
        with pytest.raises(UserError, match="not as it was exported"):
            Predictor(renamed.SerializeToString(), device="cpu")
        with pytest.raises(UserError, match=f"`{value}`"):
            Predictor(models.sealed(renamed.SerializeToString()), device="cpu")
    newer = onnx.load_from_string(exported)
    next(p for p in newer.metadata_props if p.key == "derm_t2im.format").value = "99"
    with pytest.raises(UserError, match="format 99"):
        Predictor(newer.SerializeToString(), device="cpu")


@pytest.mark.parametrize(
    "images",
    [np.zeros(shape, np.uint8) for shape in ((1, 32, 32, 4), (32, 32, 3), (1, 3, 32, 32))]
    + [np.zeros((1, 32, 32, 3), np.float32)],
)
def test_unprepared_images_are_refused(model_file: Path, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        Predictor(model_file, device="cpu").predict(images)


def test_no_images(model_file: Path) -> None:
    assert Predictor(model_file, device="cpu").predict(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 2)
