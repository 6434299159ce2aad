"""Images of many requests, put before the model together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

Model = Callable[[np.ndarray], np.ndarray]
Seen = Callable[[int, float], None]


class Batcher:
    """Gathers images until a batch is full or its first image has waited long enough.

    While the model works on one batch the next one gathers: under load batches fill by themselves. The queue needs no
    bound of its own: whoever puts images in has taken room for them before.

    Args:
        model: Prepared images, uint8 (n, size, size, 3), to probabilities (n, k); runs in a thread of its own.
        max_batch: Most images of a batch.
        max_wait: Seconds.
        seen: Told of each batch: its images, and the seconds of the model.
    """

    def __init__(self, model: Model, max_batch: int, max_wait: float, seen: Seen = lambda n, seconds: None) -> None:
        """Nothing runs before :meth:`start`."""
        self._model, self._max_batch, self._max_wait, self._seen = model, max_batch, max_wait, seen
        self._queue: asyncio.Queue[tuple[np.ndarray, asyncio.Future[np.ndarray]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """End; what still waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while not self._queue.empty():
            self._queue.get_nowait()[1].cancel()
        self._thread.shutdown()

    @property
    def waiting(self) -> int:
        """Images that no batch holds yet."""
        return self._queue.qsize()

    async def ask(self, image: np.ndarray) -> np.ndarray:
        """Probabilities (k,) of one prepared image.

        Raises:
            Exception: whatever the model raised for the batch.
        """
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((image, answer))
        return await answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            until = loop.time() + self._max_wait
            while len(batch) < self._max_batch:
                try:
                    async with asyncio.timeout_at(until):
                        batch.append(await self._queue.get())
                except TimeoutError:
                    break
            began = time.perf_counter()
            try:
                rows = await loop.run_in_executor(self._thread, self._model, np.stack([one[0] for one in batch]))
            except asyncio.CancelledError:
                for _, answer in batch:
                    answer.cancel()
                raise
            except Exception as error:  # this batch's requests fail, the service goes on
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            self._seen(len(batch), time.perf_counter() - began)
            for (_, answer), row in zip(batch, rows, strict=True):
                if not answer.done():
                    answer.set_result(row)
