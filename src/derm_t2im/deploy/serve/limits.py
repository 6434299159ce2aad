"""How much the service takes at a time."""

from __future__ import annotations

from dataclasses import dataclass

from derm_t2im.errors import UserError

BODIES = 8  # bodies of the largest size that are held at a time


@dataclass(frozen=True)
class Limits:
    """Bounds of the service.

    Attributes:
        max_bytes: Of one request's body.
        max_pixels: Of one image, judged by its header.
        max_images: In one request.
        queue: Images held at a time, from the first byte of their request to its answer.
        max_batch: Images that the model sees at a time.
        max_wait_ms: How long a batch waits for more images.
        read_seconds: How long a request's body may take to arrive.
        stop_seconds: How long a stop waits for requests that are under way.
    """

    max_bytes: int = 32 * 1024**2
    max_pixels: int = 40_000_000
    max_images: int = 32
    queue: int = 256
    max_batch: int = 32
    max_wait_ms: float = 5.0
    read_seconds: float = 60.0
    stop_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Refuse bounds with which the largest request that is allowed would never be taken."""
        if self.queue < self.max_images:
            raise UserError(
                f"--queue is {self.queue}, but one request may hold {self.max_images} images (--max-images): "
                "give a queue of at least as many."
            )


class Room:
    """What may be held at a time: images, and bytes of bodies. Belongs to one event loop; never waits."""

    def __init__(self, limits: Limits) -> None:
        """Nothing held."""
        self._images, self._bytes = limits.queue, BODIES * limits.max_bytes
        self.images = 0
        self.bytes = 0

    def enter(self, images: int, size: int) -> bool:
        """Take room for this many more images and bytes, or neither; whether there was any."""
        if self.images + images > self._images or self.bytes + size > self._bytes:
            return False
        self.images += images
        self.bytes += size
        return True

    def leave(self, images: int, size: int) -> None:
        """Give it back."""
        self.images -= images
        self.bytes -= size
