"""The ISIC Archive's API, version 2, as far as it is documented, played on 127.0.0.1 with all its troubles.

Shapes as in the API's schema: a page has results, count, next, previous; an image has isic_id,
copyright_license, attribution, files.full.{url, size} and metadata.clinical.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
from PIL import Image

DIAGNOSES = (
    ["Benign", "Benign melanocytic proliferations", "Nevus", "Nevus, Atypical, Dysplastic, or Clark"],
    ["Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma Invasive"],
)


def jpeg(k: int) -> bytes:
    buffer = BytesIO()
    pixels = np.random.default_rng(k).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def name(k: int) -> str:
    return f"ISIC_{k:07d}"


Answer = Callable[["Handler", bytes], None]


@dataclass
class Archive:
    """What the server holds and how it behaves; ``trouble`` maps an image's id to answers, used up one by one."""

    images: int = 12
    page: int = 5
    delay: float = 0.0
    trouble: dict[str, list[Answer]] = field(default_factory=dict)
    pages: list[Answer] = field(default_factory=list)
    url: str = ""
    next_host: str = ""  # that the links to the next page name, where it is not ours
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    version: int = 0  # of the signed addresses: others are refused
    log: list[tuple[float, str]] = field(default_factory=list)

    def asked(self) -> Counter[str]:
        return Counter(urlsplit(path).path for _, path in self.log)

    def fetched(self) -> Counter[str]:
        return Counter({k.split("/")[-1][:-4]: n for k, n in self.asked().items() if k.startswith("/files/")})

    def describe(self, k: int) -> dict[str, Any]:
        levels = DIAGNOSES[k % 3 == 0]
        clinical: dict[str, Any] = {f"diagnosis_{n}": text for n, text in enumerate(levels, 1)}
        clinical |= {"age_approx": 40 + k, "sex": "female", "anatom_site_general": "anterior torso"}
        clinical |= {"lesion_id": f"IL_{k // 2:07d}", "patient_id": f"IP_{k // 4:07d}"}
        url = f"{self.url}/files/{name(k)}.jpg?Signature={self.version}"
        image = {
            "isic_id": name(k), "public": True, "copyright_license": "CC-BY" if k % 2 else "CC-0",
            "attribution": f"Clinic {k % 2}",
            "files": {"full": {"url": url, "size": len(jpeg(k))}, "thumbnail_256": {"url": url, "size": 9}},
            "metadata": {"acquisition": {"pixels_x": 32, "pixels_y": 24}, "clinical": clinical},
        }  # fmt: skip
        return image | self.overrides.get(name(k), {})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    archive: Archive

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        archive = self.archive
        archive.log.append((time.monotonic(), self.path))
        time.sleep(archive.delay)
        parts = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path == "/api/v2/images/search/":
            self.search(asked)
        elif parts.path.startswith("/api/v2/images/"):
            self.json(archive.describe(int(parts.path.strip("/")[-7:])))
        elif parts.path.startswith("/files/"):
            image_id = parts.path[7:-4]
            body = jpeg(int(image_id[-7:]))
            waiting = archive.trouble.get(image_id, [])
            if waiting:
                (waiting.pop(0) if len(waiting) > 1 or not getattr(waiting[0], "forever", False) else waiting[0])(
                    self, body
                )
            elif asked.get("Signature") != str(archive.version):
                self.status(403)(self, b"")
            else:
                self.whole(self, body)
        else:
            self.status(404)(self, b"")

    def search(self, asked: dict[str, str]) -> None:
        archive = self.archive
        if archive.pages:
            return archive.pages.pop(0)(self, b"")
        if asked.get("query") == "(":
            return self.json({"message": "Couldn't parse search query."}, 400)
        start = int(base64.b64decode(asked["cursor"])) if "cursor" in asked else 0
        stop = start + min(archive.page, int(asked.get("limit", 100)))
        more = {**asked, "cursor": base64.b64encode(str(stop).encode()).decode()}
        link = f"{archive.next_host or archive.url}/api/v2/images/search/?{urlencode(more)}"
        self.json(
            {
                "results": [archive.describe(k) for k in range(start, min(stop, archive.images))],
                "count": None if start else archive.images,
                "next": link if stop < archive.images else None,
                "previous": None,
            }
        )
        return None

    def json(self, value: Any, code: int = 200) -> None:
        self.send(code, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, code: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(code)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    # Answers to choose from ------------------------------------------------------------------------

    @staticmethod
    def whole(handler: Handler, body: bytes) -> None:
        handler.send(200, body)

    @staticmethod
    def cut(handler: Handler, body: bytes) -> None:
        """The connection ends in the middle of the body."""
        handler.send(200, body[: len(body) // 2], length=len(body))
        handler.close_connection = True

    @staticmethod
    def corrupt(handler: Handler, body: bytes) -> None:
        """As long as it should be, and no image."""
        handler.send(200, bytes(len(body)))

    @staticmethod
    def short(handler: Handler, body: bytes) -> None:
        """A proxy's half with a Content-Length to match."""
        handler.send(200, body[:-40])

    @staticmethod
    def wrong_digest(handler: Handler, body: bytes) -> None:
        handler.send(200, body, {"Content-MD5": base64.b64encode(bytes(16)).decode()})

    @staticmethod
    def status(code: int, **headers: str) -> Answer:
        def answer(handler: Handler, body: bytes) -> None:
            handler.send(code, b"", {key.replace("_", "-"): value for key, value in headers.items()})

        return answer

    @staticmethod
    def always(answer: Answer) -> Answer:
        def again(handler: Handler, body: bytes) -> None:
            answer(handler, body)

        again.forever = True  # type: ignore[attr-defined]
        return again


@contextmanager
def serving(archive: Archive) -> Iterator[Archive]:
    handler = type("Bound", (Handler,), {"archive": archive})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    archive.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
