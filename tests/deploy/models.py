"""Small networks and cards to export."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from derm_t2im import networks
from derm_t2im.deploy import card as cards
from derm_t2im.deploy.card import Card
from derm_t2im.networks import Network
from derm_t2im.sources import phantom

CLASSES = ("benign", "malignant")
ARCHS: dict[str, tuple[str, dict[str, Any]]] = {
    "mobilenetv2": ("mobilenetv2_035", {}),
    "vit": ("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}),
}


def network(arch: str = "vit", classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Network:
    """A random network of 32 px whose answers to phantoms spread over 0..1."""
    import torch

    name, options = ARCHS[arch]
    made = networks.build(name, options, classes, 32, seed=seed)
    embedded = torch.from_numpy(made.embed(phantoms(12)))
    weight = torch.randn(len(classes), embedded.shape[1], generator=torch.Generator().manual_seed(seed))
    logits = embedded @ weight.T
    head = made.module.get_classifier()
    with torch.no_grad():
        head.weight.copy_(weight / logits.std(dim=0)[:, None])
        head.bias.copy_(-logits.mean(dim=0) / logits.std(dim=0))
    return made


def phantoms(n: int) -> np.ndarray:
    """uint8 (n, 32, 32, 3)."""
    return np.stack([phantom.render(phantom.CLINIC_A, 5, i, size=32).image for i in range(n)])


def card(of: Network, **values: Any) -> Card:
    known = {
        "architecture": "vit", "classes": of.classes, "positive": of.classes[1:2], "size": of.size, "mean": of.mean,
        "std": of.std, "hair_removal": "directional", "threshold": 0.5, "threshold_sensitivity": 0.9,
        "training_mix": "hybrid", "training_seed": 1, "training_sources": ("phantom-clinic-a",),
        "weights_sha256": "0" * 64,
    }  # fmt: skip
    return Card(**{**known, **values})


def with_embedding(exported: bytes) -> bytes:
    """The file with an output `embedding`: what its last layer is given."""
    import onnx
    from onnx import helper

    model = onnx.load_from_string(exported)
    if any(value.name == "embedding" for value in model.graph.output):
        return exported
    last = next(node for node in model.graph.node if "logits" in node.output)
    weight = next(value for value in model.graph.initializer if value.name == last.input[1])
    model.graph.node.append(helper.make_node("Identity", [last.input[0]], ["embedding"]))
    shape = ["batch", max(weight.dims)]
    model.graph.output.append(helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, shape))
    return bytes(model.SerializeToString())


def rename(model: Any, old: str, new: str) -> None:
    """Call an input or output of an ONNX model otherwise."""
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = new if name == old else name


def sealed(content: bytes, **changes: Any) -> bytes:
    """The file with other entries in its card, and a digest that fits: as an export of its own."""
    import onnx

    model = onnx.load_from_string(content)
    entries = {entry.key: entry for entry in model.metadata_props}
    for name, value in changes.items():
        entries[f"{cards.PREFIX}{name}"].value = json.dumps(value)
    entries[cards.DIGEST_KEY].value = json.dumps(cards.digest(model.SerializeToString()))
    return bytes(model.SerializeToString())
