"""Measurements for Prometheus."""

import math

from fastapi import APIRouter, Request, Response

from selfheal_assets.serving.champion import NoChampion
from selfheal_assets.serving.routes.service import Service


def metrics_router(service: Service) -> APIRouter:
    """Measurements for Prometheus, left out of the OpenAPI document: they are no part of the API."""
    router = APIRouter(include_in_schema=False)

    @router.get("/metrics")
    def metrics(request: Request) -> Response:
        """All measurements of all worker processes, in Prometheus' text format."""
        service.counters.champion(*_champion(service))
        content, media_type = service.counters.exposition(request.headers.get("accept", ""))
        return Response(content, headers={"content-type": media_type})

    return router


def _champion(service: Service) -> tuple[int, float]:
    """Its version, and seconds since its training data ended, at the time that decisions are taken at."""
    try:
        champion = service.scoring.champion
    except NoChampion:
        return 0, math.nan
    return champion.version, (service.settings.now() - champion.bundle.trained_until).total_seconds()
