"""Phantoms: rendered dermoscopic test images with known truth.

Lesions follow the ABCD rule of dermoscopy (Stolz et al. 1994: asymmetry, border, colour,
dermoscopic structures) as overlapping distributions: each feature of an image is normal with unit
variance around a mean that depends on the class, so the best possible accuracy is known and below
100 %. Three :class:`Style` settings stand for three places: clinic A (the pool), clinic B (an
external domain: other optics, colour, framing, noise) and ``BROAD``, which reaches past both and
belongs to neither; the embedded base model has seen ``BROAD`` only.

Phantoms test the machinery. They are no clinical evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np

from derm_t2im import seeds
from derm_t2im.sources import phantom_parts as parts
from derm_t2im.state import hash_file
from derm_t2im.vocabulary import SITES, SIZES, TONES, size_of, tone_of

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.params.acquire import Acquire

Label = Literal["benign", "malignant"]
Range = tuple[float, float]

# Distance of the class means in standard deviations. The sum of squares, 4.1 squared, gives a best
# possible accuracy of Phi(4.1 / 2) = 98 % to whoever sees the features; 64 pixels show them less well.
SEPARATION = {"asymmetry": 2.0, "border": 2.0, "colour": 2.1, "structure": 2.0, "diameter": 0.5}

AREAS = {"tiny": (0.014, 0.038), "small": (0.042, 0.095), "medium": (0.105, 0.21), "large": (0.23, 0.40)}
TONE_RANGES = {name: (max(low, -55.0) + 2.0, high - 2.0) for (name, low), high in zip(
    TONES.items(), [68.0, *list(TONES.values())[:-1]], strict=True)}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """How one place takes its images: ranges from which each image draws uniformly."""

    name: str
    tones: tuple[float, ...] = (1 / 6,) * 6  # shares of the six skin tones, light to dark
    counts: tuple[float, ...] = (0.8, 0.12, 0.08)  # shares of one, two, three lesions
    size_follows_class: bool = True
    gain_red: Range = (1.0, 1.0)
    gain_blue: Range = (1.0, 1.0)
    redness: Range = (-2.0, 3.0)  # added to a* of the skin
    yellowness: Range = (-2.0, 2.0)  # added to b* of the skin
    exposure: Range = (0.97, 1.03)
    gradient: Range = (0.0, 0.06)
    vignette: Range = (0.0, 0.1)
    dark_corner: float = 0.0  # share of images with a black round frame
    zoom: Range = (0.95, 1.05)
    offset: Range = (0.0, 0.12)
    blur: Range = (0.0, 0.004)  # standard deviation as a share of the image's side
    noise: Range = (0.005, 0.012)
    jpeg: tuple[int, int] = (92, 100)
    texture: Range = (0.5, 1.0)
    vessels: float = 0.1
    bubbles: float = 0.05
    ruler: float = 0.0
    ink: float = 0.0
    hair_count: tuple[int, int] = (2, 12)
    light_hair: float = 0.15


CLINIC_A = Style(
    "phantom-clinic-a",
    tones=(0.18, 0.22, 0.2, 0.17, 0.14, 0.09),
    gain_red=(1.0, 1.04),
    gain_blue=(0.94, 1.0),
)
CLINIC_B = Style(
    "phantom-clinic-b",
    tones=(0.12, 0.16, 0.18, 0.2, 0.2, 0.14),
    gain_red=(0.93, 0.99),
    gain_blue=(1.02, 1.1),
    redness=(1.0, 6.0),
    exposure=(0.9, 1.05),
    gradient=(0.03, 0.14),
    vignette=(0.08, 0.25),
    dark_corner=0.25,
    zoom=(0.8, 0.98),
    offset=(0.05, 0.22),
    blur=(0.003, 0.009),
    noise=(0.012, 0.03),
    jpeg=(55, 85),
    texture=(0.7, 1.4),
    vessels=0.2,
    bubbles=0.12,
)
BROAD = Style(
    "phantom-broad",
    counts=(0.64, 0.2, 0.16),
    size_follows_class=False,
    gain_red=(0.85, 1.15),
    gain_blue=(0.8, 1.25),
    redness=(-5.0, 22.0),
    yellowness=(-18.0, 6.0),
    exposure=(0.8, 1.15),
    gradient=(0.0, 0.3),
    vignette=(0.0, 0.4),
    dark_corner=0.2,
    zoom=(0.75, 1.15),
    offset=(0.0, 0.3),
    blur=(0.0, 0.012),
    noise=(0.0, 0.03),
    jpeg=(60, 100),
    texture=(0.3, 2.5),
    vessels=0.4,
    bubbles=0.2,
    ruler=0.05,
    ink=0.05,
    hair_count=(1, 22),
)
STYLES = {style.name: style for style in (CLINIC_A, CLINIC_B, BROAD)}


@dataclass(frozen=True)
class Phantom:
    """One rendered image with its truth.

    ``image``, ``clean`` (the same without hair) are uint8 (size, size, 3) RGB; ``lesion`` and
    ``hair`` are bool (size, size).
    """

    image: np.ndarray
    clean: np.ndarray
    lesion: np.ndarray
    hair: np.ndarray
    label: Label
    size: str
    area: float  # share of the image that is lesion
    count: int
    tone: str
    ita: float  # degrees, of the skin before the optics
    site: str
    bayes: float  # P(malignant | features)
    artefacts: tuple[str, ...] = field(default=())


def render(
    style: Style,
    *seed: int | str,
    size: int = 64,
    label: Label | None = None,
    size_word: str | None = None,
    count: int | None = None,
    tone: str | None = None,
    hair: float = 0.3,
    malignant: float = 0.5,
) -> Phantom:
    """Render one phantom; the same seed gives the same image at any batch or order.

    Args:
        style: Where it is taken.
        seed: Any numbers and names, see :func:`derm_t2im.seeds.derive`.
        size: Side of the image in pixels (32 to 512).
        label: Class; drawn with probability ``malignant`` where not given.
        size_word: ``tiny``, ``small``, ``medium`` or ``large``; drawn where not given.
        count: Number of lesions, 1 to 3; drawn where not given.
        tone: One of the six skin tones; drawn where not given.
        hair: Share of images with hair.
        malignant: Share of malignant images.
    """
    rng = seeds.generator(*seed)
    drawn_label: Label = "malignant" if rng.random() < malignant else "benign"
    label = label or drawn_label
    side = 1.0 if label == "malignant" else -1.0
    z = {name: side * d / 2 + rng.standard_normal() for name, d in SEPARATION.items()}
    odds = sum(d * z[name] for name, d in SEPARATION.items() if name != "diameter" or style.size_follows_class)
    bayes = 1 / (1 + math.exp(-odds - math.log(malignant / (1 - malignant))))

    drawn_count = int(rng.choice([1, 2, 3], p=np.array(style.counts) / sum(style.counts)))
    count = count or drawn_count
    drawn_tone = str(rng.choice(list(TONES), p=np.array(style.tones) / sum(style.tones)))
    ita = rng.uniform(*TONE_RANGES[tone or drawn_tone])
    site = str(rng.choice(SITES))
    area = _area(rng, style, z["diameter"], size_word)
    if count > 1:
        area = min(area, 0.27)

    scale = 2 if size <= 128 else 1
    n = size * scale
    grid = parts.Grid.make(n, rng.uniform(*style.zoom))
    lab, skin_lab = parts.skin(rng, grid, ita, rng.uniform(*style.redness), rng.uniform(*style.yellowness),
                               rng.uniform(*style.texture), site == "acral", rng.random() < style.vessels)  # fmt: skip
    features = {name: 1 / (1 + math.exp(-1.3 * value)) for name, value in z.items()}
    alpha = np.zeros((n, n), np.float32)
    for centre, radius in parts.places(rng, count, area / grid.extent**2, rng.uniform(*style.offset)):
        alpha = np.maximum(alpha, parts.lesion(rng, grid, lab, skin_lab, centre, radius, features))
    rgb = parts.to_rgb(lab)
    artefacts: list[str] = []
    if rng.random() < style.ink:
        parts.ink(rng, rgb)
        artefacts.append("ink")
    clean, cover = rgb, np.zeros((n, n), np.float32)
    if rng.random() < hair:
        rgb, cover = parts.hair(rng, rgb, int(rng.integers(style.hair_count[0], style.hair_count[1] + 1)),
                                rng.random() < style.light_hair)  # fmt: skip
        if parts.shrink(cover, scale).max() > 0.25:  # else every hair ran outside the picture
            artefacts.append("hair")
    optics = _optics(rng, style, grid, artefacts)
    lesion_mask, hair_mask = parts.shrink(alpha, scale) > 0.5, parts.shrink(cover, scale) > 0.25
    image = optics(rgb, scale)
    return Phantom(
        image=image,
        clean=optics(clean, scale) if "hair" in artefacts else image,
        lesion=lesion_mask,
        hair=hair_mask,
        label=label,
        size=size_of(float(lesion_mask.mean())),
        area=float(lesion_mask.mean()),
        count=count,
        tone=tone_of(ita),
        ita=ita,
        site=site,
        bayes=bayes,
        artefacts=tuple(artefacts),
    )


def _area(rng: np.random.Generator, style: Style, z: float, size_word: str | None) -> float:
    """Share of the image covered by lesion."""
    if size_word is None and style.size_follows_class:
        return float(np.clip(math.exp(-2.1 + 0.62 * z), 0.015, 0.40))
    word = size_word or str(rng.choice(list(SIZES)))
    low, high = AREAS[word]
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def _optics(rng: np.random.Generator, style: Style, grid: parts.Grid, artefacts: list[str]):
    """Draw the optics of one image; returns a function that applies them (noise included)."""
    gains = np.array([rng.uniform(*style.gain_red), 1.0, rng.uniform(*style.gain_blue)], np.float32)
    gains *= rng.uniform(*style.exposure)
    angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(*style.gradient)
    n = grid.n
    axis = np.linspace(-1, 1, n, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    shade = 1 + slope * (x * math.cos(angle) + y * math.sin(angle)) - rng.uniform(*style.vignette) * (x**2 + y**2) / 2
    overlay = np.zeros((n, n, 4), np.float32)
    if rng.random() < style.bubbles:
        parts.bubbles(rng, overlay)
        artefacts.append("gel_bubble")
    if rng.random() < style.ruler:
        parts.ruler(rng, overlay)
        artefacts.append("ruler")
    if rng.random() < style.dark_corner:
        frame = np.clip((np.hypot(x, y) - rng.uniform(1.0, 1.25)) / 0.04, 0, 1)
        shade = shade * (1 - 0.95 * frame)
        artefacts.append("dark_corner")
    blur, noise = rng.uniform(*style.blur), rng.uniform(*style.noise)
    quality = int(rng.integers(style.jpeg[0], style.jpeg[1] + 1))
    noise_seed = int(rng.integers(2**63))

    def apply(rgb: np.ndarray, scale: int) -> np.ndarray:
        out = rgb * (1 - overlay[..., 3:]) + overlay[..., :3] * overlay[..., 3:]
        out = out * (gains * shade[..., None])
        if blur * n > 0.3:
            out = cv2.GaussianBlur(out, (0, 0), blur * n)
        out = parts.shrink(out, scale)
        grain = np.random.default_rng(noise_seed).standard_normal(out.shape, dtype=np.float32)
        out = np.clip((out + noise * grain) * 255 + 0.5, 0, 255).astype(np.uint8)
        if quality < 97:
            _, code = cv2.imencode(".jpg", out[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
            out = np.ascontiguousarray(np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1])
        return out

    return apply


def collect(settings: Acquire, role: Literal["pool", "external"], folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Render the phantoms of one clinic below ``folder``: clinic A for the pool, B for the external set.

    Returns:
        The manifest's rows, and an empty quarantine table.
    """
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial
    from multiprocessing import get_context

    import pandas as pd

    from derm_t2im import manifest, progress, runtime

    style = CLINIC_A if role == "pool" else CLINIC_B
    total = settings.phantom.images if role == "pool" else settings.phantom.external_images
    limit = settings.limit if role == "pool" else settings.external.limit
    total = min(total, limit) if limit else total
    for name in ("images", "truth"):
        (folder / name / role).mkdir(parents=True, exist_ok=True)
    work = partial(_save, settings.seed, style.name, settings.phantom.size, settings.phantom.hair,
                   settings.phantom.malignant, role, folder)  # fmt: skip
    ids = [f"{style.name}-{i:06d}" for i in range(total)]
    # spawn: a fork of a process that has started threads may hang
    with ProcessPoolExecutor(runtime.workers(), mp_context=get_context("spawn")) as pool:
        results = pool.map(work, ids, chunksize=32)
        rows = list(progress.track(results, f"render {style.name}", total=len(ids)))
    quarantine = manifest.empty(["image_id", "path", "kind", "label", "reason", "detail"])
    return (pd.DataFrame(rows) if rows else manifest.empty(["image_id", "path", "kind", "label", "role"])), quarantine


def _save(
    seed: int, style: str, size: int, hair: float, malignant: float, role: str, folder: Path, image_id: str
) -> dict[str, object]:
    phantom = render(STYLES[style], seed, image_id, size=size, hair=hair, malignant=malignant)

    def png(kind: str, name: str, pixels: np.ndarray) -> Path:
        path = folder / kind / role / f"{name}.png"
        coded = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels.astype(np.uint8) * 255)[1]
        path.write_bytes(coded.tobytes())  # unlike cv2.imwrite this says when the disk is full
        return path

    path = png("images", image_id, phantom.image)
    hairy = bool(phantom.hair.any())
    return {
        "image_id": image_id,
        "path": path.as_posix(),
        "sha256": hash_file(path),
        "kind": "real",
        "label": phantom.label,
        "dx": phantom.label,
        "source": style,
        "role": role,
        "lesion_id": image_id,
        "site": phantom.site,
        "licence": "CC0-1.0",
        "attribution": "derm-t2im phantom",
        "width": size,
        "height": size,
        "truth_area": phantom.area,
        "truth_count": phantom.count,
        "truth_ita": phantom.ita,
        "truth_tone": phantom.tone,
        "truth_size": phantom.size,
        "truth_hair": float(phantom.hair.mean()),
        "truth_bayes": phantom.bayes,
        "truth_artefacts": ",".join(phantom.artefacts),
        "mask_path": png("truth", f"{image_id}-lesion", phantom.lesion).as_posix(),
        "hair_path": png("truth", f"{image_id}-hair", phantom.hair).as_posix() if hairy else None,
        "clean_path": png("truth", f"{image_id}-clean", phantom.clean).as_posix() if hairy else None,
    }
