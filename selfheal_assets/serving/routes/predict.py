"""Answers to cases. Plainly valid requests are answered by ``hot_path`` before they come here."""

import hashlib
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError

from selfheal_assets.serving import answers
from selfheal_assets.serving.careful import CarefulRequest, Refused, Row
from selfheal_assets.serving.routes.service import UNAVAILABLE, Service
from selfheal_assets.serving.schemas import (
    MAX_ROWS,
    CaseRequest,
    InvalidCase,
    PartialBatch,
    Prediction,
    PredictionBatch,
    build_schemas,
    case_columns,
)

_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"description": "A key or an id that was used for something else"}
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
OnError = Annotated[
    Literal["reject_all", "skip"],
    Query(description="Whether a bad case refuses the batch, or is left out and told in `rejected`"),
]


def prediction_router(service: Service) -> APIRouter:
    """Answers to cases, one or many."""
    schemas = build_schemas(service.settings.case)
    router = APIRouter(tags=["predict"], responses=UNAVAILABLE | _CONFLICT)

    @router.post("/predict", response_model=Prediction)
    async def predict(
        request: Request,
        case: schemas.single,  # pyright: ignore[reportInvalidTypeForm]
        key: IdempotencyKey = None,
    ) -> Any:
        """Score one case. The answer is in the prediction log, on disk, before it is sent."""
        asked = CarefulRequest([Row(0, case)], single=True, key=key)
        if _is_careful(service, asked):
            return await _answer_carefully(service, request, asked)
        return (await _answer(service, [case]))[0]

    @router.post(
        "/predict/batch",
        response_model=PartialBatch | PredictionBatch,
        description=f"Score up to {MAX_ROWS:,} cases: all are answered, or none, unless bad ones are to be skipped.",
    )
    async def predict_batch(
        request: Request,
        batch: schemas.batch,  # pyright: ignore[reportInvalidTypeForm]
        key: IdempotencyKey = None,
        on_error: OnError = "reject_all",
    ) -> Any:
        asked = _batch(batch.cases, key, on_error == "skip")
        if _is_careful(service, asked):
            return await _answer_carefully(service, request, asked)
        predictions = await _answer(service, [row.case for row in asked.rows])
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


def _is_careful(service: Service, asked: CarefulRequest) -> bool:
    refuses = service.settings.case.serving.unseen_category == "refuse"
    return bool(asked.keys) or asked.skip or refuses


async def _answer_carefully(service: Service, request: Request, asked: CarefulRequest) -> Response:
    """The answer's bytes as they were first given."""
    if asked.key:
        target = f"{request.url.path}?{request.url.query}\n".encode()
        asked = replace(asked, digest=hashlib.sha256(target + await request.body()).digest())
    answer = await service.careful.answer(asked)
    headers = {"Idempotent-Replayed": "true"} if answer.again else None
    return Response(answer.body, media_type="application/json", headers=headers)


async def _answer(service: Service, rows: list[CaseRequest]) -> list[dict[str, Any]]:
    given = answers.answers(await service.group.answer(case_columns(service.settings.case, rows)))
    answers.count(service.counters, given)
    return given
