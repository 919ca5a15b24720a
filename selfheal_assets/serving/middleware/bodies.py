"""What a body may be: at most so large, JSON, and not compressed. Read here once, whole, for whoever comes next."""

from starlette.types import ASGIApp, Receive, Scope, Send

from selfheal_assets.serving.asgi import header, problem, replayed, send_json

MAX_BODY_BYTES = 8_000_000
MEDIA_TYPE = "application/json"
_LENGTH_DIGITS = 15
_TOO_LARGE = problem("too_large", [], f"a body has at most {MAX_BODY_BYTES:,} bytes: send several requests")


class Bodies:
    """Refuses a body by its declared length before a byte is read, and an undeclared one while it is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body read, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = header(scope, b"content-length")
        if (declared is None or declared == b"0") and header(scope, b"transfer-encoding") is None:
            await self._app(scope, receive, send)
        elif declared is not None and _is_too_much(declared):
            await send_json(send, 413, _TOO_LARGE)
        elif refused := _unsupported(scope):
            await send_json(send, 415, problem("unsupported_media_type", [], refused))
        elif (body := await _body(receive)) is None:
            await send_json(send, 413, _TOO_LARGE)
        else:
            await self._app(scope, replayed(body, receive), send)


def _is_too_much(declared: bytes) -> bool:
    return not declared.isdigit() or len(declared) > _LENGTH_DIGITS or int(declared) > MAX_BODY_BYTES


def _unsupported(scope: Scope) -> str | None:
    """Why the body is not taken for JSON."""
    encoding = header(scope, b"content-encoding") or b"identity"
    if encoding.strip().lower() != b"identity":
        return "the body is compressed (content-encoding): send it as it is"
    given = header(scope, b"content-type") or b""
    media_type = given.partition(b";")[0].strip().lower()
    if media_type == MEDIA_TYPE.encode() or (
        media_type.startswith(b"application/") and media_type.endswith(b"+json")
    ):
        return None
    shown = f"not '{media_type[:80].decode('latin-1')}'" if media_type else "and no content-type was given"
    return f"the body must be JSON, with `content-type: {MEDIA_TYPE}`, {shown}"


async def _body(receive: Receive) -> bytes | None:
    """The whole body; ``None`` where it is too large."""
    message = await receive()
    if not message.get("more_body"):  # nearly always
        body = message.get("body", b"")
        return body if len(body) <= MAX_BODY_BYTES else None
    parts, size = [message.get("body", b"")], len(message.get("body", b""))
    while message.get("more_body"):
        if size > MAX_BODY_BYTES:
            return None
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
    return b"".join(parts) if size <= MAX_BODY_BYTES else None
