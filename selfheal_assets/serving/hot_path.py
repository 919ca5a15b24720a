"""The hot path: plainly valid ``POST /predict`` and ``/predict/batch``, answered before FastAPI sees them.

What is not plainly valid (``compiled``), or asks for more, goes on to FastAPI's routes with its body put back.
Stands behind ``middleware.bodies``, which hands it each body in one piece.
"""

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from selfheal_assets.serving import answers
from selfheal_assets.serving.asgi import problem, replayed, send_json, sentence
from selfheal_assets.serving.champion import NoChampion
from selfheal_assets.serving.compiled import CaseDecoder, duplicate_key
from selfheal_assets.serving.group_commit import GroupCommit
from selfheal_assets.serving.metrics import Metrics
from selfheal_assets.serving.scoring import LogNotDurable, ScoringService
from selfheal_assets.stores.prediction_log import CaseColumns
from selfheal_assets.use_case import UseCase

_SMALL_BODY_BYTES = 20_000  # parsed at once; a larger one would hold up others
_JSON = b"application/json"


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
        self, app: ASGIApp, case: UseCase, group: GroupCommit, counters: Metrics, scoring: ScoringService
    ) -> None:
        self._app, self._group, self._counters, self._scoring = app, group, counters, scoring
        self._refuses_unseen = case.serving.unseen_category == "refuse"
        decoder = CaseDecoder(case)
        self._decoders = {"/predict": decoder.single, "/predict/batch": decoder.batch, "/labels": _nothing}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        decode = self._decoders.get(scope["path"]) if scope["type"] == "http" else None
        is_json, has_key = (False, False) if decode is None else _headers(scope)
        if decode is None or not is_json or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body: bytes = (await receive()).get("body", b"")  # whole, and of a size that is allowed
        cases = None if has_key or scope["query_string"] else decode(body)
        if cases is not None and not (self._refuses_unseen and self._has_unseen(cases)):
            await self._answer(cases, scope["path"] == "/predict", send)
        elif (path := await _duplicate_key(body)) is not None:
            await send_json(
                send, 422, problem("duplicate_key", path, "this field is given twice: leave one out")
            )
        else:
            await self._app(scope, replayed(body, receive), send)

    def _has_unseen(self, cases: CaseColumns) -> bool:
        try:
            return bool(self._scoring.unseen(cases))
        except NoChampion:
            return False  # which is said when it is to be scored

    async def _answer(self, cases: CaseColumns, single: bool, send: Send) -> None:
        try:
            answered = await self._group.answer(cases)
        except (NoChampion, LogNotDurable) as error:
            await send_json(send, 503, sentence(str(error)), [(b"retry-after", b"1")])
            return
        given = answers.answers(answered)
        answers.count(self._counters, given)
        content = given[0] if single else {"count": len(given), "predictions": given}
        await send_json(send, 200, answers.encoded(content))


def _headers(scope: Scope) -> tuple[bool, bool]:
    """Whether the body is JSON, and whether the request has a key."""
    is_json = has_key = False
    for name, value in scope["headers"]:
        if name == b"content-type":
            is_json = value == _JSON or value.partition(b";")[0].strip().lower() == _JSON
        elif name == b"idempotency-key":
            has_key = True
    return is_json, has_key


def _nothing(body: bytes) -> None:
    """The decoder of what is not answered here, only looked at for keys that are given twice."""


async def _duplicate_key(body: bytes) -> list[str | int] | None:
    if len(body) < _SMALL_BODY_BYTES:
        return duplicate_key(body)
    return await run_in_threadpool(duplicate_key, body)
