"""Answers to cases. Plainly valid requests are answered by ``hot_path`` before they come here."""

import hashlib
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError

from selfheal_assets.core.explanation import MAX_REASONS, reason_texts
from selfheal_assets.serving import answers
from selfheal_assets.serving.careful import CarefulRequest, Refused, Row
from selfheal_assets.serving.case_schemas import (
    CaseRequest,
    InvalidCase,
    PartialBatch,
    Prediction,
    PredictionBatch,
    build_schemas,
    case_columns,
)
from selfheal_assets.serving.group_commit import Answered
from selfheal_assets.serving.routes.service import UNAVAILABLE, Service
from selfheal_assets.serving.schemas import MAX_ROWS
from selfheal_assets.stores.prediction_log import CaseColumns

INT32_MAX = 2**31 - 1  # as the log keeps versions
Explain = Annotated[
    bool, Query(description=f"Tell, for each case, what raised its score most: at most {MAX_REASONS} reasons")
]
ModelVersion = Annotated[
    int | None,
    Query(
        ge=1,
        le=INT32_MAX,
        description="Score with this registered version, not with the champion; logged with role `requested`",
    ),
]
_RESPONSES: dict[int | str, dict[str, Any]] = UNAVAILABLE | {
    404: {"description": "There is no such model_version"},
    409: {"description": "A key or an id that was used for something else, or a model_version in quarantine"},
}

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern="^[!-~]+$",
        description="Sent again with the same body, it gives the first answer again",
    ),
]
_OPTIONS = {"explain", "model_version", "on_error"}
OnError = Annotated[
    Literal["reject_all", "skip"],
    Query(description="Whether a bad case refuses the batch, or is left out and told in `rejected`"),
]


def _unambiguous(request: Request) -> None:
    """See that no option is misspelt, which would silently not apply, and that nothing is given twice.

    Raises:
        RequestValidationError: one is.
    """
    known = _OPTIONS if request.url.path.endswith("/batch") else _OPTIONS - {"on_error"}
    given = [name for name, _ in request.query_params.multi_items()]
    problems: list[dict[str, Any]] = []
    for name in dict.fromkeys(given):
        if name not in known:
            message = f"there is no such option here; there are {', '.join(sorted(known))}"
            problems.append({"type": "unknown_option", "loc": ("query", name), "msg": message})
        elif given.count(name) > 1:
            problems.append({"type": "given_twice", "loc": ("query", name), "msg": "give it once"})
    if len(request.headers.getlist("idempotency-key")) > 1:
        problems.append({"type": "given_twice", "loc": ("header", "Idempotency-Key"), "msg": "give it once"})
    if problems:
        raise RequestValidationError(problems)


def prediction_router(service: Service) -> APIRouter:
    """Answers to cases, one or many."""
    schemas = build_schemas(service.settings.case)
    router = APIRouter(tags=["predict"], responses=_RESPONSES, dependencies=[Depends(_unambiguous)])

    @router.post("/predict", response_model=Prediction, response_model_exclude_unset=True)
    async def predict(
        request: Request,
        case: schemas.single,  # pyright: ignore[reportInvalidTypeForm]
        key: IdempotencyKey = None,
        explain: Explain = False,
        model_version: ModelVersion = None,
    ) -> Any:
        """Score one case. The answer is in the prediction log, as durable as `/health` says, before it is sent."""
        asked = CarefulRequest([Row(0, case)], single=True, key=key)
        if _is_careful(service, asked, explain, model_version):
            return await _answer_carefully(service, request, asked)
        return (await _answer(service, asked, explain, model_version))[0]

    @router.post(
        "/predict/batch",
        response_model=PartialBatch | PredictionBatch,
        response_model_exclude_unset=True,
        description=f"Score up to {MAX_ROWS:,} cases: all are answered, or none, unless bad ones are to be skipped.",
    )
    async def predict_batch(
        request: Request,
        batch: schemas.batch,  # pyright: ignore[reportInvalidTypeForm]
        key: IdempotencyKey = None,
        on_error: OnError = "reject_all",
        explain: Explain = False,
        model_version: ModelVersion = None,
    ) -> Any:
        asked = _batch(batch.cases, key, on_error == "skip")
        if _is_careful(service, asked, explain, model_version):
            return await _answer_carefully(service, request, asked)
        predictions = await _answer(service, asked, explain, model_version)
        return {"count": len(predictions), "predictions": predictions}

    return router


def _batch(cases: list[CaseRequest | InvalidCase], key: str | None, skip: bool) -> CarefulRequest:
    """A batch, in which bad cases are told apart; without ``skip`` there are none.

    Raises:
        RequestValidationError: there are some, and they refuse the batch.
    """
    rows: list[Row] = []
    refused: list[Refused] = []
    ids: set[str | None] = set()
    for i, case in enumerate(cases):
        if isinstance(case, InvalidCase):
            problems = [e | {"loc": ("body", "cases", i, *e["loc"])} for e in case.errors]
            refused.append(Refused(i, case.given, problems))
        elif case.prediction_id and case.prediction_id in ids:
            problem = {
                "type": "repeated_id",
                "loc": ("body", "cases", i, "prediction_id"),
                "msg": "an earlier case of this batch has this prediction_id: each case needs its own",
            }
            refused.append(Refused(i, case.model_dump(mode="json", exclude_unset=True), [problem]))
        else:
            rows.append(Row(i, case))
            ids.add(case.prediction_id)
    if refused and not skip:
        raise RequestValidationError([problem for r in refused for problem in r.problems])
    return CarefulRequest(rows, single=False, skip=skip, refused=refused, key=key)


def _is_careful(service: Service, asked: CarefulRequest, explain: bool, version: int | None) -> bool:
    """Whether the request is one for the careful path.

    Raises:
        RequestValidationError: it is, and asks for what that path does not have.
    """
    wishes = [name for name, given in (("explain", explain), ("model_version", version)) if given]
    if wishes and (asked.keys or asked.skip):
        message = "cannot be had together with Idempotency-Key, a prediction_id of your own, or on_error=skip"
        raise RequestValidationError(
            [{"type": "not_together", "loc": ("query", name), "msg": message} for name in wishes]
        )
    refuses = service.settings.case.serving.unseen_category == "refuse"
    return bool(asked.keys) or asked.skip or (refuses and not wishes)


async def _answer_carefully(service: Service, request: Request, asked: CarefulRequest) -> Response:
    """The answer's bytes as they were first given."""
    if asked.key:
        target = f"{request.url.path}?{request.url.query}\n".encode()
        asked = replace(asked, digest=hashlib.sha256(target + await request.body()).digest())
    answer = await service.careful.answer(asked)
    headers = {"Idempotent-Replayed": "true"} if answer.again else None
    return Response(answer.body, media_type="application/json", headers=headers)


async def _answer(
    service: Service, asked: CarefulRequest, explain: bool, version: int | None
) -> list[dict[str, Any]]:
    service.careful.require_seen(asked)
    cases = case_columns(service.settings.case, [row.case for row in asked.rows])
    answered = await (
        service.group.answer(cases) if version is None else _by_version(service, cases, version)
    )
    told = answers.answers(answered)
    answers.count(service.counters, told)
    given = [msgspec.structs.asdict(one) for one in told]
    return await _explained(service, answered, given) if explain else given


async def _by_version(service: Service, cases: CaseColumns, version: int) -> Answered:
    """Answers of the version that the client named, durable; the champion's group does not wait for its loading."""

    def score() -> Answered:
        model = service.scoring.requested(version)
        return Answered(
            cases, service.scoring.score_columns(cases, service.settings.now(), model), 0, cases.rows
        )

    return await run_in_threadpool(score)


async def _explained(
    service: Service, answered: Answered, given: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    texts = reason_texts(service.settings.case.features)
    explained = await run_in_threadpool(answers.explanations, answered, texts)
    return [answer | {"explanation": e} for answer, e in zip(given, explained, strict=True)]
