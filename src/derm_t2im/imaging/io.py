"""Reading images that come from anywhere, and writing PNG.

Everything becomes 8-bit RGB where that has one meaning: grey, palette and bilevel images are
expanded, EXIF orientation is applied, transparency lies over white. Where it has not - 16 bits,
CMYK, Lab, several frames - the image is refused with a reason, never guessed at.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from derm_t2im.errors import exhausted, no_memory

if TYPE_CHECKING:
    from PIL import Image

#: Formats that are tried, by Pillow's names; a file's extension does not matter.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")

#: File name extensions (lower case) under which images are looked for.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")

MAX_PIXELS = 100_000_000


class ImageError(Exception):
    """An image that cannot be used: ``reason`` is a machine word, ``detail`` says it for people.

    Reasons: missing_file, empty, unreadable, truncated, too_small, too_large, wrong_mode, animated,
    wrong_size.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason and what it means here."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        """Reason and detail."""
        return f"{self.reason}: {self.detail}"


def read_rgb(path: Path, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> np.ndarray:
    """Read an image as uint8 (h, w, 3) RGB.

    The header is judged before any pixel is decoded, so that a decompression bomb costs nothing.

    Args:
        path: The file; its extension is not believed.
        max_pixels: Most pixels to accept.
        min_side: Least pixels of the shorter side.

    Raises:
        ImageError: with a reason and a detail, for whatever is wrong with the image.
        UserError: if memory or open files run out: the image may be good.
    """
    try:
        if path.stat().st_size == 0:
            raise ImageError("empty", "the file has no bytes")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ImageError("missing_file", "there is no such file") from None
    except (OSError, ValueError) as error:  # a name that no file can have
        if told := exhausted(error):
            raise told from None
        raise ImageError("unreadable", " ".join(str(error).split()).replace(repr(str(path)), "it")) from None
    return _decode(path, max_pixels, min_side)


def decode_rgb(data: bytes, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> np.ndarray:
    """Decode an image file that lies in memory: as :func:`read_rgb`, and nothing touches the disk.

    Raises:
        ImageError: as :func:`read_rgb`, but for ``missing_file``.
    """
    if not data:
        raise ImageError("empty", "the file has no bytes")
    return _decode(BytesIO(data), max_pixels, min_side)


def _decode(source: Path | BinaryIO, max_pixels: int, min_side: int) -> np.ndarray:
    from PIL import Image

    try:
        # Pillow's own pixel limit is ours too, but checked below with our parameter; complaints about odd
        # metadata say nothing about the pixels. Not by `catch_warnings`: images are read in threads as well.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        with Image.open(source, formats=FORMATS) as image:
            _check_header(image, max_pixels, min_side)
            return _to_rgb(image)
    except ImageError:
        raise
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ImageError("missing_file", "there is no such file") from None
    except Image.DecompressionBombError:
        raise ImageError(
            "too_large", f"over {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, whatever max_pixels is: shrink it"
        ) from None
    except Exception as error:  # decoders raise all manner of types for broken bytes
        if told := exhausted(error) or no_memory():  # a decoder calls an image broken where it gets none
            raise told from None
        if isinstance(error, Image.UnidentifiedImageError):
            raise ImageError("unreadable", "no image of a format that is read, or its header is broken") from None
        system = error.strerror if isinstance(error, OSError) else None  # its text alone names the path
        text = " ".join(str(system or error).split()) or type(error).__name__
        cut = any(word in text.lower() for word in ("truncated", "not processed", "unexpected end", "broken data"))
        raise ImageError("truncated" if cut else "unreadable", text) from None


def _check_header(image: Image.Image, max_pixels: int, min_side: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            "too_large", f"{width} x {height} pixels, over max_pixels, {max_pixels:,}: shrink it, or raise that"
        )
    if min(width, height) < min_side:
        raise ImageError("too_small", f"{width} x {height} pixels, a side is under {min_side}")
    frames = getattr(image, "n_frames", 1)
    # An MPO is a JPEG with a preview behind it: its first frame is the picture.
    if frames > 1 and image.format != "MPO":
        raise ImageError("animated", f"{frames} frames")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ImageError("wrong_mode", f"mode {image.mode}: export it as 8-bit RGB")
    # Pillow reads 16-bit RGB as RGB and drops the low bytes: the tile's raw mode tells.
    if image.format in ("PNG", "TIFF") and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        raise ImageError("wrong_mode", "16 bits per channel: export it as 8-bit RGB")


def _to_rgb(image: Image.Image) -> np.ndarray:
    from PIL import Image, ImageOps

    image.load()
    turned = ImageOps.exif_transpose(image)
    if turned.mode in ("LA", "PA", "RGBA") or "transparency" in turned.info:
        turned = turned.convert("RGBA")
        white = Image.new("RGBA", turned.size, (255, 255, 255, 255))
        turned = Image.alpha_composite(white, turned)
    return np.array(turned.convert("RGB"), dtype=np.uint8)


def read_batches(paths: Sequence[Path | str], size: int = 64) -> Iterator[np.ndarray]:
    """Images of one size, at most ``size`` at a time; else as :func:`read_stack`."""
    for start in range(0, len(paths), size):
        yield read_stack(paths[start : start + size])


def read_stack(paths: Sequence[Path | str], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read images of one size as uint8 (n, h, w, 3) RGB; (0, 0, 0, 3) for no paths.

    Raises:
        ImageError: as :func:`read_rgb`, and ``wrong_size`` where an image differs from the first;
            the detail names the file.
    """
    stack: np.ndarray | None = None
    for i, path in enumerate(paths):
        try:
            rgb = read_rgb(Path(path), max_pixels)
        except ImageError as error:
            raise ImageError(error.reason, f"{path}: {error.detail}") from None
        if stack is None:
            stack = np.empty((len(paths), *rgb.shape), dtype=np.uint8)
        if rgb.shape != stack.shape[1:]:
            raise ImageError("wrong_size", f"{path}: {rgb.shape[1]} x {rgb.shape[0]} pixels, unlike {paths[0]}")
        stack[i] = rgb
    return np.empty((0, 0, 0, 3), dtype=np.uint8) if stack is None else stack


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 (h, w, 3) RGB, or a mask as uint8 or bool (h, w), as PNG: whole or not at all."""
    import cv2

    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise ValueError(f"write_png takes uint8 or bool images, not {pixels.dtype} {pixels.shape}")
    if pixels.ndim == 3:
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    # A rename without fsync: thousands of small files, and a killed process is all there is to survive.
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(encoded.tobytes())
    partial.replace(path)


def square(rgb: np.ndarray, size: int) -> np.ndarray:
    """The centre of an image, cropped square and resized to (size, size); antialiased when shrunk.

    Works on uint8 images (h, w, 3) and on masks (h, w), which come back as bool.
    """
    import cv2

    height, width = rgb.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = np.ascontiguousarray(rgb[top : top + side, left : left + side])
    method = cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC
    if rgb.dtype == bool:
        share = cv2.resize(crop.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        return share > 0.5
    if side == size:
        return crop
    return cv2.resize(crop, (size, size), interpolation=method)


def file_name(image_id: str, suffix: str) -> str:
    """A safe file name for an image; different ids never share one, not even where case is ignored."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", image_id).lstrip(".")[:100]
    if safe != image_id or image_id != image_id.lower():
        safe += "-" + hashlib.sha256(image_id.encode()).hexdigest()[:8]
    return safe + suffix.lower()
