"""What a phantom is drawn from: skin, lesions, hair and artefacts, on arrays in CIE Lab or RGB.

Lengths are shares of half the field of view, so the same seed draws the same scene at any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

Array = np.ndarray
Rng = np.random.Generator


@dataclass(frozen=True)
class Grid:
    """Coordinates of the pixels, reaching from -extent to extent."""

    n: int
    extent: float
    x: Array
    y: Array

    @classmethod
    def make(cls, n: int, zoom: float) -> Grid:
        """An n x n grid; zoom > 1 shows less of the scene."""
        extent = 1 / zoom
        axis = ((np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1) * np.float32(extent)
        x, y = np.meshgrid(axis, axis)
        return cls(n, extent, x, y)


def smooth(rng: Rng, n: int, cells: int) -> Array:
    """Smooth noise (n, n) of about unit variance with about ``cells`` bumps across."""
    coarse = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    return cv2.resize(coarse, (n, n), interpolation=cv2.INTER_CUBIC) * np.float32(1.3)


def to_rgb(lab: Array) -> Array:
    """CIE Lab (D65) to sRGB in [0, 1]."""
    return np.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB), 0, 1)


def shrink(image: Array, scale: int) -> Array:
    """Average blocks of scale x scale pixels."""
    if scale == 1:
        return image
    return cv2.resize(image, (image.shape[1] // scale, image.shape[0] // scale), interpolation=cv2.INTER_AREA)


def skin(
    rng: Rng, grid: Grid, ita: float, redness: float, yellowness: float, texture: float, ridges: bool, vessels: bool
) -> tuple[Array, Array]:
    """Skin of a given individual typology angle.

    ITA = atan((L* - 50) / b*), so for a given b* the angle fixes L*.

    Returns:
        Lab image (n, n, 3) and the mean Lab colour (3,) of the skin before texture.
    """
    n = grid.n
    b = rng.uniform(12, 19) if ita > -10 else rng.uniform(9, 14)
    lightness = 50 + b * math.tan(math.radians(ita))
    if lightness > 84:  # very light skin is pale too: keep the angle, lower b*
        b *= 34 / (lightness - 50)
        lightness = 84
    colour = np.array([lightness, rng.uniform(7, 13) + redness, b + yellowness], np.float32)
    lab = np.empty((n, n, 3), np.float32)
    lab[:] = colour
    mottle = smooth(rng, n, 5)
    lab[..., 0] += texture * (1.1 * mottle + 0.7 * smooth(rng, n, 14) + 0.6 * smooth(rng, n, 30))
    lab[..., 1] += texture * 1.0 * smooth(rng, n, 6)
    lab[..., 2] += texture * 0.7 * smooth(rng, n, 6)
    if ridges:  # palms and soles: parallel ridges
        angle, period = rng.uniform(0, math.pi), rng.uniform(0.12, 0.2)
        along = grid.x * math.cos(angle) + grid.y * math.sin(angle) + 0.05 * mottle
        lab[..., 0] += 2.2 * np.sin(2 * math.pi * along / period)
    else:  # fine criss-cross furrows
        for _ in range(2):
            angle, period = rng.uniform(0, math.pi), rng.uniform(0.10, 0.22)
            along = grid.x * math.cos(angle) + grid.y * math.sin(angle) + 0.06 * smooth(rng, n, 5)
            lab[..., 0] -= texture * 1.1 * np.clip(np.cos(2 * math.pi * along / period) - 0.6, 0, 1)
    if vessels:
        for _ in range(int(rng.integers(2, 7))):
            line = np.zeros((n, n), np.float32)
            _curve(rng, line, width=rng.uniform(0.008, 0.02), length=rng.uniform(0.3, 0.9))
            soft = cv2.GaussianBlur(line, (0, 0), max(0.006 * n, 0.3))
            lab[..., 1] += 9 * soft
            lab[..., 0] -= 4 * soft
    return lab, colour


def places(rng: Rng, count: int, area: float, offset: float) -> list[tuple[tuple[float, float], float]]:
    """Centres and radii of ``count`` lesions that together cover ``area`` of the field (-1 to 1)."""
    shares = np.ones(count) / count if count == 1 else rng.dirichlet(np.full(count, 25.0))
    turn = rng.uniform(0, 2 * math.pi)
    shift = (offset * math.cos(turn), offset * math.sin(turn))
    start, out = rng.uniform(0, 2 * math.pi), []
    for i, share in enumerate(shares):
        radius = math.sqrt(4 * area * share / math.pi)
        away = 0.0 if count == 1 else 0.52 + 0.06 * (count - 2)
        angle = start + 2 * math.pi * i / count + rng.uniform(-0.12, 0.12)
        keep = 1.0 if count == 1 else 0.35  # several lesions have less room to move
        out.append(((away * math.cos(angle) + keep * shift[0], away * math.sin(angle) + keep * shift[1]), radius))
    return out


# Colours of the ABCD rule as differences from the lesion's own brown, in Lab.
PALETTE = np.array(
    [
        [-13, -2, -6],  # dark brown to black
        [-4, -6, -15],  # blue-grey
        [2, 11, -2],  # red
        [14, -3, -5],  # white, regression
        [8, 1, 7],  # light brown
    ],
    np.float32,
)


def _outline(rng: Rng, asymmetry: float, border: float) -> Array:
    """Distance of the border from the centre, relative to the radius, at 721 angles from -pi to pi."""
    theta = np.linspace(-math.pi, math.pi, 721)
    outline = np.ones_like(theta)
    for k, strength in ((2, 0.05), (3, 0.17 * asymmetry), (1, 0.2 * asymmetry), (4, 0.08 * asymmetry)):
        outline += strength * rng.uniform(0.5, 1) * np.cos(k * theta + rng.uniform(0, 2 * math.pi))
    for k in range(5, 16):
        outline += 0.24 * border / k**0.9 * rng.standard_normal() * np.cos(k * theta + rng.uniform(0, 2 * math.pi))
    outline /= math.sqrt(float(np.mean(outline**2)))  # the shape must not change the area
    return np.maximum(outline, 0.25).astype(np.float32)


def lesion(
    rng: Rng, grid: Grid, lab: Array, skin_colour: Array, centre: tuple[float, float], radius: float,
    features: dict[str, float],
) -> Array:  # fmt: skip
    """Draw one lesion into ``lab`` in place.

    Args:
        rng: Source of chance.
        grid: Pixel coordinates.
        lab: Lab image (n, n, 3), changed in place.
        skin_colour: Mean Lab colour of the skin.
        centre: Position.
        radius: Mean radius.
        features: Strength in (0, 1) of asymmetry, border, colour and structure.

    Returns:
        Cover of the lesion in [0, 1], (n, n).
    """
    n = grid.n
    asymmetry, border = features["asymmetry"], features["border"]
    dx, dy = grid.x - np.float32(centre[0]), grid.y - np.float32(centre[1])
    turn = rng.uniform(0, math.pi)
    u, v = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
    stretch = math.sqrt(1 + 0.12 * rng.random() + 0.45 * asymmetry)
    rho, theta = np.hypot(u / np.float32(stretch), v * np.float32(stretch)), np.arctan2(v, u)
    outline = _outline(rng, asymmetry, border)
    turns = (theta + np.float32(math.pi)) * np.float32((len(outline) - 1) / (2 * math.pi))
    distance = rho / (np.float32(radius) * outline[turns.astype(np.int32)])
    # Irregular lesions end abruptly, regular ones fade out.
    softness = (0.20 - 0.13 * border) * max(1.0, 0.12 / radius)
    distance += np.float32(0.05 + 0.06 * border) * smooth(rng, n, int(np.clip(5 / radius, 5, 40)))
    alpha = 1 / (1 + np.exp(np.clip((distance - 1) / np.float32(0.45 * softness), -30, 30)))

    # Pigment lies on the skin: darker skin leaves less room below it.
    depth = rng.uniform(0.28, 0.5) * max(float(skin_colour[0]) - 12, 14)
    brown = np.array([-depth, rng.uniform(2, 8), rng.uniform(-1, 6)], np.float32)
    paint = np.empty((n, n, 3), np.float32)
    paint[:] = brown
    # Pigment is densest at a centre that lies off the middle in asymmetric lesions.
    off = 0.45 * radius * asymmetry
    away = rng.uniform(0, 2 * math.pi)
    middle = np.hypot(dx - off * math.cos(away), dy - off * math.sin(away)) / radius
    paint[..., 0] -= 0.22 * depth * (np.exp(-((middle / 0.7) ** 2)) - 0.4)
    paint[..., 0] += 0.07 * depth * smooth(rng, n, int(np.clip(6 / radius, 6, 60)))

    wanted = 4.6 * features["colour"]
    for i, colour in enumerate(rng.permutation(PALETTE)):
        strength = float(np.clip(wanted - i, 0, 1))
        if strength > 0:
            angle, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 0.75) * radius
            spot = np.hypot(dx - reach * math.cos(angle), dy - reach * math.sin(angle)) / np.float32(radius)
            ragged = spot + np.float32(0.2) * smooth(rng, n, int(np.clip(4 / radius, 4, 40)))
            cover = np.clip((rng.uniform(0.4, 0.65) - ragged) / 0.45 + 0.5, 0, 1).astype(np.float32)
            paint += (strength * cover * cover * (3 - 2 * cover))[..., None] * colour
    _structure(rng, grid, paint, dx, dy, radius, depth, features["structure"])
    lab += alpha[..., None] * paint
    return alpha


def _structure(
    rng: Rng, grid: Grid, paint: Array, dx: Array, dy: Array, radius: float, depth: float, irregular: float
) -> None:
    """Dermoscopic structures: an even network where regular, dots, streaks and veil where not."""
    n = grid.n
    period = rng.uniform(0.1, 0.16)
    warp = 0.35 * period * irregular
    turn = rng.uniform(0, math.pi)
    waves = np.zeros((n, n), np.float32)
    wave = np.float32(warp) * smooth(rng, n, 8)
    for i in range(3):
        angle = turn + i * math.pi / 3
        waves += np.cos(np.float32(2 * math.pi / period) * (dx * math.cos(angle) + dy * math.sin(angle) + wave))
    patchy = 1.0 if irregular < 0.3 else np.clip(0.5 + 0.9 * smooth(rng, n, 4), 0, 1)
    paint[..., 0] -= (1 - 0.6 * irregular) * 0.10 * depth * waves * patchy
    dots = round(11 * irregular * rng.uniform(0.7, 1.3))
    for _ in range(dots):
        angle, reach = rng.uniform(0, 2 * math.pi), radius * math.sqrt(rng.uniform(0.05, 1.0))
        width = rng.uniform(0.035, 0.06) + 0.06 * radius
        spot = ((dx - reach * math.cos(angle)) ** 2 + (dy - reach * math.sin(angle)) ** 2) / np.float32(width**2)
        paint[..., 0] -= np.float32(0.45 * depth) * np.square(np.clip(1 - spot / 2, 0, 1))
    veil = max(0.0, irregular - 0.45) / 0.55
    if veil > 0:
        cloud = np.clip(smooth(rng, n, 3) * 0.5 + 0.2, 0, 1) * veil
        paint += cloud[..., None] * np.array([4, -4, -11], np.float32)


def _curve(rng: Rng, canvas: Array, width: float, length: float) -> None:
    """Draw a bent line of the given width and length (shares of half the side) into ``canvas``."""
    n = canvas.shape[0]
    start = rng.uniform(-0.1, 1.1, 2) * n
    heading, bend = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.9)
    steps = 24
    t = np.linspace(0, 1, steps)
    angles = heading + bend * t
    stride = length * n / 2 / steps
    points = start + np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1) * stride, 0)
    thickness = max(1, round(width * n / 2))
    cv2.polylines(canvas, [np.round(points * 16).astype(np.int32)], False, 1.0, thickness, cv2.LINE_AA, 4)


def hair(rng: Rng, rgb: Array, number: int, light: bool) -> tuple[Array, Array]:
    """The image with hairs over it, and their cover in [0, 1] (n, n)."""
    cover = np.zeros(rgb.shape[:2], np.uint8)
    layer = np.zeros(rgb.shape[:2], np.uint8)
    for _ in range(number):
        layer[:] = 0
        n = rgb.shape[0]
        start = rng.uniform(-0.15, 1.15, 2) * n
        heading, bend = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.8)
        t = np.linspace(0, 1, 28)
        angles = heading + bend * t
        stride = rng.uniform(0.7, 2.2) * n / 2 / len(t)
        points = start + np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1) * stride, 0)
        thickness = max(1, round(rng.uniform(0.010, 0.024) * n / 2))
        cv2.polylines(layer, [np.round(points * 16).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, 4)
        np.maximum(cover, layer, out=cover)
    alpha = cover.astype(np.float32) / 255
    tint = rng.uniform(0.75, 0.92) if light else rng.uniform(0.05, 0.22)
    colour = np.array([tint, tint * rng.uniform(0.8, 0.95), tint * rng.uniform(0.6, 0.85)], np.float32)
    weight = (0.9 * alpha)[..., None]
    return rgb * (1 - weight) + colour * weight, alpha


def ink(rng: Rng, rgb: Array) -> None:
    """Surgical marker strokes in violet or blue, in place."""
    n = rgb.shape[0]
    stroke = np.zeros((n, n), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        angle = rng.uniform(0, 2 * math.pi)
        centre = np.array([0.5 + 0.42 * math.cos(angle), 0.5 + 0.42 * math.sin(angle)]) * n
        way = np.array([-math.sin(angle), math.cos(angle)]) * rng.uniform(0.08, 0.25) * n
        ends = [tuple(int(c) for c in centre - way), tuple(int(c) for c in centre + way)]
        cv2.line(stroke, ends[0], ends[1], 1.0, max(2, round(rng.uniform(0.03, 0.06) * n)), cv2.LINE_AA)
    colour = np.array([rng.uniform(0.25, 0.4), rng.uniform(0.1, 0.25), rng.uniform(0.5, 0.7)], np.float32)
    weight = (rng.uniform(0.6, 0.9) * cv2.GaussianBlur(stroke, (0, 0), 0.008 * n))[..., None]
    rgb[:] = rgb * (1 - weight) + colour * weight


def bubbles(rng: Rng, overlay: Array) -> None:
    """Bright rings of air in the immersion gel, into an RGBA overlay in place."""
    n = overlay.shape[0]
    ring = np.zeros((n, n), np.float32)
    for _ in range(int(rng.integers(2, 8))):
        centre = tuple(int(c) for c in rng.uniform(0.02, 0.98, 2) * n)
        cv2.circle(ring, centre, max(2, int(rng.uniform(0.015, 0.06) * n)), rng.uniform(0.3, 0.8), max(1, n // 90),
                   cv2.LINE_AA)  # fmt: skip
    overlay[..., :3] = np.where(ring[..., None] > overlay[..., 3:], 0.95, overlay[..., :3])
    overlay[..., 3] = np.maximum(overlay[..., 3], ring)


def ruler(rng: Rng, overlay: Array) -> None:
    """Tick marks along one side, into an RGBA overlay in place."""
    n = overlay.shape[0]
    marks = np.zeros((n, n), np.float32)
    step = max(4, int(rng.uniform(0.035, 0.07) * n))
    for i, at in enumerate(range(int(rng.integers(step)), n, step)):
        cv2.line(marks, (at, 0), (at, int((0.11 if i % 5 == 0 else 0.06) * n)), 1.0, max(1, n // 110))
    marks = np.rot90(marks, int(rng.integers(4)))
    overlay[..., :3] = np.where(marks[..., None] > overlay[..., 3:], rng.choice([0.06, 0.95]), overlay[..., :3])
    overlay[..., 3] = np.maximum(overlay[..., 3], 0.85 * marks)
