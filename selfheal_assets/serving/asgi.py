"""Answers below FastAPI: what the middlewares and the hot path send, and what they look up in a request.

Only the plain ASGI shapes belong here; what is said, and when, is the caller's.
"""

from typing import Any

import orjson
from starlette.types import Message, Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]
_JSON = (b"content-type", b"application/json")


async def send_json(send: Send, status: int, body: bytes, headers: Headers | None = None) -> None:
    """One whole answer; ``body`` is JSON already."""
    length = (b"content-length", b"%d" % len(body))
    await send(
        {"type": "http.response.start", "status": status, "headers": [_JSON, length, *(headers or [])]}
    )
    await send({"type": "http.response.body", "body": body})


def sentence(message: str) -> bytes:
    """A refusal that concerns no field, in FastAPI's shape."""
    return orjson.dumps({"detail": message})


def problem(kind: str, path: list[str | int], message: str) -> bytes:
    """A refusal that names a place in the body, in FastAPI's shape of validation errors."""
    return orjson.dumps({"detail": [{"type": kind, "loc": ["body", *path], "msg": message}]})


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of this name (lower case)."""
    for key, value in scope["headers"]:
        if key == name:
            return value
    return None


def raw_path(scope: Scope) -> str:
    """The path as it was sent, still percent-encoded: it holds no line break and no control character."""
    raw: Any = scope.get("raw_path")
    return raw.decode("latin-1") if raw else scope["path"]


def replayed(body: bytes, receive: Receive) -> Receive:
    """``receive`` as it was before the whole body was read."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return again
