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
    """What :func:`explain` finds.

    ``values`` float32 (n, s, s) over the pixels of the network's input, not negative, each with the sum 1 or, where
    nothing speaks for it, 0; made of ``cells`` x ``cells``; ``logits`` (n, k) of the same images.
    """

    values: np.ndarray
    logits: np.ndarray
    method: Method
    cells: int


class _Coarse(NamedTuple):
    """Maps (n, cells, cells), logits (n, k), and how far each cell lies right of and below its place, pixels."""

    maps: torch.Tensor
    logits: torch.Tensor
    method: Method
    offset: float = 0.0


def explain(
    network: Network, images: np.ndarray, target: np.ndarray, attention: Attention = "gradient", batch: int = 32
) -> Maps:
    """A map of each image: what speaks for its target.

    Args:
        network: Any of timm's; its weights stay as they are.
        images: uint8 (n, h, w, 3), at least one.
        target: bool (n, k), the classes of the finding; its log odds against the other classes are explained.
        attention: How attention is read; without effect on other networks.
        batch: Images at a time; changes no map.

    Raises:
        NoMap: if the network has neither attention over all tokens nor a grid of features.
    """
    import torch

    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise ValueError(f"images must be uint8 (n, h, w, 3), not {images.dtype} {images.shape}")
    if target.shape != (len(images), len(network.classes)) or target.all(axis=1).any() or not target.any(axis=1).all():
        raise ValueError(f"target must be bool (n, {len(network.classes)}) with some, not all classes in each row")
    module = network.module
    found: list[_Coarse] = []
    name = str(network.config.get("timm", type(module).__name__))
    was_training = module.training
    module.eval()
    try:
        with torch.enable_grad():
            for start in range(0, len(images), batch):
                pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).to(network.device)
                wanted = torch.from_numpy(target[start : start + batch]).to(network.device)
                x = network.prepare(pixels).requires_grad_()
                seen = _attention(module, x, wanted, attention) or _grad_cam(module, x, wanted, name)
                # Every batch as the first one says: chance has no part in where a cell lies.
                offset = found[0].offset if found else seen.offset
                found.append(seen._replace(maps=seen.maps.detach(), logits=seen.logits.detach(), offset=offset))
    finally:
        module.train(was_training)
    coarse = torch.cat([part.maps for part in found]).float().cpu().numpy()
    logits = torch.cat([part.logits for part in found]).float().cpu().numpy()
    values = enlarge(coarse, network.size, found[0].offset)
    return Maps(values, logits, found[0].method, coarse.shape[1])


def enlarge(maps: np.ndarray, size: int, offset: float = 0.0) -> np.ndarray:
    """Maps (n, c, c) over the pixels, float32 (n, size, size), linear between the cells' centres, with the sum 1 or 0.

    ``offset`` says how many pixels a cell's true centre lies right of and below its place in an even grid.
    """
    import cv2

    step = maps.shape[1] / size
    start = (0.5 - offset) * step - 0.5
    to_cells = np.array([[step, 0, start], [0, step, start]])
    how: dict[str, Any] = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
    shown = [cv2.warpAffine(np.asarray(one, np.float32), to_cells, (size, size), **how) for one in maps]
    large = np.stack(shown).astype(np.float64)
    total = large.sum(axis=(1, 2), keepdims=True)
    return np.divide(large, total, out=np.zeros_like(large), where=total > 0).astype(np.float32)


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


def _attention(module: Any, x: torch.Tensor, target: torch.Tensor, how: Attention) -> _Coarse | None:
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
        logits = module.forward_head(tokens)
        if how == "gradient":
            gradients = torch.autograd.grad(_log_odds(logits, target).sum(), layers, allow_unused=True)
            given = [torch.zeros_like(a) if g is None else g for a, g in zip(layers, gradients, strict=True)]
            flow = relevance(layers, given)
        else:
            flow = rollout(layers)
    # The answer is read from the class token where there is one, else from all patches alike.
    reads_token = prefix > 0 and getattr(module, "global_pool", "token") == "token"
    read = flow[:, 0] if reads_token else flow[:, prefix:].mean(dim=1)
    maps = read[:, prefix:].reshape(len(x), side, side)
    return _Coarse(maps, logits, "attention_gradient" if how == "gradient" else "attention_rollout")


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


def _grad_cam(module: Any, x: torch.Tensor, target: torch.Tensor, name: str) -> _Coarse:
    """Maps by Grad-CAM."""
    import torch

    final, stages = _stages(module, x)
    known = [(stage, grid) for stage in stages if (grid := _grid(stage, module)) is not None]
    gradients: tuple[Any, ...] = ()
    if known:
        logits = module.forward_head(final)
        score = _log_odds(logits, target).sum()
        gradients = torch.autograd.grad(score, [stage for stage, _ in known], allow_unused=True, retain_graph=True)
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
    maps = (weights * activation).sum(dim=1).clamp(min=0)
    return _Coarse(maps, logits, "grad_cam", _offset(activation, x))


def _offset(activation: torch.Tensor, x: torch.Tensor) -> float:
    """How many pixels the middle cells' view lies right of and below the middle of the image.

    A strided convolution that pads both sides alike looks half a step up and left of it, each one more: by 3.5 of 64
    pixels at the third. The centre of the gradients in the image tells.
    """
    import torch

    cells, size = activation.shape[2], x.shape[2]
    middle = slice((cells - 1) // 2, cells // 2 + 1)
    (gradient,) = torch.autograd.grad(activation[:, :, middle, middle].sum(), x)
    weight = gradient.abs().double().sum(dim=(0, 1))
    if not bool(weight.any()):
        return 0.0
    line = torch.arange(size, device=weight.device, dtype=weight.dtype) + 0.5
    centre = float((weight.sum(dim=0) + weight.sum(dim=1)) @ line / weight.sum() / 2)
    return min(max(centre - size / 2, -size / cells / 2), size / cells / 2)


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
