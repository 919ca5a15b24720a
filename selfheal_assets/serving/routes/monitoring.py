"""What the loop last saw and decided."""

from typing import Any

from fastapi import APIRouter

from selfheal_assets.serving.routes.service import Service
from selfheal_assets.stores.snapshots import read_rows

RECENT_DECISIONS = 10


def monitoring_router(service: Service) -> APIRouter:
    """What the loop last saw and decided."""
    router = APIRouter(tags=["monitoring"])
    published = service.settings.published

    @router.get("/monitoring/stats")
    def stats() -> dict[str, Any]:
        """All predictions at a glance, open alarms, and the newest health report and decisions, as Dagster last
        published them (`null` before it has), and this process's counters."""
        predictions = read_rows(published, "prediction_stats", 1)
        health = read_rows(published, "health_report", 1)
        return {
            "predictions": predictions[0] if predictions else None,
            "open_alarms": _open_alarms(health[0]) if health else None,
            "health": health[0] if health else None,
            "decisions": read_rows(published, "decisions", RECENT_DECISIONS),
            "service": {"started_at": service.counters.started_at, "counts": service.counters.read()},
        }

    return router


def _open_alarms(health: dict[str, Any]) -> list[str]:
    """Checks that failed in the newest chunk."""
    return [name for name in (health.get("failed_checks") or "").split(", ") if name]
