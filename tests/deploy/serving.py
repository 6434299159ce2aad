"""A real `derm-t2im serve` in a process of its own, and clients for it."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

JPEG = {"Content-Type": "image/jpeg"}


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """``with Server(model, "--queue", "8") as server: server.post(...)``."""

    def __init__(self, model: Path, *options: str, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "derm_t2im", "serve", "--model", str(model), "--port", "0", *options]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "DERM_T2IM_DEVICE": "cpu", **(env or {})}
        )
        self.said: list[str] = []
        assert self.process.stderr
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"serving on (http://127\.0\.0\.1:(\d+))", line):
                break
        else:
            raise AssertionError("".join(self.said))
        self.url, self.port = found[1], int(found[2])
        self._reader = threading.Thread(target=lambda: self.said.extend(self.process.stderr or ()))
        self._reader.start()

    def __enter__(self) -> Server:
        end = time.monotonic() + 60
        while self.get("/readyz").status != 200:
            assert time.monotonic() < end
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self._reader.join()
            assert self.process.stderr
            self.process.stderr.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        return self.ask("GET", path, None, headers or {})

    def post(self, body: bytes, headers: dict[str, str] = JPEG) -> Reply:
        return self.ask("POST", "/v1/predict", body, headers)

    def send(self, *files: tuple[str, bytes], headers: dict[str, str] | None = None) -> Reply:
        body, kind = form(*files)
        return self.post(body, {**kind, **(headers or {})})

    def ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Reply:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            line.request(method, path, body, headers)
            answer = line.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            line.close()

    def counted(self, name: str) -> float:
        """Sum of a metric over its labels."""
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}(\{{|\s)", line))


def form(*files: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """A multipart body and its header."""
    mark = uuid.uuid4().hex
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in files
    ]
    return b"".join(parts) + f"--{mark}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={mark}"}
