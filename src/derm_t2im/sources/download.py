"""Fetching over HTTP as a good guest: a rate, a word to wait that is heeded, no foreign host, whole files.

Transient trouble (429, 5xx, a cut connection, bytes that are no image) is tried again with growing,
jittered pauses (Retry-After where the server gives one); what remains is :class:`Failed`, with a reason.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from derm_t2im import seeds
from derm_t2im.errors import UserError, no_room
from derm_t2im.imaging.io import ImageError

if TYPE_CHECKING:
    import requests

    from derm_t2im.params.acquire import Isic

T = TypeVar("T")

AGENT = "derm-t2im/0.1 (python-requests)"
LONGEST_WAIT = 300.0  # seconds that a server may ask for before this is the user's to decide
LONGEST_PAUSE = 60.0  # seconds that our own pauses grow to
MOST_JSON = 64 * 2**20  # bytes of one answer
MOST_IMAGE = 512 * 2**20
REDIRECTS = 5
PASSING = (408, 425, 429, 500, 502, 503, 504)


class Failed(Exception):
    """A request that is of no use to try again; ``reason`` is a machine word, ``detail`` says it for people.

    Reasons: not_found, refused, foreign_host, corrupt_download, unavailable.
    """

    def __init__(self, reason: str, detail: str, status: int = 0) -> None:
        """Keep the reason, what it means here, and the server's status if it gave one."""
        super().__init__(reason, detail)
        self.reason, self.detail, self.status = reason, detail, status


class _Again(Exception):
    """Worth another try, after so many seconds if the server named them."""

    def __init__(self, reason: str, detail: str, wait: float | None = None) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.wait = reason, detail, wait


class Stopped(Exception):
    """Another thread has met an end."""


class Client:
    """One session for all threads, with one rate.

    Args:
        how: Rate, tries, pauses, and the hosts that images may come from beside the API's own.
        seed: Of the jitter, which touches no result.
    """

    def __init__(self, how: Isic, seed: int = 0) -> None:
        """Open the session."""
        import requests
        from requests.adapters import HTTPAdapter

        self._how, self._seed = how, seed
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": AGENT, "Accept-Encoding": "identity"})
        self._session.auth = lambda request: request  # what ~/.netrc holds is for nobody here
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=how.threads))
        self._lock, self._next, self._stop = threading.Lock(), 0.0, threading.Event()

    def close(self) -> None:
        """Let waiting threads end, and the connections go."""
        self._stop.set()
        self._session.close()

    def json(self, url: str, params: dict[str, str]) -> Any:
        """The JSON at a URL of the API.

        Raises:
            Failed: if there is none to be had.
        """

        def once() -> Any:
            import json

            with self._get(url, params, own=True) as response:
                body = bytearray()
                for block in response.iter_content(2**16):
                    body += block
                    if len(body) > MOST_JSON:
                        raise Failed("refused", f"the answer is longer than {MOST_JSON} bytes")
            try:
                return json.loads(body)
            except ValueError:
                raise _Again("unavailable", "the answer is no JSON") from None

        return self._tried(url, once)

    def file(self, url: str, target: Path, size: int | None, check: Callable[[Path], object]) -> None:
        """Fetch ``url`` to ``target``: whole and on disk, or not at all.

        Args:
            url: Of this API's host or of a host that the settings name.
            target: Where the file goes.
            size: Its bytes, if known; another number counts as corrupt.
            check: Raises ImageError for a file that is corrupt, too.

        Raises:
            Failed: if it cannot be had.
            UserError: if the disk takes no more.
        """
        partial = target.with_name(f".{target.name}.partial")

        def once() -> None:
            with self._get(url, {}, own=False) as response:
                self._store(response, partial, size)
            try:
                check(partial)
            except ImageError as error:
                raise _Again("corrupt_download", str(error)) from None
            partial.replace(target)

        try:
            self._tried(url, once)
        finally:
            partial.unlink(missing_ok=True)

    def _store(self, response: requests.Response, partial: Path, size: int | None) -> None:
        import requests

        digest, got, most = hashlib.md5(usedforsecurity=False), 0, MOST_IMAGE if size is None else size
        blocks = response.iter_content(2**16)  # its errors are the network's, those of the file the disk's
        try:
            with partial.open("wb") as out:
                while block := next(blocks, b""):
                    got += len(block)
                    if got > most:
                        raise _Again("corrupt_download", f"more than the {most} bytes that it was to have")
                    digest.update(block)
                    out.write(block)
                out.flush()
                os.fsync(out.fileno())
        except requests.RequestException:
            raise
        except OSError as error:
            raise no_room(error, partial.parent) or UserError(f"cannot write {partial}: {error.strerror}.") from None
        if size is not None and got != size:
            raise _Again("corrupt_download", f"{got} bytes came, the archive says {size}")
        stated = response.headers.get("Content-MD5", "")
        if stated and stated != base64.b64encode(digest.digest()).decode():
            raise _Again("corrupt_download", "the bytes do not match their Content-MD5")

    def _tried(self, url: str, once: Callable[[], T]) -> T:
        import requests

        shown = urlsplit(url)._replace(query="").geturl()
        for attempt in range(1, self._how.tries + 1):
            try:
                return once()
            except _Again as error:
                trouble = error
            except requests.RequestException as error:
                trouble = _Again("unavailable", _plain(error))
            if attempt == self._how.tries:
                break
            if trouble.wait is not None:
                self._hold(trouble.wait)  # the server means all of us
            jitter = 0.5 + seeds.derive(self._seed, "jitter", url, attempt) % 1000 / 1000
            self._sleep(min(LONGEST_PAUSE, self._how.backoff * 2 ** (attempt - 1)) * jitter)
        raise Failed(trouble.reason, f"{shown}: {trouble.detail}, {self._how.tries} times")

    def _get(self, url: str, params: dict[str, str], own: bool) -> requests.Response:
        for _ in range(REDIRECTS + 1):
            self._admit(url, own)
            self._turn()
            response = self._session.get(
                url, params=params, stream=True, allow_redirects=False, timeout=self._how.timeout
            )
            if response.status_code == 200:
                return response
            with response:
                if response.is_redirect:
                    url, params = urljoin(response.url, response.headers["Location"]), {}
                    continue
                said = " ".join(next(response.iter_content(200), b"").decode("utf-8", "replace").split())
            text = f"HTTP {response.status_code}" + (f" ({said})" if said and said.isprintable() else "")
            if response.status_code in PASSING:
                raise _Again("unavailable", text, _asked_to_wait(response.headers.get("Retry-After", "")))
            reason = "not_found" if response.status_code in (404, 410) else "refused"
            raise Failed(reason, f"{urlsplit(url)._replace(query='').geturl()}: {text}", response.status_code)
        raise Failed("refused", f"{url}: more than {REDIRECTS} redirects")

    def _admit(self, url: str, own: bool) -> None:
        """Only the API's own address, and for images the hosts that the settings name, by nothing less than its scheme.

        Raises:
            Failed: ``foreign_host``.
        """
        base, there = urlsplit(self._how.base_url), urlsplit(url)
        if (there.scheme, there.netloc) == (base.scheme, base.netloc):
            return
        named = there.netloc in self._how.image_hosts and there.scheme in ("https", base.scheme)
        if own or not named:
            place = f"{there.scheme}://{there.netloc}"
            raise Failed("foreign_host", f"{place} is neither {base.netloc} nor in acquire.isic.image_hosts")

    def _turn(self) -> None:
        """Wait for this request's turn."""
        with self._lock:
            at = max(time.monotonic(), self._next)
            self._next = at + 1.0 / self._how.requests_per_second
        self._sleep(at - time.monotonic())

    def _hold(self, seconds: float) -> None:
        if seconds > LONGEST_WAIT:
            raise UserError(
                f"{self._how.base_url} asks to wait for {seconds:.0f} s: start again later; what has come is kept."
            )
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(max(0.0, seconds)):
            raise Stopped


def _asked_to_wait(text: str) -> float | None:
    """Seconds from a Retry-After header, which holds a number or a date."""
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _plain(error: Exception) -> str:
    """What went wrong on the way, without the objects that requests and urllib3 print."""
    text = " ".join(str(error).split())
    if "IncompleteRead" in text or "Connection broken" in text:
        return "the connection was cut"
    if "timed out" in text:
        return "no answer in time"
    return "no connection" if "Max retries" in text or "refused" in text else text[:120]
