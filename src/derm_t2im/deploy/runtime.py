"""The exported classifier at work: ONNX Runtime alone, no torch.

A provider that was asked for and did not load is an error that names the missing library;
onnxruntime itself goes on silently on the CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from derm_t2im.deploy.card import Card
from derm_t2im.errors import UserError

Device = Literal["auto", "cpu", "cuda"]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Predictor:
    """Class probabilities from one exported file.

    Args:
        model: Path of the ONNX file, or its bytes.
        device: ``cuda``, ``cpu``, or ``auto``: CUDA where this machine has an NVIDIA device.
        allow_cpu: Go on with the CPU where CUDA was wanted and does not load.
        threads: Of ONNX Runtime on the CPU; 0 leaves it the choice.

    Raises:
        UserError: if the file is missing, no ONNX, or not exported by derm-t2im, or if the
            provider that was asked for does not load.
    """

    def __init__(
        self, model: Path | str | bytes, device: Device = "auto", allow_cpu: bool = False, threads: int = 0
    ) -> None:
        """Load the model and check what it runs on."""
        name = "the model" if isinstance(model, bytes) else str(model)
        if not isinstance(model, bytes):
            if Path(model).is_dir():
                raise UserError(f"{name} is a folder: name the file in it, {Path(model) / 'model.onnx'}.")
            if not Path(model).is_file():
                raise UserError(f"{name} is missing: run `dvc repro` (or `dvc pull`), or name another with --model.")
            model = Path(model).read_bytes()
        wanted = wanted_providers(device)
        self._session = _session(model, wanted, threads, name)
        self.provider: str = self._session.get_providers()[0]
        if self.provider != wanted[0] and not allow_cpu:
            raise UserError(
                f"{wanted[0]} did not load ({_missing_library()}). Install what is missing, or go on without it: "
                "--allow-cpu."
            )
        try:
            self.card = Card.from_metadata(self._session.get_modelmeta().custom_metadata_map)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the columns."""
        return self.card.classes

    def prepare(self, rgb: np.ndarray) -> np.ndarray:
        """An image of any size, uint8 (h, w, 3), as the graph wants it: uint8 (size, size, 3).

        Centre crop, hair removal and resizing are those of the training images (`imaging.prepare`).
        """
        from derm_t2im.imaging.hair import MAX_SIDE, remove_hair
        from derm_t2im.imaging.io import square

        crop = square(rgb, min(*rgb.shape[:2], max(MAX_SIDE, self.card.size)))
        return square(remove_hair(crop, self.card.hair_removal)[0], self.card.size)

    def logits(self, images: np.ndarray, batch: int = 64) -> np.ndarray:
        """Logits, float32 (n, k), of prepared images, uint8 (n, size, size, 3)."""
        return self._run("logits", images, batch)

    def predict(self, images: np.ndarray, batch: int = 64) -> np.ndarray:
        """Class probabilities, float32 (n, k), of prepared images, uint8 (n, size, size, 3)."""
        return self._run("probabilities", images, batch)

    def _run(self, output: str, images: np.ndarray, batch: int) -> np.ndarray:
        side = self.card.size
        if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
            raise ValueError(f"images must be uint8 (n, {side}, {side}, 3), not {images.dtype} {images.shape}")
        result = np.empty((len(images), len(self.classes)), np.float32)
        for start in range(0, len(images), batch):
            part = np.ascontiguousarray(images[start : start + batch])
            result[start : start + batch] = self._session.run([output], {"image": part})[0]
        return result


def wanted_providers(device: Device) -> list[str]:
    """The providers to ask for, the one that must load first."""
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device is {device!r}: use auto, cpu or cuda.")
    if device == "auto":
        device = "cuda" if _has_nvidia() else "cpu"
    return [CUDA, CPU] if device == "cuda" else [CPU]


@lru_cache(maxsize=1)
def loaded_providers() -> tuple[str, ...]:
    """Providers that really load on this machine, best first."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    tiny = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return tuple(_session(tiny, [CUDA, CPU] if _has_nvidia() else [CPU], 1, "a test graph").get_providers())


def open_session(path: Path) -> Any:
    """Any ONNX file, on the CPU.

    Raises:
        UserError: if it is no ONNX file that runs here.
    """
    return _session(path.read_bytes(), [CPU], 0, str(path))


def metadata(session: Any) -> dict[str, str]:
    """The custom metadata of an opened file."""
    return dict(session.get_modelmeta().custom_metadata_map)


def _has_nvidia() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()


def _session(model: bytes, providers: list[str], threads: int, name: str) -> Any:
    import onnxruntime

    if CUDA in providers:
        if CUDA not in onnxruntime.get_available_providers():
            providers = [CPU]  # a build without CUDA would only warn
        else:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
                onnxruntime.preload_dlls()
    # It prints its own complaints on stderr; ours say what to do.
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # InvalidProtobuf, InvalidGraph, Fail, ... share no public base
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{name} is no ONNX file that this machine can run: {said}") from None


def _missing_library() -> str:
    import onnxruntime

    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if not library.is_file():
        return "this onnxruntime is built without CUDA: install onnxruntime-gpu"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error).replace(str(library), library.name)
    return "its libraries are there, but no usable NVIDIA device"
