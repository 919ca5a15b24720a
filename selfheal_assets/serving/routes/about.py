"""What this is, and with which model it answers."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from selfheal_assets.serving.routes.service import UNAVAILABLE, Service

_LINKS = (
    "docs",
    "redoc",
    "health",
    "health/live",
    "health/ready",
    "model/info",
    "predict",
    "predict/batch",
    "labels",
    "labels/status",
    "monitoring/stats",
    "metrics",
)


def about_router(service: Service) -> APIRouter:
    """What this is, and with which model it answers."""
    router = APIRouter(tags=["about"])
    case = service.settings.case

    @router.get("/")
    def about() -> dict[str, Any]:
        """What this service predicts, and where to go on."""
        links = {p: f"/{p}" for p in _LINKS}
        return {
            "service": "selfheal",
            "use_case": case.name,
            "title": case.title,
            "description": case.description,
            "links": links,
        }

    @router.get("/model/info", responses=UNAVAILABLE)
    def model_info() -> dict[str, Any]:
        """The model that answers: version, features, threshold, and what it was trained on."""
        return _model_info(service)

    return router


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
