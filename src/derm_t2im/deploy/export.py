"""From a trained network to one ONNX file that says what it is."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from derm_t2im import __version__
from derm_t2im.deploy import preparation
from derm_t2im.deploy.card import DIGEST_KEY, Card, digest
from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import onnx
    import torch

    from derm_t2im.networks import Network

INPUT = "image"
PIXELS, LOGITS, PROBABILITIES, EMBEDDING = "pixels", "logits", "probabilities", "embedding"


def to_onnx(network: Network, card: Card, max_batch: int = 1024, embedding: bool = True) -> bytes:
    """One self-contained ONNX file: :func:`body` and :func:`assemble` in one step."""
    if tuple(card.classes) != tuple(network.classes):
        raise ValueError(f"the card's classes {card.classes} are not the network's {network.classes}")
    return assemble(body(network, max_batch, embedding), card)


def body(network: Network, max_batch: int = 1024, embedding: bool = True) -> onnx.ModelProto:
    """The network alone, in float32: ``pixels`` (batch, 3, size, size), normalised, to ``logits`` and ``embedding``.

    Args:
        network: On the CPU.
        max_batch: Largest batch that the graph is exported for.
        embedding: Give the features before the last layer too, those of :meth:`Network.embed`.

    Raises:
        UserError: if torch cannot export the architecture.
    """
    import torch

    example = torch.zeros((2, 3, network.size, network.size))
    batch = torch.export.Dim("batch", min=1, max=max_batch)
    # The exporter reports its steps on stdout and through warnings of other packages.
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    try:
        exporter_log.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _graph(network, embedding),
                (example,),
                dynamo=True,
                dynamic_shapes={PIXELS: {0: batch}},
                input_names=[PIXELS],
                output_names=[LOGITS, EMBEDDING] if embedding else [LOGITS],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter has no error type of its own to rely on
        said = " ".join(str(error).split())[:300]
        name = network.config.get("timm", "the network")
        raise UserError(f"{name} cannot be exported to ONNX ({type(error).__name__}): {said}") from error
    finally:
        exporter_log.setLevel(level)
    assert program is not None
    model = program.model_proto
    _forget_where_it_was_made(model)
    # Shapes of intermediate values name the exporter's private symbols, and stop quantisation.
    del model.graph.value_info[:]
    return model


def assemble(network: onnx.ModelProto, card: Card) -> bytes:
    """The file: preparation, network, decision and card.

    Input ``image``: uint8 (batch, height, width, 3), RGB, of any size. Outputs ``logits``, ``probabilities``
    (after ``card.temperature``), both float32 (batch, k) in the order of ``card.classes``, and ``embedding`` (batch, d)
    where the network gives it. Equal networks give equal bytes, and nothing of this machine stays in them.

    Args:
        network: Of :func:`body`, or of :mod:`derm_t2im.deploy.quantise`; it stays as it is.
        card: Written to the file's metadata, with what the graph knows better: opset, width of the embedding,
            version and digest.

    Raises:
        UserError: if onnx finds the result at fault.
        ValueError: if the card is not this network's.
    """
    import onnx

    widths = {value.name: value.type.tensor_type.shape.dim[-1].dim_value for value in network.graph.output}
    if widths[LOGITS] != len(card.classes):
        raise ValueError(f"the card's classes are {card.classes}, but the network gives {widths[LOGITS]} logits")
    opset = next(entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx"))
    before = preparation.before(card.size, card.mean, card.std, opset).graph
    after = preparation.after(len(card.classes), card.temperature, opset).graph

    model = onnx.ModelProto()
    model.CopyFrom(network)
    graph = model.graph
    graph.name = card.architecture
    outputs = {value.name: value for value in (*network.graph.output, *after.output)}
    for field in ("node", "initializer", "input", "output"):
        graph.ClearField(field)
    for part in (before, network.graph, after):
        graph.node.extend(part.node)
        graph.initializer.extend(part.initializer)
    graph.input.extend(before.input)
    graph.output.extend(outputs[name] for name in (LOGITS, PROBABILITIES, EMBEDDING) if name in outputs)
    for value in graph.output:
        # The exporter and the quantiser name the batch each in their way.
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    _forget_where_it_was_made(model)
    model.producer_name, model.producer_version = "derm-t2im", __version__
    model.doc_string = card.intended_use

    known = card.model_copy(
        update={"opset": opset, "embedding": widths.get(EMBEDDING, 0), "version": __version__, "sha256": ""}
    )
    entries = known.to_metadata()
    del entries[DIGEST_KEY]
    onnx.helper.set_model_props(model, entries)
    check(model)
    found = digest(model.SerializeToString(deterministic=True))
    key_and_value = model.metadata_props.add()
    key_and_value.key = DIGEST_KEY
    key_and_value.value = known.model_copy(update={"sha256": found}).to_metadata()[DIGEST_KEY]
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


def _graph(network: Network, embedding: bool) -> torch.nn.Module:
    import torch

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module: Any = copy.deepcopy(network.module)
            for part in self.module.modules():
                # Says only where a result is stored; the exporter takes twice as long over it.
                if getattr(part, "inplace", False):
                    vars(part)["inplace"] = False

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            if not embedding:
                return (self.module(pixels),)
            features = self.module.forward_features(pixels)
            # What both have in common, the exporter computes once.
            return self.module.forward_head(features), self.module.forward_head(features, pre_logits=True)

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
