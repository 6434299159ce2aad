"""Smaller and faster variants of an exported network: half precision, and eight bits."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from derm_t2im.deploy import preparation
from derm_t2im.deploy.export import INPUT, PIXELS
from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import onnx

    from derm_t2im.deploy.card import Card

BATCH = 20


def half(network: onnx.ModelProto) -> onnx.ModelProto:
    """The network with weights and computation in float16; its input and outputs stay float32.

    The CPU has no float16 kernels for most operators: ONNX Runtime computes those in float32 there.

    Raises:
        UserError: if the conversion fails.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copied = onnx.ModelProto()
    copied.CopyFrom(network)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that are nearly zero
            return convert_float_to_float16(copied, keep_io_types=True, disable_shape_infer=True)
    except Exception as error:  # it has no error type of its own
        raise _cannot("fp16", error) from error


def eight_bit(network: onnx.ModelProto, card: Card, images: np.ndarray) -> onnx.ModelProto:
    """The network with weights and activations in eight bits, as QuantizeLinear and DequantizeLinear pairs.

    Static: the ranges of the activations are those seen on ``images``, uint8 (n, size, size, 3), real ones of the
    training split. Weights are signed and symmetric, a scale per channel; activations unsigned.

    Raises:
        UserError: without images, or if the quantiser fails.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    if not len(images):
        raise UserError("int8 is calibrated on real training images, and there are none: take it out of "
                        "export.variants, or enlarge split.train.")  # fmt: skip
    batches = _prepared(card, images)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
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
                op_types_to_quantize=list(QUANTISED),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            result = onnx.load(made)
    except Exception as error:  # it has no error type of its own
        raise _cannot("int8", error) from error
    finally:
        log.setLevel(level)
    del result.graph.value_info[:]
    return result


def _prepared(card: Card, images: np.ndarray):  # type: ignore[no-untyped-def]
    pass
