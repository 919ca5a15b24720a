"""The FastAPI application: wires scoring, routes and errors, and follows the champion while it runs."""

import logging
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selfheal_assets.serving import routes
from selfheal_assets.serving.schemas import build_schemas
from selfheal_assets.serving.scoring import LogNotDurable, NoChampion, ScoringService
from selfheal_assets.serving.snapshots import Counters
from selfheal_assets.settings import Settings
from selfheal_assets.stores.model_registry import ModelRegistry
from selfheal_assets.stores.prediction_log import PredictionLog

logger = logging.getLogger(__name__)

REQUEST_ID = "X-Request-ID"
SHOWN_ERRORS = 100
_SHOWN_CHARACTERS = 200
_ID_CHARACTERS = 128
_LARGEST_SHOWN = 1e300  # also keeps NaN and infinity out, which JSON cannot hold


def create_app(settings: Settings, refresh_s: float = 1.0) -> FastAPI:
    """The prediction service of one installation.

    Args:
        settings: names the use case, the registry, the log folder and the published snapshots.
        refresh_s: how often the registry is asked for the champion.
    """
    case = settings.case
    log = PredictionLog(settings.prediction_log)
    scoring = ScoringService(ModelRegistry(settings), log, case)
    service = routes.Service(settings, scoring, Counters(settings.now()))
    app = FastAPI(
        title=f"selfheal: {case.title}",
        description=f"{case.description}\n\nEach answer is on disk, in the prediction log, before it leaves.",
        lifespan=_lifespan(scoring, log, refresh_s),
    )
    app.include_router(routes.about_router(service))
    app.include_router(routes.prediction_router(service, build_schemas(case)))
    app.include_router(routes.label_router(service))
    app.include_router(routes.monitoring_router(service))
    _add_error_answers(app, service.counters)
    app.add_middleware(RequestId)
    return app


def _lifespan(
    scoring: ScoringService, log: PredictionLog, refresh_s: float
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(scoring.refresh)
        stopped = threading.Event()
        watcher = threading.Thread(
            target=_watch, args=(scoring, stopped, refresh_s), name="champion", daemon=True
        )
        watcher.start()
        try:
            yield
        finally:
            stopped.set()
            await run_in_threadpool(watcher.join)
            log.close()

    return lifespan


def _watch(scoring: ScoringService, stopped: threading.Event, every_s: float) -> None:
    while not stopped.wait(every_s):
        scoring.refresh()


def _add_error_answers(app: FastAPI, counters: Counters) -> None:
    @app.exception_handler(RequestValidationError)
    def refused(request: Request, error: RequestValidationError) -> JSONResponse:
        counters.add("refused_requests")
        problems = error.errors()
        return JSONResponse({"detail": [_told(p) for p in problems[:SHOWN_ERRORS]]}, status_code=422)

    @app.exception_handler(NoChampion)
    @app.exception_handler(LogNotDurable)
    def unavailable(request: Request, error: Exception) -> JSONResponse:
        counters.add("unavailable_answers")
        return JSONResponse({"detail": str(error)}, status_code=503, headers={"Retry-After": "1"})


def _told(problem: dict[str, Any]) -> dict[str, Any]:
    """A validation error in FastAPI's shape; the input only where it is a value that JSON can hold."""
    location = [_printable(part) if isinstance(part, str) else part for part in problem["loc"]]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "json_invalid":
        message = f"{message}: {problem['ctx']['error']}"
    told: dict[str, Any] = {"type": problem["type"], "loc": location, "msg": message}
    given = problem.get("input")
    if isinstance(given, str):
        told["input"] = _printable(given)
    elif isinstance(given, int | float) and abs(given) < _LARGEST_SHOWN:
        told["input"] = given
    return told


def _printable(text: str) -> str:
    """Text from outside, cut, and without what UTF-8 cannot hold."""
    return text[:_SHOWN_CHARACTERS].encode(errors="replace").decode()


class RequestId:
    """Answers carry the client's ``X-Request-ID``, or a new one, so that both sides can name a request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add the header to its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(REQUEST_ID.lower().encode(), b"").decode("latin-1")
        fits = given.isascii() and given.isprintable() and 0 < len(given) <= _ID_CHARACTERS
        request_id = given if fits else uuid.uuid4().hex

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        await self._app(scope, receive, send_named)
