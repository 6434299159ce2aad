"""Images straight from a zip: nothing is unpacked by the names that the zip gives, nothing without bound.

What a header says is checked before reading, and again by what comes out. Ratio and size follow
from the bounds here, and the total with them: an entry gives at most :data:`MAX_RATIO` times its
compressed bytes, and the compressed bytes of all entries together cannot exceed the file.
Overlapping entries (Fifield, A better zip bomb, WOOT 2019) break that sum and are refused.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from derm_t2im.errors import UserError, exhausted
from derm_t2im.imaging.io import EXTENSIONS, ImageError

#: Most bytes of one image.
MAX_ENTRY = 256 * 2**20
#: Most bytes out per byte in, beyond the first megabyte: images hardly shrink in a zip.
MAX_RATIO = 100
FREE = 2**20

_open: dict[Path, zipfile.ZipFile] = {}  # the directory of a large zip is not read anew for each image


@dataclass(frozen=True)
class Entry:
    """An image in a zip, or why it is none of ours."""

    name: str
    reason: str = ""
    detail: str = ""


def images(path: Path) -> list[Entry]:
    """The image entries of a zip, those that must not be read with a reason.

    Reasons: outside_folder (a name that leads out, a link), encrypted, zip_bomb.

    Raises:
        UserError: if the file is no zip that can be read, or its entries overlap.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise UserError(f"{path.name} is no zip that can be read ({error}): fetch it again, or take it away.") from None
    if sum(info.compress_size for info in infos) > path.stat().st_size:
        raise UserError(f"{path.name} claims more bytes than it has, as a zip bomb does: it was not read.")
    return [_judge(info) for info in sorted(infos, key=lambda info: info.filename) if _is_image(info.filename)]


def _is_image(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    hidden = any(part.startswith(".") and part != ".." for part in parts)
    return PurePosixPath(name).suffix.lower() in EXTENSIONS and not hidden


def _judge(info: zipfile.ZipInfo) -> Entry:
    name = info.filename
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return Entry(name, "outside_folder", f"the zip's entry {name} leads out of it")
    if stat.S_ISLNK(info.external_attr >> 16):
        return Entry(name, "outside_folder", f"the zip's entry {name} is a link")
    if info.flag_bits & 0x1:
        return Entry(name, "encrypted", f"the zip's entry {name} is encrypted: unpack it yourself")
    if info.file_size > _bound(info):
        return Entry(name, "zip_bomb", f"{info.compress_size} bytes in the zip claim to be {info.file_size}")
    return Entry(name)


def _bound(info: zipfile.ZipInfo) -> int:
    return min(MAX_ENTRY, FREE + MAX_RATIO * info.compress_size)


def extract(path: Path, name: str, target: Path) -> None:
    """Write one entry's bytes to ``target``.

    Raises:
        ImageError: ``unreadable`` for bytes that do not unpack or fail their checksum, ``zip_bomb``.
        OSError: if ``target`` cannot be written.
    """
    if path not in _open:
        while len(_open) >= 8:
            _open.pop(next(iter(_open))).close()
        _open[path] = zipfile.ZipFile(path)
    info = _open[path].getinfo(name)
    left = _bound(info)
    with target.open("wb") as out:
        try:
            with _open[path].open(info) as entry:
                while block := _read(entry, name):
                    left -= len(block)
                    if left < 0:
                        raise ImageError("zip_bomb", f"{name} unpacks to more than {_bound(info)} bytes")
                    out.write(block)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise ImageError("unreadable", f"{name} in {path.name}: {error}") from None


def _read(entry: IO[bytes], name: str) -> bytes:
    try:
        return entry.read(2**16)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
        if told := exhausted(error):
            raise told from None
        raise ImageError("unreadable", f"{name} in the zip: {' '.join(str(error).split()) or 'cut short'}") from None


def close() -> None:
    """Close the zips that :func:`extract` keeps open in this process."""
    while _open:
        _open.popitem()[1].close()
