"""How often one client may ask: a moving window in this process's memory."""

import math
import time

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.types import ASGIApp, Receive, Scope, Send

from selfheal_assets.serving.asgi import send_json, sentence
from selfheal_assets.serving.middleware.authenticate import HEALTH, HOLDER


class RateLimit:
    """Refuses with 429 and ``Retry-After``; a client is its API key, or its address where no key is asked for.

    Args:
        app: everything else.
        limit: as ``limits`` reads it, for example ``600/minute``. Each worker process counts by itself.
    """

    def __init__(self, app: ASGIApp, limit: str) -> None:
        self._app = app
        self._limit = parse(limit)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in HEALTH:
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        who = scope.get(HOLDER) or (client[0] if client else "unknown")
        if self._limiter.hit(self._limit, who):
            await self._app(scope, receive, send)
            return
        resets_at = self._limiter.get_window_stats(self._limit, who).reset_time
        wait_s = max(1, math.ceil(resets_at - time.time()))
        message = f"more than {self._limit}: ask again in {wait_s} s"
        await send_json(send, 429, sentence(message), [(b"retry-after", b"%d" % wait_s)])
