"""The service's endpoints. Each validates, calls one thing, and answers; sync, so they run on threads."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import polars as pl
from fastapi import APIRouter, Response
from fastapi.exceptions import RequestValidationError

from selfheal_assets.core.encoding import unseen_categories
from selfheal_assets.serving.schemas import (
    MAX_ROWS,
    CaseRequest,
    CaseSchemas,
    LabelBody,
    LabelIn,
    LabelsAccepted,
    Prediction,
    PredictionBatch,
    labels_frame,
    to_frame,
)
from selfheal_assets.serving.scoring import NoChampion, Scored, ScoringService
from selfheal_assets.serving.snapshots import Counters, read_rows
from selfheal_assets.settings import Settings
from selfheal_assets.stores import label_ledger

RECENT_DECISIONS = 10
_UNAVAILABLE: dict[int | str, dict[str, Any]] = {
    503: {"description": "No production model, or the log cannot be written"}
}


@dataclass(frozen=True)
class Service:
    """What the endpoints share."""

    settings: Settings
    scoring: ScoringService
    counters: Counters


def about_router(service: Service) -> APIRouter:
    """What this is, whether it can answer, and with which model."""
    router = APIRouter(tags=["about"])
    case = service.settings.case

    @router.get("/")
    def about() -> dict[str, Any]:
        """What this service predicts, and where to go on."""
        links = {p: f"/{p}" for p in ("docs", "health", "model/info", "predict", "predict/batch", "labels")}
        return {
            "service": "selfheal",
            "use_case": case.name,
            "title": case.title,
            "description": case.description,
            "links": links | {"monitoring/stats": "/monitoring/stats"},
        }

    @router.get("/health", responses=_UNAVAILABLE)
    def health(response: Response) -> dict[str, Any]:
        """Whether cases can be answered: 200 `ok` or `degraded` (see `problem`), 503 `unavailable`."""
        answer = _health(service.scoring)
        response.status_code = 503 if answer["status"] == "unavailable" else 200
        return answer

    @router.get("/model/info", responses=_UNAVAILABLE)
    def model_info() -> dict[str, Any]:
        """The model that answers: version, features, threshold, and what it was trained on."""
        return _model_info(service)

    return router


def _health(scoring: ScoringService) -> dict[str, Any]:
    answer: dict[str, Any] = {"log_durability": "fsync", "problem": scoring.problem}
    try:
        champion = scoring.champion
    except NoChampion as error:
        return {"status": "unavailable", "model_version": None, "detail": str(error)} | answer
    known = {"model_version": champion.version, "model_fingerprint": champion.bundle.fingerprint}
    return {"status": "degraded" if scoring.problem else "ok"} | known | answer


def _model_info(service: Service) -> dict[str, Any]:
    case, champion = service.settings.case, service.scoring.champion
    bundle = champion.bundle
    return {
        "model_version": champion.version,
        "model_fingerprint": bundle.fingerprint,
        "candidate": bundle.candidate,
        "threshold": bundle.threshold,
        "trained": {"from": bundle.trained_from, "until": bundle.trained_until},
        "training_fingerprint": bundle.training_fingerprint,
        "reference": asdict(bundle.reference),
        "features": [f.model_dump(mode="json", exclude_none=True) for f in bundle.features],
        "use_case": {
            "name": case.name,
            "title": case.title,
            "description": case.description,
            "label": case.label.name,
            "label_description": case.label.description,
            "horizon_months": case.label.horizon_months,
        },
    }


def prediction_router(service: Service, schemas: CaseSchemas) -> APIRouter:
    """Answers to cases, one or many."""
    router = APIRouter(tags=["predict"], responses=_UNAVAILABLE)

    @router.post("/predict")
    def predict(case: schemas.single) -> Prediction:  # pyright: ignore[reportInvalidTypeForm]
        """Score one case. The answer is in the prediction log, on disk, before it is sent."""
        return _answer(service, [case])[0]

    @router.post("/predict/batch", description=f"Score up to {MAX_ROWS:,} cases: all are answered, or none.")
    def predict_batch(batch: schemas.batch) -> PredictionBatch:  # pyright: ignore[reportInvalidTypeForm]
        predictions = _answer(service, batch.cases)
        return PredictionBatch(count=len(predictions), predictions=predictions)

    return router


def _answer(service: Service, rows: list[CaseRequest]) -> list[Prediction]:
    now = service.settings.now()
    cases = to_frame(service.settings.case, rows, now)
    scored = service.scoring.score(cases, now)
    predictions = _predictions(cases, scored)
    service.counters.add("requests")
    service.counters.add("predictions", len(predictions))
    service.counters.add("positive_predictions", int(scored.prediction.sum()))
    service.counters.add("predictions_with_warnings", sum(1 for p in predictions if p.warnings))
    return predictions


def _predictions(cases: pl.DataFrame, scored: Scored) -> list[Prediction]:
    bundle = scored.champion.bundle
    rows = cases.iter_rows(named=True)
    answers = (scored.prediction_ids, scored.probability, scored.prediction)
    return [
        Prediction(
            prediction_id=prediction_id,
            entity_id=row["entity_id"],
            probability=float(probability),
            prediction=int(prediction),
            threshold=scored.threshold,
            model_version=scored.version,
            model_fingerprint=bundle.fingerprint,
            warnings=[
                f"{name}: category '{row[name]}' was not seen in training and is treated as missing"
                for name in unseen_categories(row, bundle.features, bundle.vocabulary)
            ],
        )
        for row, prediction_id, probability, prediction in zip(rows, *answers, strict=True)
    ]


def label_router(service: Service) -> APIRouter:
    """Outcomes, as they become known."""
    router = APIRouter(tags=["labels"])

    @router.post("/labels", status_code=202)
    def labels(body: LabelBody) -> LabelsAccepted:
        """Take one label, or `{"labels": [...]}`. They are on disk when this answers, and in the ledger after
        the next ingestion. A correction is a new label for the same case."""
        given = [body] if isinstance(body, LabelIn) else body.labels
        now = service.settings.now()
        _refuse_future(given, now, single=isinstance(body, LabelIn))
        label_ledger.drop(service.settings.label_landing, labels_frame(given, now))
        service.counters.add("labels", len(given))
        return LabelsAccepted(accepted=len(given))

    return router


def _refuse_future(labels: list[LabelIn], now: datetime, single: bool) -> None:
    """A label cannot be known before it is true: the ledger would set such a row aside later, unseen."""
    message = f"occurred_at is after now ({now.isoformat(timespec='seconds')}Z): leave it out, or correct it"
    errors = [
        {
            "type": "in_the_future",
            "loc": ("body", *(["single"] if single else ["batch", "labels", i]), "occurred_at"),
            "msg": message,
        }
        for i, label in enumerate(labels)
        if label.occurred_at and label.occurred_at > now
    ]
    if errors:
        raise RequestValidationError(errors)


def monitoring_router(service: Service) -> APIRouter:
    """What the loop last saw and decided."""
    router = APIRouter(tags=["monitoring"])
    published = service.settings.published

    @router.get("/monitoring/stats")
    def stats() -> dict[str, Any]:
        """The newest health report and decisions that Dagster published, and this process's counters."""
        health = read_rows(published, "health_report", 1)
        return {
            "health": health[0] if health else None,
            "decisions": read_rows(published, "decisions", RECENT_DECISIONS),
            "service": {"started_at": service.counters.started_at, "counts": service.counters.read()},
        }

    return router
