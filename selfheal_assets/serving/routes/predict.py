"""Answers to cases. Plainly valid requests are answered by ``hot_path`` before they come here."""

from typing import Any

from fastapi import APIRouter

from selfheal_assets.serving import answers
from selfheal_assets.serving.routes.service import UNAVAILABLE, Service
from selfheal_assets.serving.schemas import (
    MAX_ROWS,
    CaseRequest,
    Prediction,
    PredictionBatch,
    build_schemas,
    case_columns,
)


def prediction_router(service: Service) -> APIRouter:
    """Answers to cases, one or many."""
    schemas = build_schemas(service.settings.case)
    router = APIRouter(tags=["predict"], responses=UNAVAILABLE)

    @router.post("/predict", response_model=Prediction)
    async def predict(case: schemas.single) -> Any:  # pyright: ignore[reportInvalidTypeForm]
        """Score one case. The answer is in the prediction log, on disk, before it is sent."""
        return (await _answer(service, [case]))[0]

    @router.post(
        "/predict/batch",
        response_model=PredictionBatch,
        description=f"Score up to {MAX_ROWS:,} cases: all are answered, or none.",
    )
    async def predict_batch(batch: schemas.batch) -> Any:  # pyright: ignore[reportInvalidTypeForm]
        predictions = await _answer(service, batch.cases)
        return {"count": len(predictions), "predictions": predictions}

    return router


async def _answer(service: Service, rows: list[CaseRequest]) -> list[dict[str, Any]]:
    given = answers.answers(await service.group.answer(case_columns(service.settings.case, rows)))
    answers.count(service.counters, given)
    return given
