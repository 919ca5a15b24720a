"""A name for each request, that client, service and log can all tell."""

import itertools
import secrets
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selfheal_assets.serving.asgi import header

REQUEST_ID = b"x-request-id"
_ID_CHARACTERS = 128

# Unique, not secret: a process's own 64 bits and a count cost a tenth of a random number for each.
_OF_THIS_PROCESS = secrets.token_hex(8)
_count = itertools.count()

current_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class RequestId:
    """Answers carry the client's ``X-Request-ID``, or a new one; so does every line logged for the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add the header to its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = (header(scope, REQUEST_ID) or b"").decode("latin-1")
        fits = given.isascii() and given.isprintable() and 0 < len(given) <= _ID_CHARACTERS
        request_id = given if fits else f"{_OF_THIS_PROCESS}{next(_count):016x}"
        current_request_id.set(request_id)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id.encode())]
            await send(message)

        await self._app(scope, receive, send_named)
