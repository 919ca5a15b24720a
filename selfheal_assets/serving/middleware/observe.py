"""Observes every request: its time for the metrics, a line of the log where it deserves one, and its failure."""

import logging
from time import perf_counter
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selfheal_assets.serving.asgi import raw_path, send_json
from selfheal_assets.serving.metrics import Metrics
from selfheal_assets.serving.middleware.authenticate import HEALTH, HOLDER
from selfheal_assets.serving.middleware.request_id import current_request_id

logger = logging.getLogger("selfheal.access")

ELSEWHERE = "other"  # one label for every path that is no endpoint: clients must not make time series
_QUIET = {"/predict", "/predict/batch", "/metrics"}
_REFUSED, _FAILED = 400, 500


class Observe:
    """Times, counts and logs; and turns what nobody expected into a 500 that shows nothing of it.

    Args:
        app: everything else.
        metrics: of this process.
        paths: of the endpoints.
        access_log: ``all``, ``quiet`` (none for a probe, nor for a success of what is asked all the time), ``off``.
        slow_s: a request that takes longer gets a line, unless ``off``.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, paths: frozenset[str], access_log: str, slow_s: float
    ) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths
        self._access_log, self._slow_s = access_log, slow_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and observe its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = perf_counter(), 0

        async def send_seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_seen)
        except Exception:
            if status:  # half an answer cannot be taken back: the server breaks the connection, and logs it
                raise
            logger.exception("unexpected failure of %s %s", scope["method"], raw_path(scope))
            await send_json(send_seen, 500, _failure())
        self._observe(scope, status, perf_counter() - started)

    def _observe(self, scope: Scope, status: int, seconds: float) -> None:
        path = scope["path"]
        # What was refused before it was routed has no route yet.
        route = path if path in self._paths else getattr(scope.get("route"), "path", ELSEWHERE)
        self._metrics.request(route, status, seconds)
        if status >= _REFUSED:
            self._metrics.add("unavailable_answers" if status >= _FAILED else "refused_requests")
        slow = seconds >= self._slow_s
        if self._access_log == "all" or (self._access_log == "quiet" and _is_worth_it(route, status, slow)):
            _log(scope, route, status, seconds, slow)


def _is_worth_it(route: str, status: int, slow: bool) -> bool:
    """A probe repeats what has been logged once, by whoever found it."""
    if route in HEALTH:
        return slow
    return status >= _REFUSED or slow or route not in _QUIET


def _log(scope: Scope, route: str, status: int, seconds: float, slow: bool) -> None:
    level = logging.ERROR if status >= _FAILED else logging.WARNING if slow else logging.INFO
    method, path, client = scope["method"], raw_path(scope), scope.get("client")
    told: dict[str, Any] = {
        "method": method,
        "path": path,
        "route": route,
        "status": status,
        "ms": round(1000 * seconds, 3),
        "client": client[0] if client else None,
        "key": scope.get(HOLDER),
    }
    logger.log(level, "%s %s %d %.1f ms", method, path, status, 1000 * seconds, extra=told)


def _failure() -> bytes:
    request_id = current_request_id.get()
    message = "the service failed unexpectedly; its log says why, under this request_id"
    return orjson.dumps({"detail": message, "request_id": request_id})
