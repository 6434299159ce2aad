"""A request's body as images in memory: bounded while it is read, never on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

from derm_t2im.deploy.serve.limits import Limits, Room

if TYPE_CHECKING:
    from fastapi import Request

RETRY_SECONDS = 1
NAME = 200  # characters of a file's name that are said again


class Refused(Exception):
    """A request that is not answered with predictions: ``status``, ``error`` (a machine word), ``detail``."""

    def __init__(self, status: int, error: str, detail: str, retry: int | None = None) -> None:
        """Keep why, and after how many seconds another try makes sense."""
        super().__init__(status, error, detail)
        self.status = status
        self.error = error
        self.detail = detail
        self.headers = {} if retry is None else {"Retry-After": str(retry)}


class Upload(NamedTuple):
    """One image file as it came; ``name`` is what the client calls it."""

    name: str
    data: bytes


class Place:
    """The room that one request takes: a context that gives all of it back."""

    def __init__(self, room: Room) -> None:
        """No room taken yet."""
        self._room = room
        self._images = self._bytes = 0

    def __enter__(self) -> Place:
        """The place itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give all back."""
        self._room.leave(self._images, self._bytes)

    def hold(self, images: int, size: int) -> None:
        """Hold at least this many images and bytes.

        Raises:
            Refused: 429, if there is no room.
        """
        more, larger = max(0, images - self._images), max(0, size - self._bytes)
        if not self._room.enter(more, larger):
            raise Refused(429, "queue_full", "the service is busy: try again in a moment.", RETRY_SECONDS)
        self._images += more
        self._bytes += larger


async def uploads(request: Request, limits: Limits, place: Place) -> list[Upload]:
    """The images of a request: the file parts of a form, or the body itself.

    Raises:
        Refused: for a body that is too large, too slow, of another kind, broken or empty.
    """
    from python_multipart.multipart import parse_options_header

    kind, options = parse_options_header(request.headers.get("content-type", ""))
    form: _Form | None = None
    if kind == b"multipart/form-data":
        form = _Form(options.get(b"boundary", b""), limits, place)
    elif not (kind.startswith(b"image/") or kind == b"application/octet-stream"):
        said = kind.decode("latin-1")[:NAME] or "missing"
        raise Refused(
            415, "unsupported_media_type",
            f"the content type is {said}: send an image as image/jpeg, image/png, ... or application/octet-stream, "
            "or several as files in multipart/form-data.",
        )  # fmt: skip
    declared = request.headers.get("content-length", "")
    expected = int(declared) if declared.isdigit() else 0
    _check_size(expected, limits)
    place.hold(1, expected)
    body = bytearray()
    size = 0
    try:
        async with asyncio.timeout(limits.read_seconds):
            async for chunk in _chunks(request):
                size += len(chunk)
                _check_size(size, limits)
                place.hold(1, size)
                if form is None:
                    body += chunk
                elif chunk:
                    form.write(chunk)
    except TimeoutError:
        raise Refused(
            408, "too_slow", f"the body did not arrive within {limits.read_seconds:g} s: send fewer bytes."
        ) from None
    return [Upload("", bytes(body))] if form is None else form.finished()


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """The body; the request remembers when all of it has come, since asking for more would wait for nothing."""
    while not _is_whole(request):
        message = await request.receive()
        if message["type"] != "http.request":
            raise Refused(400, "gone", "the client went away.")
        request.state.whole = not message.get("more_body", False)
        yield message.get("body", b"")


def _is_whole(request: Request) -> bool:
    return bool(getattr(request.state, "whole", False))


async def pass_over(request: Request, limits: Limits) -> None:
    """Read on and keep nothing: a client that still sends would otherwise miss the answer.

    Only so much and so long as a request may be; a client that asks first (``Expect``) has sent nothing.
    """
    if "expect" in request.headers:
        return
    left = limits.max_bytes
    try:
        async with asyncio.timeout(min(limits.read_seconds, 10)):
            async for chunk in _chunks(request):
                left -= len(chunk)
                if left <= 0:
                    return
    except (TimeoutError, Refused):
        return


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.max_bytes:
        raise Refused(
            413, "too_many_bytes", f"the request has over {limits.max_bytes} bytes: send smaller images, or fewer."
        )


class _Form:
    """The file parts of a multipart body, while it comes in."""

    def __init__(self, boundary: bytes, limits: Limits, place: Place) -> None:
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser

        if not boundary:
            raise Refused(400, "bad_form", "multipart/form-data without a boundary.")
        self._errors: Any = FormParserError
        self._limits, self._place = limits, place
        self._found: list[tuple[str, bytearray]] = []
        self._header, self._value, self._disposition = b"", b"", b""
        self._in_file = self._ended = False
        names = (
            "part_begin", "part_data", "header_field", "header_value", "header_end", "headers_finished", "end",
        )  # fmt: skip
        callbacks: Any = {f"on_{name}": getattr(self, f"_{name}") for name in names}
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise Refused(400, "bad_form", f"the form cannot be read: {error}") from None

    def write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except self._errors as error:
            raise Refused(400, "bad_form", f"the form cannot be read: {' '.join(str(error).split())}") from None

    def finished(self) -> list[Upload]:
        if not self._ended:
            raise Refused(400, "bad_form", "the form breaks off before its closing boundary.")
        if not self._found:
            raise Refused(400, "no_image", "the form holds no file: send each image as a file, in the field images.")
        return [Upload(name, bytes(data)) for name, data in self._found]

    # What the parser calls.

    def _part_begin(self) -> None:
        self._disposition, self._in_file = b"", False

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _headers_finished(self) -> None:
        from python_multipart.multipart import parse_options_header

        options = parse_options_header(self._disposition)[1]
        self._in_file = b"filename" in options
        if not self._in_file:
            return
        if len(self._found) == self._limits.max_images:
            raise Refused(413, "too_many_images", f"the form has over {self._limits.max_images} images: send fewer.")
        self._place.hold(len(self._found) + 1, 0)
        name = options[b"filename"].decode("utf-8", "replace")[:NAME]
        self._found.append((name, bytearray()))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._found[-1][1].extend(data[start:end])

    def _end(self) -> None:
        self._ended = True
