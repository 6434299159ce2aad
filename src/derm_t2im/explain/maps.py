"""Attribution maps: which parts of an image speak for a finding, by a network's own gradients.

Two methods, chosen by what a network is made of and not by its name:

- **Attention** where all tokens attend to all (ViT, DeiT, EVA): the roll-out of Abnar and Zuidema (2020) with each
  head weighted by the gradient of the finding (Chefer, Gur, Wolf: Generic Attention-model Explainability, ICCV 2021),
  or without gradients, which gives one map whatever the finding.
- **Grad-CAM** (Selvaraju et al. 2017) otherwise, on the deepest stage that still has :data:`CELLS` cells a side: a
  convolutional network for 224 px sees 7 x 7 cells at its end, the same network at 64 px only 2 x 2, which is no map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import torch

    from derm_t2im.networks import Network

Attention = Literal["gradient", "rollout"]
Method = Literal["grad_cam", "attention_gradient", "attention_rollout"]

CELLS = 7  # a side, of the coarsest Grad-CAM


class NoMap(UserError):
    """A network that no method here can explain."""


class Maps(NamedTuple):
    """Maps (n, cells, cells), float32, not negative, each with the sum 1; all zero where nothing speaks for it."""

    values: np.ndarray
    method: Method


def explain(
    network: Network, images: np.ndarray, target: np.ndarray, attention: Attention = "gradient", batch: int = 32
) -> Maps:
    """A map of each image: what speaks for its target.

    Args:
        network: Any of timm's; its weights stay as they are.
        images: uint8 (n, h, w, 3).
        target: bool (n, k), the classes of the finding; its log odds against the other classes are explained.
        attention: How attention is read; without effect on other networks.
        batch: Images at a time; changes no map.

    Raises:
        NoMap: if the network has neither attention over all tokens nor a grid of features.
    """
    import torch

    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be uint8 (n, h, w, 3), not {images.dtype} {images.shape}")
    if target.shape != (len(images), len(network.classes)) or target.all(axis=1).any() or not target.any(axis=1).all():
        raise ValueError(f"target must be bool (n, {len(network.classes)}) with some, not all classes in each row")
    module, found = network.module, []
    was_training = module.training
    method: Method = "grad_cam"
    module.eval()
    try:
        with torch.enable_grad():
            for start in range(0, max(1, len(images)), batch):
                pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).to(network.device)
                wanted = torch.from_numpy(target[start : start + batch]).to(network.device)
                x = network.prepare(pixels).requires_grad_()
                maps = _attention(module, x, wanted, attention) if len(x) else None
                if maps is not None:
                    method = "attention_gradient" if attention == "gradient" else "attention_rollout"
                elif len(x):
                    maps = _grad_cam(module, x, wanted, str(network.config.get("timm", type(module).__name__)))
                found.append(np.zeros((0, 1, 1)) if maps is None else maps.detach().double().cpu().numpy())
    finally:
        module.train(was_training)
    values = np.concatenate(found)
    total = values.sum(axis=(1, 2), keepdims=True)
    return Maps(np.divide(values, total, out=np.zeros_like(values), where=total > 0).astype(np.float32), method)


def _log_odds(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of the target classes against the others, (n,): for two classes the difference of their logits."""
    inside = logits.masked_fill(~target, -math.inf).logsumexp(dim=1)
    return inside - logits.masked_fill(target, -math.inf).logsumexp(dim=1)


# --- attention -----------------------------------------------------------------------------------


def rollout(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Attention rolled out over layers (Abnar and Zuidema 2020): (n, t, t), rows sum to 1.

    ``layers`` hold attention (n, heads, t, t), the first layer first. Heads are averaged, and half of each token
    passes by in the residual connection.
    """
    import torch

    one = torch.eye(layers[0].shape[-1], device=layers[0].device)
    flow = one.expand(len(layers[0]), -1, -1)
    for layer in layers:
        flow = (layer.mean(dim=1) + one) / 2 @ flow
    return flow


def relevance(layers: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Relevance of each token for each (Chefer et al. 2021, eqs. 5 and 6), (n, t, t), without a token's own part."""
    import torch

    one = torch.eye(layers[0].shape[-1], device=layers[0].device)
    flow = one.expand(len(layers[0]), -1, -1)
    for layer, gradient in zip(layers, gradients, strict=True):
        flow = flow + (layer * gradient).clamp(min=0).mean(dim=1) @ flow
    return flow - one


def _attention(module: Any, x: torch.Tensor, target: torch.Tensor, how: Attention) -> torch.Tensor | None:
    """Maps (n, cells, cells) by attention; None where a network has none over all tokens."""
    import torch

    blocks = [part for part in module.modules() if hasattr(part, "fused_attn") and hasattr(part, "attn_drop")]
    if not blocks:
        return None
    with _watched(blocks) as layers:
        tokens = module.forward_features(x)
        if not isinstance(tokens, torch.Tensor) or tokens.ndim != 3:
            return None
        count, prefix = tokens.shape[1], int(getattr(module, "num_prefix_tokens", 0))
        side = round((count - prefix) ** 0.5)
        whole = all(layer.ndim == 4 and layer.shape[0] == len(x) and layer.shape[2:] == (count, count)
                    for layer in layers)  # fmt: skip
        if not layers or not whole or side * side != count - prefix:
            return None
        if how == "gradient":
            score = _log_odds(module.forward_head(tokens), target).sum()
            gradients = torch.autograd.grad(score, layers, allow_unused=True)
            given = [torch.zeros_like(a) if g is None else g for a, g in zip(layers, gradients, strict=True)]
            flow = relevance(layers, given)
        else:
            flow = rollout(layers)
    # The answer is read from the class token where there is one, else from all patches alike.
    reads_token = prefix > 0 and getattr(module, "global_pool", "token") == "token"
    read = flow[:, 0] if reads_token else flow[:, prefix:].mean(dim=1)
    return read[:, prefix:].reshape(len(x), side, side)


@contextmanager
def _watched(blocks: list[Any]) -> Iterator[list[torch.Tensor]]:
    """Attention after the softmax, layer by layer, while the blocks run: timm's fused kernels never hold it."""
    layers: list[torch.Tensor] = []
    fused = [block.fused_attn for block in blocks]
    hooks = [block.attn_drop.register_forward_hook(lambda _, __, out: layers.append(out)) for block in blocks]
    try:
        for block in blocks:
            block.fused_attn = False
        yield layers
    finally:
        for hook in hooks:
            hook.remove()
        for block, value in zip(blocks, fused, strict=True):
            block.fused_attn = value


# --- Grad-CAM ------------------------------------------------------------------------------------


def _grad_cam(module: Any, x: torch.Tensor, target: torch.Tensor, name: str) -> torch.Tensor:
    """Maps (n, cells, cells) by Grad-CAM."""
    import torch

    final, stages = _stages(module, x)
    gradients: tuple[Any, ...] = ()
    grids = [(stage, _grid(stage, module)) for stage in stages]
    known = [(stage, grid) for stage, grid in grids if grid is not None]
    if known:
        score = _log_odds(module.forward_head(final), target).sum()
        gradients = torch.autograd.grad(score, [stage for stage, _ in known], allow_unused=True)
    # Stages that are copies (turned for the caller), and patches that a class token has read before, are no part of
    # the way from here to the answer.
    usable = [
        (grid, given)
        for (_, grid), gradient in zip(known, gradients, strict=True)
        if gradient is not None and (given := _grid(gradient, module)) is not None and bool(given.any())
    ]
    if not usable:
        raise NoMap(
            f"{name}: no map of what it looks at: it has neither attention over all tokens nor a grid of features. "
            "Choose a convolutional network or a ViT."
        )
    fine = [pair for pair in usable if min(pair[0].shape[2:]) >= CELLS]
    activation, gradient = fine[-1] if fine else max(usable, key=lambda pair: pair[0].shape[2])
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * activation).sum(dim=1).clamp(min=0)


def _stages(module: Any, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Features before the head, and the outputs of a network's stages, the first one first, those features last."""
    if hasattr(module, "forward_intermediates"):
        try:
            final, stages = module.forward_intermediates(x)
            return final, [*stages, final]
        except (NotImplementedError, AssertionError):
            pass
    final = module.forward_features(x)
    return final, [final]


def _grid(features: Any, module: Any) -> torch.Tensor | None:
    """Features as (n, c, h, w): a grid in either order, or tokens of a square one; None for anything else."""
    import torch

    if not isinstance(features, torch.Tensor):
        return None
    if features.ndim == 4:
        last = getattr(module, "output_fmt", "NCHW") == "NHWC" and features.shape[1] == features.shape[2]
        return features.permute(0, 3, 1, 2) if last else features
    if features.ndim == 3:
        prefix = int(getattr(module, "num_prefix_tokens", 0))
        side = round((features.shape[1] - prefix) ** 0.5)
        if side * side == features.shape[1] - prefix and side > 1:
            return features[:, prefix:].transpose(1, 2).unflatten(2, (side, side))
    return None
