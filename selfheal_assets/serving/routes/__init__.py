"""The service's endpoints, one module per concern. Each validates, calls one thing, and answers."""

from fastapi import APIRouter

from selfheal_assets.serving.routes.about import about_router
from selfheal_assets.serving.routes.docs import docs_router
from selfheal_assets.serving.routes.health import health_router
from selfheal_assets.serving.routes.labels import label_router
from selfheal_assets.serving.routes.metrics import metrics_router
from selfheal_assets.serving.routes.monitoring import monitoring_router
from selfheal_assets.serving.routes.predict import prediction_router
from selfheal_assets.serving.routes.service import Service


def build_routers(service: Service) -> list[APIRouter]:
    """All endpoints over one service."""
    return [
        about_router(service),
        health_router(service),
        prediction_router(service),
        label_router(service),
        monitoring_router(service),
        metrics_router(service),
        docs_router(service.settings.case.title),
    ]


__all__ = ["Service", "build_routers"]
