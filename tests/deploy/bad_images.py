"""Each kind of image that cannot be used, as bytes, with the reasons that may be given."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def encoded(form: str, image: Image.Image | None = None, **options: object) -> bytes:
    out = io.BytesIO()
    (image or Image.fromarray(PICTURE)).save(out, form, **options)  # type: ignore[arg-type]
    return out.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb() -> bytes:
    """A few bytes that claim 20,000 x 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def wrong_checksum() -> bytes:
    """A PNG whose pixels decode and whose checksum says that they are not what was written."""
    data = bytearray(encoded("PNG"))
    length = struct.unpack(">I", data[data.index(b"IDAT") - 4 : data.index(b"IDAT")])[0]
    data[data.index(b"IDAT") + 4 + length] ^= 0xFF
    return bytes(data)


BAD: dict[str, tuple[bytes, set[str]]] = {
    "empty": (b"", {"empty"}),
    "text": (b"no image", {"unreadable"}),
    "truncated": (encoded("JPEG")[:900], {"truncated"}),
    "checksum": (wrong_checksum(), {"unreadable"}),
    "animated": (
        encoded("GIF", save_all=True, append_images=[Image.fromarray(255 - PICTURE)]),
        {"animated"},
    ),
    "sixteen": (cv2.imencode(".png", PICTURE.astype(np.uint16) * 257)[1].tobytes(), {"wrong_mode"}),
    "cmyk": (encoded("JPEG", Image.fromarray(PICTURE).convert("CMYK")), {"wrong_mode"}),
    "bomb": (bomb(), {"too_large"}),
    "one pixel": (encoded("PNG", Image.new("RGB", (1, 1))), {"too_small"}),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {"unreadable"}),
}
GOOD: dict[str, bytes] = {
    "palette": encoded("PNG", Image.fromarray(PICTURE).convert("P")),
    "grey": encoded("PNG", Image.fromarray(PICTURE).convert("L")),
    "alpha": encoded("PNG", Image.fromarray(PICTURE).convert("RGBA")),
    "jpeg": encoded("JPEG"),
}
