"""What the service counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one service; their own registry, so that two services in one process do not mix.

    Args:
        held: Images that are held at the moment.
        waiting: Images that wait for the model.
        ready: Whether the service takes requests.
    """

    def __init__(self, held: Callable[[], int], waiting: Callable[[], int], ready: Callable[[], bool]) -> None:
        """Everything at zero."""
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"namespace": "derm_t2im", "registry": self.registry}
        self.requests = Counter("requests", "Answers by path and status.", ["path", "status"], **own)
        self.seconds = Histogram("request_seconds", "From a request's header to its answer.", buckets=FAST, **own)
        self.images = Counter("images", "Images predicted.", **own)
        self.errors = Counter("image_errors", "Images that could not be used, by reason.", ["reason"], **own)
        self.refusals = Counter("refusals", "Requests refused, by error.", ["error"], **own)
        self.batches = Histogram("batch_images", "Images of a batch.", buckets=SIZES, **own)
        self.model_seconds = Histogram("model_seconds", "The model's time for a batch.", buckets=FAST, **own)
        Gauge("held_images", "Images between the first byte of their request and its answer.", **own).set_function(held)
        Gauge("queue_images", "Images that wait for the model.", **own).set_function(waiting)
        Gauge("ready", "1 where requests are taken.", **own).set_function(lambda: int(ready()))
        ProcessCollector(registry=self.registry)

    def batch(self, images: int, seconds: float) -> None:
        """The model has answered a batch."""
        self.batches.observe(images)
        self.model_seconds.observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """All of it, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
