"""From a trained network to one ONNX file that says what it is."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from derm_t2im import __version__
from derm_t2im.deploy.card import Card
from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import onnx
    import torch

    from derm_t2im.networks import Network

INPUT = "image"
OUTPUTS = ("logits", "probabilities")


def to_onnx(network: Network, card: Card, max_batch: int = 1024) -> bytes:
    """One self-contained ONNX file.

    Input ``image``: uint8 (batch, size, size, 3), RGB; normalisation is in the graph. Outputs
    ``logits`` and ``probabilities``: float32 (batch, k), columns in the order of ``card.classes``.
    Equal networks give equal bytes, and nothing of this machine stays in them.

    Args:
        network: On the CPU.
        card: Written to the file's metadata.
        max_batch: Largest batch that the graph is exported for.

    Raises:
        UserError: if torch cannot export the architecture, or onnx finds the result at fault.
    """
    import onnx
    import torch

    if tuple(card.classes) != tuple(network.classes):
        raise ValueError(f"the card's classes {card.classes} are not the network's {network.classes}")
    example = torch.zeros((2, network.size, network.size, 3), dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=max_batch)
    # The exporter reports its steps on stdout and through warnings of other packages.
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    try:
        exporter_log.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _with_normalisation(network),
                (example,),
                dynamo=True,
                dynamic_shapes={INPUT: {0: batch}},
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter has no error type of its own to rely on
        said = " ".join(str(error).split())[:300]
        raise UserError(f"{card.architecture} cannot be exported to ONNX ({type(error).__name__}): {said}") from error
    finally:
        exporter_log.setLevel(level)
    assert program is not None
    model = program.model_proto
    _forget_where_it_was_made(model)
    # Shapes of intermediate values name the exporter's private symbols, and stop quantisation.
    del model.graph.value_info[:]
    model.producer_name, model.producer_version = "derm-t2im", __version__
    model.doc_string = card.intended_use
    onnx.helper.set_model_props(model, card.to_metadata())
    check(model)
    return model.SerializeToString(deterministic=True)


def check(model: onnx.ModelProto) -> None:
    """onnx's full check, shape inference included.

    Raises:
        UserError: naming what it found.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # ValidationError and InferenceError share no base
        raise UserError(f"the exported ONNX file fails onnx's check: {' '.join(str(error).split())[:300]}") from error


def _with_normalisation(network: Network) -> torch.nn.Module:
    import torch

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = copy.deepcopy(network.module)
            for part in self.module.modules():
                # Says only where a result is stored; the exporter takes twice as long over it.
                if getattr(part, "inplace", False):
                    vars(part)["inplace"] = False

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            # The network's own preparation, so that parity does not hang on a second copy of it.
            logits = self.module(network.prepare(image))
            return logits, torch.softmax(logits, dim=1)

    return Graph().eval()


def _forget_where_it_was_made(message: Any) -> None:
    """Clear the exporter's notes at every level: stack traces hold paths of this machine."""
    for name in ("metadata_props", "doc_string"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if hasattr(value, "DESCRIPTOR"):
            _forget_where_it_was_made(value)
        else:
            for item in value:
                _forget_where_it_was_made(item)
