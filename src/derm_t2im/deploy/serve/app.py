"""The application: what is answered at which address.

The one module that needs the extra ``serve`` as it is imported: FastAPI looks types up in its functions' module.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException as StarletteError

from derm_t2im import __version__, runtime
from derm_t2im.deploy.serve import page
from derm_t2im.deploy.serve.answers import BODY, RESPONSES, Answer, Health, Model, Result
from derm_t2im.deploy.serve.batches import Batcher
from derm_t2im.deploy.serve.limits import Limits, Room
from derm_t2im.deploy.serve.metrics import Metrics
from derm_t2im.deploy.serve.reading import RETRY_SECONDS, Place, Refused, Upload, pass_over, uploads

if TYPE_CHECKING:
    from derm_t2im.deploy.runtime import Predictor

PATHS = ("/", "/v1/predict", "/health", "/healthz", "/readyz", "/metrics", "/openapi.json")


class Service:
    """One model behind its queue, and whether it takes requests.

    Args:
        predictor: The model.
        limits: How much is taken at a time.
        key: The API key that predictions and metrics ask for; empty for none.
    """

    def __init__(self, predictor: Predictor, limits: Limits, key: str = "") -> None:
        """Nothing runs before :meth:`run`."""
        self.predictor, self.limits, self.key = predictor, limits, key
        self.card = predictor.card
        self.room = Room(limits)
        self.batcher = Batcher(self._predict, limits.max_batch, limits.max_wait_ms / 1000, self._batch)
        self.metrics = Metrics(lambda: self.room.images, lambda: self.batcher.waiting, lambda: self.ready)
        self.decoders = ThreadPoolExecutor(runtime.workers(), thread_name_prefix="decode")
        self.active = self.answered = self.predicted = 0
        self.warm = self.stopping = False

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.warm and not self.stopping

    @property
    def status(self) -> str:
        """One word for it."""
        return "stopping" if self.stopping else "ready" if self.warm else "starting"

    @asynccontextmanager
    async def run(self, _: FastAPI) -> AsyncIterator[None]:
        """Warm up beside answering that it is not ready yet; at the end nothing is left running."""
        import cv2

        cv2.setNumThreads(1)  # the decoders share the cores already
        self.batcher.start()
        warming = asyncio.create_task(self._warm_up())
        try:
            yield
        finally:
            warming.cancel()
            await asyncio.gather(warming, return_exceptions=True)
            await self.batcher.stop()
            self.decoders.shutdown(cancel_futures=True)

    async def _warm_up(self) -> None:
        side = self.card.size
        blank = np.zeros((side, side, 3), np.uint8)
        await asyncio.get_running_loop().run_in_executor(self.decoders, self.predictor.prepare, blank)
        await self.batcher.ask(blank)
        self.warm = True

    def _predict(self, images: np.ndarray) -> np.ndarray:
        return self.predictor.predict(images, self.limits.max_batch)

    def _batch(self, images: int, seconds: float) -> None:
        self.metrics.batch(images, seconds)

    def admit(self) -> None:
        """Refuse while there is nothing that could answer."""
        if self.stopping:
            raise Refused(503, "stopping", "the service is stopping: try another, or again later.", RETRY_SECONDS)
        if not self.warm:
            raise Refused(503, "not_ready", "the model is being made ready: try again in a moment.", RETRY_SECONDS)

    def check_key(self, request: Request) -> None:
        """Refuse a request without the key."""
        if not self.key:
            return
        kind, _, said = request.headers.get("authorization", "").partition(" ")
        given = said.strip() if kind.lower() == "bearer" else request.headers.get("x-api-key", "")
        if not hmac.compare_digest(given.encode(), self.key.encode()):
            raise Refused(401, "no_key", "the key is missing or wrong: send it as `Authorization: Bearer KEY`.")

    async def answer(self, request: Request) -> tuple[int, Answer]:
        """Status and answer of one request.

        Raises:
            Refused: if it gets no predictions.
        """
        self.check_key(request)
        self.admit()
        self.active += 1
        try:
            with Place(self.room) as place:
                place.hold(1, 0)
                sent = await uploads(request, self.limits, place)
                results = list(await asyncio.gather(*(self._one(upload) for upload in sent)))
        finally:
            self.active -= 1
        good = any(result.error is None for result in results)
        self.answered += 1
        return 200 if good else 422, Answer(
            model=Model.of(self.card), results=results, intended_use=self.card.intended_use
        )

    async def _one(self, upload: Upload) -> Result:
        from derm_t2im.imaging.io import ImageError

        try:
            image = await asyncio.get_running_loop().run_in_executor(self.decoders, self._decode, upload.data)
        except ImageError as error:
            self.metrics.errors.labels(error.reason).inc()
            return Result.bad(upload.name, error.reason, error.detail)
        row = await self.batcher.ask(image)
        self.metrics.images.inc()
        self.predicted += 1
        return Result.good(upload.name, row, self.card)

    def _decode(self, data: bytes) -> np.ndarray:
        from derm_t2im.deploy.predict import MIN_SIDE
        from derm_t2im.imaging.io import decode_rgb
        from derm_t2im.sources.intake import verify

        rgb = decode_rgb(data, self.limits.max_pixels, MIN_SIDE)
        verify(data)
        return self.predictor.prepare(rgb)


def create(service: Service) -> FastAPI:
    """The ASGI application of a service."""
    # No /docs: its page fetches scripts from elsewhere.
    app = FastAPI(
        title="derm-t2im", version=__version__, description=service.card.intended_use, docs_url=None, redoc_url=None,
        lifespan=service.run,
    )  # fmt: skip
    app.add_middleware(_Counted, service=service)
    html, policy = page.render(service.card, service.limits, bool(service.key))
    # For the OpenAPI document alone: `check_key` is what refuses.
    ways = (HTTPBearer(auto_error=False), APIKeyHeader(name="X-API-Key", auto_error=False)) if service.key else ()
    keyed = [Depends(way) for way in ways]

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        await pass_over(request, service.limits)
        service.metrics.refusals.labels(error.error).inc()
        headers = {**error.headers, **({"WWW-Authenticate": "Bearer"} if error.status == 401 else {})}
        return JSONResponse({"error": error.error, "detail": error.detail}, error.status, headers)

    @app.exception_handler(StarletteError)
    async def elsewhere(request: Request, error: HTTPException) -> JSONResponse:
        await pass_over(request, service.limits)
        word = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "error")
        detail = f"{request.method} {request.url.path}: {error.detail}; predictions are at POST /v1/predict."
        return JSONResponse({"error": word, "detail": detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "internal", "detail": "the service failed; its log says why."}, 500)

    @app.post(
        "/v1/predict", response_model=Answer, responses=RESPONSES, openapi_extra={"requestBody": BODY},
        summary="Class probabilities of one image or several", dependencies=keyed,
    )  # fmt: skip
    async def predict(request: Request) -> JSONResponse:
        """Send one image as the body, or several as files of a form; each gets a result or an error of its own."""
        status, answer = await service.answer(request)
        return JSONResponse(answer.model_dump(), status)

    @app.get("/health", include_in_schema=False)
    @app.get("/healthz", summary="That the process lives, and which model it has")
    async def healthz() -> Health:
        return Health(status=service.status, model=Model.of(service.card))

    @app.get("/readyz", summary="Whether requests are taken", responses={503: RESPONSES[503]})
    async def readyz() -> dict[str, str]:
        service.admit()
        return {"status": "ready"}

    @app.get(
        "/metrics", summary="Counters for Prometheus", responses={401: RESPONSES[401]}, dependencies=keyed,
    )  # fmt: skip
    async def metrics(request: Request) -> Response:
        service.check_key(request)
        text, kind = service.metrics.text()
        return Response(text, media_type=kind)

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(html, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})

    return app


class _Counted:
    """Counts every answer by address and status, and times predictions."""

    def __init__(self, app: Callable[..., Awaitable[None]], service: Service) -> None:
        self.app, self.metrics = app, service.metrics

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["method"] == "HEAD":  # answered as GET; the server leaves the body away
            scope = {**scope, "method": "GET"}
        # Only addresses that exist: a stranger must not make new series at will.
        path = scope["path"] if scope["path"] in PATHS else "other"
        began = time.perf_counter()
        status = 499  # the client went away before there was an answer

        async def counted(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            self.metrics.requests.labels(path, str(status)).inc()
            if path == "/v1/predict":
                self.metrics.seconds.observe(time.perf_counter() - began)
