"""Smaller and faster variants of an exported network: half precision, and eight bits."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from derm_t2im.deploy.export import PIXELS
from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import onnx

    from derm_t2im.deploy.card import Card

BATCH = 20  # images at a time while ranges are measured

# Operators that compute in eight bits. Without what lies between its convolutions a convolutional network would be
# slower than in fp32. A transformer's residual sum holds rare large values, and in eight bits little else: it stays.
QUANTISED = ("Conv", "Gemm", "MatMul")
QUANTISED_BETWEEN = ("Add", "Mul", "Sigmoid", "ReduceMean")


def half(network: onnx.ModelProto) -> onnx.ModelProto:
    """The network with weights and computation in float16; its input and outputs stay float32.

    The CPU has no float16 kernels for most operators: ONNX Runtime computes those in float32 there.

    Raises:
        UserError: if the conversion fails.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    copied = onnx.ModelProto()
    copied.CopyFrom(network)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that are nearly zero
            made = convert_float_to_float16(copied, keep_io_types=True, disable_shape_infer=True)
            OnnxModel.graph_topological_sort(made.graph)  # it puts the casts of the inputs last
            return made
    except Exception as error:  # it has no error type of its own
        raise _cannot("fp16", error) from error


def eight_bit(network: onnx.ModelProto, card: Card, images: np.ndarray) -> onnx.ModelProto:
    """The network with weights and activations in eight bits, as QuantizeLinear and DequantizeLinear pairs.

    Static: the ranges of the activations are those seen on ``images``, uint8 (n, size, size, 3), real ones of the
    training split. Weights are signed and symmetric, a scale per channel, of seven bits: with eight, processors
    without VNNI overflow, and the same file would answer differently there. Activations are unsigned.

    Raises:
        UserError: without images, or if the quantiser fails.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    if not len(images):
        raise UserError("int8 is calibrated on real training images, and there are none: take it out of "
                        "export.variants, or enlarge split.train.")  # fmt: skip
    transformer = any(node.op_type == "LayerNormalization" for node in network.graph.node)
    operators = [*QUANTISED, *(() if transformer else QUANTISED_BETWEEN)]
    batches = _prepared(card, images)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            part = next(batches, None)
            return None if part is None else {PIXELS: part}

    log = logging.getLogger()
    level = log.level
    try:
        log.setLevel(logging.ERROR)  # it advises against what is meant here
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            given, made = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
            onnx.save(network, given)
            quantize_static(
                given,
                made,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=operators,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=True,
            )
            result = onnx.load(made)
    except Exception as error:  # it has no error type of its own
        raise _cannot("int8", error) from error
    finally:
        log.setLevel(level)
    del result.graph.value_info[:]
    return result


def _prepared(card: Card, images: np.ndarray) -> Iterator[np.ndarray]:
    """Images of the right size as the network takes them, float32 (b, 3, size, size)."""
    mean, std = (np.array(values, np.float32) * 255 for values in (card.mean, card.std))
    for start in range(0, len(images), BATCH):
        pixels = (images[start : start + BATCH].astype(np.float32) - mean) / std
        yield np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _cannot(precision: str, error: Exception) -> UserError:
    said = " ".join(str(error).split())[:300]
    return UserError(
        f"no {precision} variant can be made of this network ({type(error).__name__}: {said}): take {precision} out of "
        "export.variants."
    )
