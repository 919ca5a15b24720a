"""What this is, whether it can answer, and with which model."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response

from selfheal_assets.serving.routes.service import UNAVAILABLE, Service
from selfheal_assets.serving.scoring import NoChampion, ScoringService


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

    @router.get("/health", responses=UNAVAILABLE)
    def health(response: Response) -> dict[str, Any]:
        """Whether cases can be answered: 200 `ok` or `degraded` (see `problem`), 503 `unavailable`."""
        answer = _health(service.scoring)
        response.status_code = 503 if answer["status"] == "unavailable" else 200
        return answer | {"shadow": service.shadow.status() if service.shadow.wanted else None}

    @router.get("/model/info", responses=UNAVAILABLE)
    def model_info() -> dict[str, Any]:
        """The model that answers: version, features, threshold, and what it was trained on."""
        return _model_info(service)

    return router


def _health(scoring: ScoringService) -> dict[str, Any]:
    answer: dict[str, Any] = {"log_durability": scoring.durability, "problem": scoring.problem}
    try:
        champion = scoring.champion
    except NoChampion as error:
        return {"status": "unavailable", "model_version": None, "detail": str(error)} | answer
    known = {"model_version": champion.version, "model_fingerprint": champion.bundle.fingerprint}
    if scoring.log_problem:
        detail = (
            f"the prediction log cannot be written ({scoring.log_problem}): nothing is answered until it can"
        )
        return {"status": "unavailable", "detail": detail} | known | answer
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
