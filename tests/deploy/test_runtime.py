from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from derm_t2im.deploy.runtime import Predictor, loaded_providers, wanted_providers
from derm_t2im.errors import UserError
from derm_t2im.imaging import prepare
from derm_t2im.imaging.io import read_rgb, write_png
from derm_t2im.sources import phantom


def test_it_works_without_torch(model_file: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import numpy as np;"
        "from derm_t2im.deploy.runtime import Predictor; p = Predictor(sys.argv[1], device='cpu');"
        "print(p.predict(np.zeros((2, 32, 32, 3), np.uint8)).shape)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(model_file)], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["(2,", "2)"]
    assert said.stderr == ""


@pytest.mark.parametrize(("size", "hair"), [(64, 1.0), (51, 0.0), (97, 1.0), (32, 1.0), (20, 0.0)])
def test_images_are_prepared_as_for_training(model_file: Path, tmp_path: Path, size: int, hair: float) -> None:
    drawn = phantom.render(phantom.CLINIC_B, 2, size, size=max(size, 32), hair=hair).image[: size + 9, :size]
    write_png(tmp_path / "a.png", drawn)
    job = prepare.Job("a", tmp_path / "a.png", tmp_path / "b.png")
    assert "reason" not in prepare.prepare(job, 32, 1, 10**8, "directional")
    assert np.array_equal(Predictor(model_file, device="cpu").prepare(drawn), read_rgb(tmp_path / "b.png"))


@pytest.mark.skipif("CUDAExecutionProvider" in loaded_providers(), reason="CUDA loads here")
def test_cuda_that_does_not_load_is_an_error_unless_the_cpu_is_allowed(model_file: Path) -> None:
    with pytest.raises(UserError, match=r"CUDAExecutionProvider did not load \(.+\).*--allow-cpu"):
        Predictor(model_file, device="cuda")
    assert Predictor(model_file, device="cuda", allow_cpu=True).provider == "CPUExecutionProvider"


def test_a_device_that_does_not_exist() -> None:
    with pytest.raises(UserError, match="auto, cpu or cuda"):
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
    newer = onnx.load_from_string(exported)
    next(p for p in newer.metadata_props if p.key == "derm_t2im.format").value = "99"
    with pytest.raises(UserError, match="format 99"):
        Predictor(newer.SerializeToString(), device="cpu")


@pytest.mark.parametrize("images", [np.zeros((1, 31, 32, 3), np.uint8), np.zeros((1, 32, 32, 3), np.float32)])
def test_unprepared_images_are_refused(model_file: Path, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        Predictor(model_file, device="cpu").predict(images)


def test_no_images(model_file: Path) -> None:
    assert Predictor(model_file, device="cpu").predict(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 2)
