"""Who may ask: a valid API key, wherever the installation has keys."""

from starlette.types import ASGIApp, Receive, Scope, Send

from selfheal_assets.serving.asgi import header, send_json, sentence
from selfheal_assets.settings import Settings
from selfheal_assets.stores.api_keys import KeyRefused, KeyRing, KeysUnusable

HOLDER = "selfheal.key"  # in the scope: id of the key that was presented

HEALTH = frozenset({"/health", "/health/live", "/health/ready"})
_DOCS = frozenset({"/docs", "/redoc", "/openapi.json"})
_DOCS_FILES = "/docs-files/"
_MISSING = "an API key is required: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`"


class Authenticate:
    """Refuses with 401 before a byte of the body is read; health is always open.

    Args:
        app: everything else.
        keys: of the installation; without any, everything is open.
        metrics_open, docs_open: whether ``/metrics``, and the documentation with its OpenAPI document, ask for none.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, metrics_open: bool, docs_open: bool) -> None:
        self._app, self._keys, self._docs_open = app, keys, docs_open
        self._open = HEALTH | (_DOCS if docs_open else set()) | ({"/metrics"} if metrics_open else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or self._is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            if self._keys.required:
                now = Settings.wall_clock()
                scope[HOLDER] = self._keys.holder(_presented(scope), now).id
        except KeysUnusable:
            message = "API keys cannot be checked, so nobody is let in: GET /health/ready says why"
            await send_json(send, 503, sentence(message), [(b"retry-after", b"5")])
        except KeyRefused as error:
            await _refuse(send, str(error))
        else:
            await self._app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self._open or (self._docs_open and path.startswith(_DOCS_FILES))


def _presented(scope: Scope) -> bytes:
    """The key that the client sent.

    Raises:
        KeyRefused: it sent none.
    """
    if given := header(scope, b"x-api-key"):
        return given.strip()
    scheme, _, key = (header(scope, b"authorization") or b"").strip().partition(b" ")
    if scheme.lower() != b"bearer" or not key.strip():
        raise KeyRefused(_MISSING)
    return key.strip()


async def _refuse(send: Send, message: str) -> None:
    told = b"" if message == _MISSING else b', error="invalid_token"'
    await send_json(send, 401, sentence(message), [(b"www-authenticate", b'Bearer realm="selfheal"' + told)])
