"""Answers to cases. Plainly valid requests are answered by ``hot_path`` before they come here."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool

from selfheal_assets.core.explanation import MAX_REASONS, reason_texts
from selfheal_assets.serving import answers
from selfheal_assets.serving.group_commit import Answered
from selfheal_assets.serving.routes.service import UNAVAILABLE, Service
from selfheal_assets.serving.schemas import (
    MAX_ROWS,
    CaseRequest,
    Prediction,
    PredictionBatch,
    build_schemas,
    case_columns,
)
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
RESPONSES: dict[int | str, dict[str, Any]] = UNAVAILABLE | {
    404: {"description": "There is no such model_version"},
    409: {"description": "That model_version is quarantined"},
}


def prediction_router(service: Service) -> APIRouter:
    """Answers to cases, one or many."""
    schemas = build_schemas(service.settings.case)
    router = APIRouter(tags=["predict"], responses=RESPONSES)

    @router.post("/predict", response_model=Prediction, response_model_exclude_unset=True)
    async def predict(
        case: schemas.single,  # pyright: ignore[reportInvalidTypeForm]
        explain: Explain = False,
        model_version: ModelVersion = None,
    ) -> Any:
        """Score one case. The answer is in the prediction log, on disk, before it is sent."""
        return (await _answer(service, [case], explain, model_version))[0]

    @router.post(
        "/predict/batch",
        response_model=PredictionBatch,
        response_model_exclude_unset=True,
        description=f"Score up to {MAX_ROWS:,} cases: all are answered, or none.",
    )
    async def predict_batch(
        batch: schemas.batch,  # pyright: ignore[reportInvalidTypeForm]
        explain: Explain = False,
        model_version: ModelVersion = None,
    ) -> Any:
        predictions = await _answer(service, batch.cases, explain, model_version)
        return {"count": len(predictions), "predictions": predictions}

    return router


async def _answer(
    service: Service, rows: list[CaseRequest], explain: bool, version: int | None
) -> list[dict[str, Any]]:
    cases = case_columns(service.settings.case, rows)
    answered = await (
        service.group.answer(cases) if version is None else _by_version(service, cases, version)
    )
    given = answers.answers(answered)
    if explain:
        given = await _explained(service, answered, given)
    answers.count(service.counters, given)
    return given


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
