"""The hot path: plainly valid ``POST /predict`` and ``/predict/batch``, answered before FastAPI sees them.

What is not plainly valid (``compiled``), or asks for more, goes on to FastAPI's routes with its body put back.
Stands behind ``middleware.bodies``, which hands it each body in one piece.
"""

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from selfheal_assets.serving import answers
from selfheal_assets.serving.asgi import problem, replayed, send_json, sentence
from selfheal_assets.serving.compiled import CaseDecoder, duplicate_key
from selfheal_assets.serving.group_commit import GroupCommit
from selfheal_assets.serving.metrics import Metrics
from selfheal_assets.serving.scoring import LogNotDurable, NoChampion
from selfheal_assets.stores.prediction_log import CaseColumns
from selfheal_assets.use_case import UseCase


class HotPath:
    """ASGI middleware that answers predictions by group commit.

    Args:
        app: everything else.
        case: whose requests are decoded.
        group: scores and logs.
        counters: of this process.
    """

    def __init__(self, app: ASGIApp, case: UseCase, group: GroupCommit, counters: Metrics) -> None:
        self._app, self._group, self._counters = app, group, counters
        decoder = CaseDecoder(case)
        self._decoders = {"/predict": decoder.single, "/predict/batch": decoder.batch}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        decode = self._decoders.get(scope["path"]) if scope["type"] == "http" else None
        if decode is None or scope["method"] != "POST" or scope["query_string"] or not _is_json(scope):
            await self._app(scope, receive, send)
            return
        body: bytes = (await receive()).get("body", b"")  # whole, and of a size that is allowed
        cases = decode(body)
        if cases is not None:
            await self._answer(cases, scope["path"] == "/predict", send)
        elif (path := duplicate_key(body)) is not None:
            await send_json(
                send, 422, problem("duplicate_key", path, "this field is given twice: leave one out")
            )
        else:
            await self._app(scope, replayed(body, receive), send)

    async def _answer(self, cases: CaseColumns, single: bool, send: Send) -> None:
        try:
            answered = await self._group.answer(cases)
        except (NoChampion, LogNotDurable) as error:
            await send_json(send, 503, sentence(str(error)), [(b"retry-after", b"1")])
            return
        given = answers.answers(answered)
        answers.count(self._counters, given)
        content = given[0] if single else {"count": len(given), "predictions": given}
        await send_json(send, 200, orjson.dumps(content))


def _is_json(scope: Scope) -> bool:
    return any(
        name == b"content-type" and value.partition(b";")[0].strip().lower() == b"application/json"
        for name, value in scope["headers"]
    )
