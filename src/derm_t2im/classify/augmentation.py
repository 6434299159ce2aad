"""Augmentation of training images, by the batch, with chance of a generator on the CPU: the same draws on any device.

``standard`` keeps what a dermatologist reads: a flip, a quarter turn, a small shift, small changes of light and colour.
``strong`` is the control "more augmentation instead of more images": RandAugment (Cubuk et al., CVPR Workshops 2020,
arXiv:1909.13719) with its two operations an image, of those that dermoscopy allows, each at a strength drawn up to its
bound; before them a random resized crop, flips and quarter turns. Posterising, solarising, inverting and shearing are
left out: they make colours and shapes that no lesion has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

KINDS = ("none", "standard", "strong")

# `standard`: largest shift, as a share of the side; brightness, contrast and channel gains as a share of 1.
SHIFT, BRIGHTNESS, CONTRAST, GAIN = 1 / 12, 0.12, 0.12, 0.05

# `strong`: operations per image (RandAugment's N), least share of the area that its crop keeps, and largest strengths.
OPERATIONS, STRONG_CROP = 2, 0.5
HUE, SATURATION, LIGHT, GAMMA, BLUR, SHARPEN, CUT = math.radians(18), 0.5, 0.4, 0.4, 1 / 40, 2.0, 0.4
ASPECT = 4 / 3  # of a random crop, at most


def augment(
    images: torch.Tensor, rows: torch.Tensor, generator: torch.Generator, kind: str = "standard", crop: float = 1.0
) -> torch.Tensor:
    """A batch, float32 (b, s, s, 3) in 0..255, of rows of a uint8 pool (n, s, s, 3).

    ``standard`` draws for each image a flip, a quarter turn, a shift of up to s / 12 (mirrored at the border),
    brightness, contrast and channel gains. ``crop`` is the least share of the area that a random resized crop keeps,
    1 for none; ``strong`` crops to STRONG_CROP or less. ``none`` gives the images themselves.
    """
    import torch

    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no augmentation; allowed: {', '.join(KINDS)}")
    if kind == "none":
        return images[rows].to(torch.float32)
    if kind == "standard":
        return _cropped(_standard(images, rows, generator), crop, generator)
    batch = _cropped(_posed(images, rows, generator, 0), min(crop, STRONG_CROP), generator)
    return _random_operations(batch, generator)


def _standard(images: torch.Tensor, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    import torch

    batch = _posed(images, rows, generator, max(1, round(images.shape[1] * SHIFT)))
    count = len(batch)
    colour = torch.rand((5, count), generator=generator).to(batch.device) * 2 - 1
    batch = batch.view(count, -1, 3)
    gain = (1 + GAIN * colour[:3].T)[:, None, :] * (1 + BRIGHTNESS * colour[3])[:, None, None]
    contrast = (1 + CONTRAST * colour[4])[:, None, None]
    middle = batch.mean(dim=1, keepdim=True)
    batch = ((batch - middle) * contrast + middle) * gain
    side = images.shape[1]
    return batch.clamp_(0, 255).view(count, side, side, 3)


def _posed(images: torch.Tensor, rows: torch.Tensor, generator: torch.Generator, reach: int) -> torch.Tensor:
    """Flips, quarter turns and shifts of up to ``reach`` pixels: one gather, no pixel is changed."""
    import torch

    count, side, device = len(rows), images.shape[1], images.device
    shift = torch.randint(-reach, reach + 1, (2, count, 1), generator=generator).to(device)
    flip, turn, both = torch.randint(0, 2, (3, count, 1, 1), generator=generator).to(device).bool()

    line = torch.arange(side, device=device)
    y, x = (_mirror(line + s, side) for s in shift)  # (b, s)
    y, x = torch.where(flip[..., 0], side - 1 - y, y), torch.where(both[..., 0], side - 1 - x, x)
    across = y[:, :, None] * side + x[:, None, :]
    down = x[:, :, None] + y[:, None, :] * side  # the same, transposed; with the flips all eight poses
    index = torch.where(turn, down, across).view(count, -1)
    batch = images.view(len(images), side * side, 3)[rows[:, None], index].to(torch.float32)
    return batch.view(count, side, side, 3)


def _mirror(index: torch.Tensor, side: int) -> torch.Tensor:
    index = index.abs()
    return (side - 1) - ((side - 1) - index).abs()


def _cropped(batch: torch.Tensor, least: float, generator: torch.Generator) -> torch.Tensor:
    """A random part of each image, of ``least`` to 1 of its area and an aspect up to ASPECT, back at the full size."""
    import torch
    from torch.nn import functional

    if least >= 1:
        return batch
    count = len(batch)
    drawn = torch.rand((4, count), generator=generator).to(batch.device)
    area = least + (1 - least) * drawn[0]
    aspect = torch.exp((2 * drawn[1] - 1) * math.log(ASPECT))
    size = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()]).clamp(max=1)  # (x and y, b)
    centre = (1 - size) * (2 * drawn[2:] - 1)
    affine = torch.diag_embed(size.T)  # (b, 2, 2)
    grid = functional.affine_grid(
        torch.cat([affine, centre.T[..., None]], 2), [count, 3, *batch.shape[1:3]], align_corners=False
    )
    pixels = batch.permute(0, 3, 1, 2)
    pixels = functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return pixels.permute(0, 2, 3, 1).contiguous()


def _random_operations(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """OPERATIONS of the list below on each image, each with a strength of its own from -1..1."""
    import torch

    count, kinds = len(batch), len(_OPERATIONS)
    chosen = torch.rand((count, kinds), generator=generator).argsort(dim=1)[:, :OPERATIONS]
    strength = torch.rand((count, kinds), generator=generator) * 2 - 1
    place = torch.rand((count, 2), generator=generator)
    for k, operation in enumerate(_OPERATIONS):
        which = (chosen == k).any(dim=1).nonzero()[:, 0]
        if len(which):
            here = which.to(batch.device)
            amount = strength[which, k].to(batch.device).view(-1, 1, 1, 1)
            batch[here] = operation(batch[here], amount, place[which].to(batch.device)).clamp(0, 255)
    return batch


def _grey(batch: torch.Tensor) -> torch.Tensor:
    """Luma of ITU-R BT.601, (b, s, s, 1)."""
    return batch @ batch.new_tensor([[0.299], [0.587], [0.114]])


def _hue(batch: torch.Tensor, amount: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Turns the colour plane of YIQ; luma stays."""
    import torch

    to_yiq = batch.new_tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    angle = HUE * amount.flatten()
    turn = torch.eye(3, device=batch.device).repeat(len(batch), 1, 1)
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return (batch.flatten(1, 2) @ matrix.transpose(1, 2)).view_as(batch)


def _saturation(batch: torch.Tensor, amount: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    grey = _grey(batch)
    return grey + (batch - grey) * (1 + SATURATION * amount)


def _brightness(batch: torch.Tensor, amount: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    return batch * (1 + LIGHT * amount)


def _contrast(batch: torch.Tensor, amount: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    middle = _grey(batch).mean(dim=(1, 2), keepdim=True)
    return middle + (batch - middle) * (1 + LIGHT * amount)


def _gamma(batch: torch.Tensor, amount: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    return 255 * (batch / 255) ** (GAMMA * amount).exp()


def _blur(batch: torch.Tensor, amount: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of up to BLUR of the side."""
    return _smooth(batch, BLUR * batch.shape[1] * amount.abs())


def _sharpen(batch: torch.Tensor, amount: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Unsharp masking."""
    return batch + SHARPEN * amount.abs() * (batch - _smooth(batch, amount.new_full(amount.shape, 1.0)))


def _smooth(batch: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Each image with a Gaussian of its own, in pixels, cut off at the border and normalised there."""
    import torch

    line = torch.arange(batch.shape[1], device=batch.device)
    distance = (line[:, None] - line).square()
    kernel = torch.exp(-distance / (2 * sigma.clamp(min=0.01) ** 2))  # (b, 1, s, s)
    kernel = kernel / kernel.sum(dim=-1, keepdim=True)
    return (kernel @ batch.permute(0, 3, 1, 2) @ kernel.transpose(2, 3)).permute(0, 2, 3, 1)


def _cutout(batch: torch.Tensor, amount: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """A square of up to CUT of the side, in the image's mean colour (DeVries and Taylor 2017, arXiv:1708.04552)."""
    import torch

    side = batch.shape[1]
    line = torch.arange(side, device=batch.device) / (side - 1)
    far = (line[None, None, :] - place[:, :, None]).abs()  # (b, 2, s)
    inside = far <= CUT / 2 * amount.abs().view(-1, 1, 1)
    hole = inside[:, 0, :, None, None] & inside[:, 1, None, :, None]
    return torch.where(hole, batch.mean(dim=(1, 2), keepdim=True), batch)


_Operation = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor"], "torch.Tensor"]
_OPERATIONS: tuple[_Operation, ...] = (
    _hue, _saturation, _brightness, _contrast, _gamma, _blur, _sharpen, _cutout,
)  # fmt: skip
