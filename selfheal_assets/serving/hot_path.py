"""The hot path: plainly valid ``POST /predict`` and ``/predict/batch``, answered before FastAPI sees them.

What is not plainly valid (``compiled``), or asks for more, goes on to FastAPI's routes with its body put back.
"""

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selfheal_assets.serving import answers
from selfheal_assets.serving.compiled import CaseDecoder, duplicate_key
from selfheal_assets.serving.group_commit import GroupCommit
from selfheal_assets.serving.scoring import LogNotDurable, NoChampion, ScoringService
from selfheal_assets.serving.snapshots import Counters
from selfheal_assets.stores.prediction_log import CaseColumns
from selfheal_assets.use_case import UseCase

MAX_BODY_BYTES = 8_000_000
_SMALL_BODY_BYTES = 20_000  # parsed at once; a larger one would hold up others
_JSON = (b"content-type", b"application/json")


class HotPath:
    """ASGI middleware that answers predictions by group commit.

    Args:
        app: everything else.
        case: whose requests are decoded.
        group: scores and logs.
        counters: of this process.
        scoring: knows which categories the champion has seen.
    """

    def __init__(
        self, app: ASGIApp, case: UseCase, group: GroupCommit, counters: Counters, scoring: ScoringService
    ) -> None:
        self._app, self._group, self._counters, self._scoring = app, group, counters, scoring
        self._refuses_unseen = case.serving.unseen_category == "refuse"
        decoder = CaseDecoder(case)
        self._decoders = {"/predict": decoder.single, "/predict/batch": decoder.batch, "/labels": _nothing}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        decode = self._decoders.get(scope["path"]) if scope["type"] == "http" else None
        if decode is None or scope["method"] != "POST" or not _is_json(scope):
            await self._app(scope, receive, send)
            return
        body = await _body(receive)
        if body is None:
            await _send(send, 413, _detail("too_large", [], f"a body has at most {MAX_BODY_BYTES:,} bytes"))
            return
        cases = None if scope["query_string"] or _has_key(scope) else decode(body)
        if cases is not None and not (self._refuses_unseen and self._has_unseen(cases)):
            await self._answer(cases, scope["path"] == "/predict", send)
        elif (path := await _duplicate_key(body)) is not None:
            self._counters.add("refused_requests")
            await _send(send, 422, _detail("duplicate_key", path, "this field is given twice: leave one out"))
        else:
            await self._app(scope, _replayed(body, receive), send)

    def _has_unseen(self, cases: CaseColumns) -> bool:
        try:
            return any(self._scoring.unseen(cases))
        except NoChampion:
            return False  # which is said when it is to be scored

    async def _answer(self, cases: CaseColumns, single: bool, send: Send) -> None:
        try:
            answered = await self._group.answer(cases)
        except (NoChampion, LogNotDurable) as error:
            self._counters.add("unavailable_answers")
            await _send(send, 503, orjson.dumps({"detail": str(error)}), [(b"retry-after", b"1")])
            return
        given = answers.answers(answered)
        answers.count(self._counters, given)
        content = given[0] if single else {"count": len(given), "predictions": given}
        await _send(send, 200, orjson.dumps(content))


def _is_json(scope: Scope) -> bool:
    return any(
        name == b"content-type" and value.partition(b";")[0].strip().lower() == b"application/json"
        for name, value in scope["headers"]
    )


def _has_key(scope: Scope) -> bool:
    return any(name == b"idempotency-key" for name, _ in scope["headers"])


def _nothing(body: bytes) -> None:
    """The decoder of what is not answered here, only looked at for keys that are given twice."""


async def _duplicate_key(body: bytes) -> list[str | int] | None:
    if len(body) < _SMALL_BODY_BYTES:
        return duplicate_key(body)
    return await run_in_threadpool(duplicate_key, body)


async def _body(receive: Receive) -> bytes | None:
    """The whole body; ``None`` where it is too large."""
    message = await receive()
    if not message.get("more_body"):  # nearly always
        body = message.get("body", b"")
        return body if len(body) <= MAX_BODY_BYTES else None
    parts, size = [message.get("body", b"")], len(message.get("body", b""))
    while message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            return None
    return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """``receive`` as it was before the body was read."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return again


def _detail(kind: str, path: list[str | int], message: str) -> bytes:
    return orjson.dumps({"detail": [{"type": kind, "loc": ["body", *path], "msg": message}]})


async def _send(
    send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send(
        {"type": "http.response.start", "status": status, "headers": [_JSON, length, *(headers or [])]}
    )
    await send({"type": "http.response.body", "body": body})
