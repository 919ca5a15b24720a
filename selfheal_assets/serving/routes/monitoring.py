"""What the loop last saw and decided."""

from typing import Any

from fastapi import APIRouter

from selfheal_assets.serving.routes.service import Service
from selfheal_assets.serving.snapshots import read_rows

RECENT_DECISIONS = 10


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
