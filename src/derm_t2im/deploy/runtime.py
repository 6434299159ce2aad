"""The exported classifier at work: ONNX Runtime alone, no torch.

A provider that was asked for and did not load is an error that names the missing library;
onnxruntime itself goes on silently on the CPU.

On the CPU a batch is cut into parts of :data:`PART` images, and each thread runs parts of its own: threads
that share one operator after the other mostly wait (docs/predict.md has the figures). On CUDA input and
outputs stay bound to buffers on the device, one set for each power of two of the batch, with a CUDA graph each.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from derm_t2im import runtime as machine
from derm_t2im.deploy import card as cards
from derm_t2im.deploy.card import Card
from derm_t2im.deploy.preparation import without_resize
from derm_t2im.errors import UserError

Device = Literal["auto", "cpu", "cuda", "tensorrt"]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
LIBRARIES = {CUDA: "libonnxruntime_providers_cuda.so", TENSORRT: "libonnxruntime_providers_tensorrt.so"}

INPUT = "image"
PART = 8  # images that one thread works on at a time: larger parts leave its cache
LARGE = 4_000_000  # bytes of a file from which several threads pay for a single image
ENGINE_BATCH = 64  # TensorRT: the batch that an engine is tuned for
ENGINE_MOST = 256  # ... and the largest that it takes


class Outputs(NamedTuple):
    """What a model says about n images, float32: logits (n, k), probabilities (n, k), embeddings (n, d) or None."""

    logits: np.ndarray
    probabilities: np.ndarray
    embeddings: np.ndarray | None


class Predictor:
    """Class probabilities from one exported file; several threads may share one.

    Args:
        model: Path of the ONNX file, or its bytes.
        device: ``cpu``, ``cuda``, ``tensorrt``, or ``auto``: CUDA where this machine has an NVIDIA device.
        allow_cpu: Go on with the CPU where CUDA or TensorRT was wanted and does not load.
        threads: Of ONNX Runtime on the CPU; 0: ``DERM_T2IM_THREADS``, else the cores of this machine.
        engine_cache: Folder for TensorRT's engines, which take minutes to build; default: below the
            user's cache folder.

    Raises:
        UserError: if the file is missing, no ONNX, not exported by derm-t2im or changed since, or if the
            provider that was asked for does not load.
    """

    def __init__(
        self,
        model: Path | str | bytes,
        device: Device = "auto",
        allow_cpu: bool = False,
        threads: int = 0,
        engine_cache: Path | None = None,
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
        self._threads = threads or machine.threads()
        options = _provider_options(wanted, model, name, engine_cache)
        # On a device images come prepared: without the resize its graph has no branch. A part has one thread.
        graph = model if wanted[0] == CPU else without_resize(model)
        self._session = _session(graph, wanted, 1, name, options)
        self.provider: str = self._session.get_providers()[0]
        if self.provider != wanted[0] and not allow_cpu:
            why = _missing_library(wanted[0], graph)
            raise UserError(
                f"{wanted[0]} did not load ({why}). Install what is missing, or go on without it: --allow-cpu."
            )
        try:
            self.card = Card.from_metadata(metadata(self._session))
            cards.check_untampered(model, self.card)
            self._sides, self._outputs = _signature(self._session, len(self.card.classes))
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        self._pool = ThreadPoolExecutor(self._threads, "predict") if self._threads > 1 else None
        self._whole = self._session
        if self.provider == CPU and self._threads > 1 and len(model) >= LARGE:
            self._whole = _session(model, [CPU], self._threads, name)
        self._bound = None if self.provider == CPU else _Bound(self._session, self._outputs, _records(self._session))
        # Images of other sizes need the whole graph, which few ever ask for.
        self._open_whole = partial(_session, model, [CUDA, CPU], 1, name) if self._bound else None
        self._resizing: _Bound | None = None
        self._most = ENGINE_MOST if self.provider == TENSORRT else 0  # most images at once; 0: as asked for

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the columns."""
        return self.card.classes

    @property
    def embeds(self) -> bool:
        """Whether the file has the output ``embedding``."""
        return "embedding" in self._outputs

    def prepare(self, rgb: np.ndarray) -> np.ndarray:
        """An image of any size, uint8 (h, w, 3), as the graph wants it: uint8 (size, size, 3).

        Centre crop, hair removal and resizing are those of the training images (`imaging.prepare`).
        """
        from derm_t2im.imaging.prepare import as_trained

        return as_trained(rgb, self.card.size, self.card.hair_removal)

    def logits(self, images: np.ndarray, batch: int = 64) -> np.ndarray:
        """Logits, float32 (n, k), of prepared images, uint8 (n, size, size, 3)."""
        return self.run(images, batch).logits

    def predict(self, images: np.ndarray, batch: int = 64) -> np.ndarray:
        """Class probabilities, float32 (n, k), of prepared images, uint8 (n, size, size, 3)."""
        return self.run(images, batch).probabilities

    def run(self, images: np.ndarray, batch: int = 64) -> Outputs:
        """All outputs for images of one size, uint8 (n, h, w, 3), at most ``batch`` at once.

        Where memory runs out, half as many images are tried at once, from then on.

        Raises:
            ValueError: for images that the graph does not take.
            UserError: where there is not memory enough for a single image.
        """
        fits = images.ndim == 4 and all(
            have == want or want == 0 for have, want in zip(images.shape[1:], (*self._sides, 3), strict=True)
        )
        resizes = self._bound is not None and images.ndim == 4 and images.shape[3] == 3
        if images.dtype != np.uint8 or not (fits or resizes):
            sides = ", ".join(str(side or "any") for side in self._sides)
            raise ValueError(f"images must be uint8 (n, {sides}, 3), not {images.dtype} {images.shape}")
        if batch < 1:
            raise ValueError(f"batch is {batch}: at least 1")
        found: list[list[np.ndarray]] = []
        start = 0
        while start < len(images):
            step = min(batch, self._most) if self._most else batch
            part = np.ascontiguousarray(images[start : start + step])
            try:
                found.append(self._batch(part))
            except Exception as error:  # onnxruntime's errors share no public base
                if not _is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise UserError(f"out of memory with a single image on {self.provider}: free some.") from error
                self._most = (len(part) + 1) // 2
                for bound in (self._bound, self._resizing):
                    if bound:
                        bound.forget()
                continue
            start += len(part)
        values = {
            name: np.concatenate([one[i] for one in found]) if found else np.empty((0, width), np.float32)
            for i, (name, width) in enumerate(self._outputs.items())
        }
        return Outputs(values["logits"], values["probabilities"], values.get("embedding"))

    def _batch(self, images: np.ndarray) -> list[np.ndarray]:
        if self._bound and images.shape[1:3] == self._sides:
            return self._bound.run(images)
        if self._open_whole:
            self._resizing = self._resizing or _Bound(self._open_whole(), self._outputs)
            return self._resizing.run(images)
        if self._pool is None or (len(images) < self._threads and self._whole is self._session):
            parts = [self._call(self._session, images[i : i + PART]) for i in range(0, len(images), PART)]
        elif len(images) < self._threads:
            return self._call(self._whole, images)
        else:
            step = min(PART, -(-len(images) // self._threads))
            cut = [images[i : i + step] for i in range(0, len(images), step)]
            parts = list(self._pool.map(lambda part: self._call(self._session, part), cut))
        return parts[0] if len(parts) == 1 else [np.concatenate(one) for one in zip(*parts, strict=True)]

    def _call(self, session: Any, images: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(value, np.float32) for value in session.run(list(self._outputs), {INPUT: images})]


class _Bound:
    """A session with input and outputs bound to buffers on its device, made once per size of batch.

    A batch is filled up to a power of two, so that there are few sizes (and few plans of cuDNN). On CUDA each
    size is recorded once as a CUDA graph and replayed: launching its kernels one by one costs a small network
    more than they do. onnxruntime keeps graphs per thread, so all runs are made by one.
    """

    def __init__(self, session: Any, outputs: dict[str, int], graphs: bool = False, device: str = "cuda") -> None:
        self._session, self._names, self._graphs, self._device = session, outputs, graphs, device
        self._buffers: dict[tuple[int, ...], tuple[Any, Any, list[Any], np.ndarray, Any]] = {}
        self._thread = ThreadPoolExecutor(1, "bound")
        self._made = 0

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """The outputs for uint8 (n, h, w, 3), on the host."""
        return self._thread.submit(self._run, images).result()

    def forget(self) -> None:
        """Free the buffers."""
        self._thread.submit(self._buffers.clear).result()

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        n = len(images)
        shape = (1 << (n - 1).bit_length(), *images.shape[1:])
        binding, image, results, full, settings = self._buffers.get(shape) or self._make(shape)
        if n < shape[0]:
            full[:n] = images
            images = full
        image.update_inplace(images)
        self._session.run_with_iobinding(binding, settings)
        # A copy: the next batch overwrites the buffer.
        return [np.array(value.numpy()[:n], np.float32) for value in results]

    def _make(self, shape: tuple[int, ...]) -> tuple[Any, Any, list[Any], np.ndarray, Any]:
        from onnxruntime import OrtValue, RunOptions

        binding = self._session.io_binding()
        image = OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, self._device, 0)
        binding.bind_ortvalue_input(INPUT, image)
        results = []
        for name, width in self._names.items():
            value = OrtValue.ortvalue_from_shape_and_type((shape[0], width), np.float32, self._device, 0)
            binding.bind_ortvalue_output(name, value)
            results.append(value)
        settings = RunOptions()
        if self._graphs:
            # A number of its own for each set of buffers: a graph writes to the addresses that it was recorded with.
            self._made += 1
            settings.add_run_config_entry("gpu_graph_id", str(self._made))
        made = (binding, image, results, np.zeros(shape, np.uint8), settings)
        self._buffers[shape] = made
        return made


def wanted_providers(device: Device) -> list[str]:
    """The providers to ask for, the one that must load first."""
    if device not in ("auto", "cpu", "cuda", "tensorrt"):
        raise UserError(f"device is {device!r}: use auto, cpu, cuda or tensorrt.")
    if device == "auto":
        device = "cuda" if _has_nvidia() else "cpu"
    return {"cpu": [CPU], "cuda": [CUDA, CPU], "tensorrt": [TENSORRT, CUDA, CPU]}[device]


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


def _signature(session: Any, classes: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Height and width that the graph takes (0: any), and its outputs with their widths."""
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    image = inputs.get(INPUT)
    shape = list(image.shape) if image is not None else []
    if len(inputs) != 1 or len(shape) != 4 or shape[3] != 3 or image is None or image.type != "tensor(uint8)":
        raise UserError(f"its input is not `{INPUT}`, uint8 (batch, height, width, 3): export it again (stage export).")
    found: dict[str, int] = {}
    for name in ("logits", "probabilities", "embedding"):
        if name not in outputs and name == "embedding":
            continue
        width = outputs[name].shape[-1] if name in outputs and len(outputs[name].shape) == 2 else None
        if not isinstance(width, int) or (name != "embedding" and width != classes):
            raise UserError(f"its output `{name}` is missing or of another width than its {classes} classes.")
        found[name] = width
    height, width = (side if isinstance(side, int) else 0 for side in shape[1:3])
    return (height, width), found


def _has_nvidia() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()


def _provider_options(wanted: list[str], model: bytes, name: str, engine_cache: Path | None) -> list[dict[str, str]]:
    """What each provider is told; TensorRT needs the shapes, which the file's own description gives."""
    if wanted[0] == CUDA:
        return [{"enable_cuda_graph": "1"}, {}]
    if wanted[0] != TENSORRT:
        return [{} for _ in wanted]
    described = _session(model, [CPU], 1, name)
    size = Card.from_metadata(metadata(described)).size
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = engine_cache or home / "derm-t2im" / "tensorrt"
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {kind: f"{INPUT}:{n}x{size}x{size}x3" for kind, n in (("min", 1), ("opt", ENGINE_BATCH),
                                                                  ("max", ENGINE_MOST))}  # fmt: skip
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        **{f"trt_profile_{kind}_shapes": shape for kind, shape in shapes.items()},
    }
    return [options, {}, {}]


def _session(
    model: bytes, providers: list[str], threads: int, name: str, options: list[dict[str, str]] | None = None
) -> Any:
    """A session that runs on the first of the providers, or else on the CPU alone: ask it which."""
    import onnxruntime

    # It prints its own complaints on stderr; ours say what to do.
    onnxruntime.set_default_logger_severity(4)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    # Threads that wait give the core to those that decode.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if providers[0] != CPU and providers[0] in onnxruntime.get_available_providers():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            onnxruntime.preload_dlls()
        # Without its own way back to another provider, which it takes without a word, in a run as well.
        # A graph that leaves the device for some operator cannot be recorded: then without.
        for told in (options, None) if providers[0] == CUDA and options else (options,):
            with contextlib.suppress(Exception):
                made = onnxruntime.InferenceSession(model, settings, providers, told, enable_fallback=0)
                if made.get_providers()[0] == providers[0]:
                    return made
    try:
        return onnxruntime.InferenceSession(model, settings, [CPU], enable_fallback=0)
    except Exception as error:  # InvalidProtobuf, InvalidGraph, Fail, ... share no public base
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{name} is no ONNX file that this machine can run: {said}") from None


def _records(session: Any) -> bool:
    """Whether a session records CUDA graphs."""
    return bool(session.get_provider_options().get(CUDA, {}).get("enable_cuda_graph") == "1")


def _is_out_of_memory(error: Exception) -> bool:
    said = str(error).lower()
    words = ("out of memory", "failed to allocate", "bad_alloc", "bad allocation", "alloc_failed", "cuda failure 2:")
    return isinstance(error, MemoryError) or any(word in said for word in words)


def _missing_library(provider: str, graph: bytes) -> str:
    import onnxruntime

    library = Path(onnxruntime.__file__).parent / "capi" / LIBRARIES[provider]
    if not library.is_file():
        return "this onnxruntime is built without it: install onnxruntime-gpu"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error).replace(str(library), library.name)
    if not _has_nvidia():
        return "its libraries are there, but no NVIDIA device"
    try:
        onnxruntime.InferenceSession(graph, providers=[provider], enable_fallback=0)
    except Exception as error:  # they share no public base
        return " ".join(str(error).split())[:300]
    return "its libraries are there, but no usable NVIDIA device"
