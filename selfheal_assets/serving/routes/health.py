"""Whether the process lives, whether it may be sent requests, and what is the matter if not. Open to everybody.

Each path answers HEAD as it answers GET, without the body: many a load balancer asks no other way.
"""

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel

from selfheal_assets.serving.champion import NoChampion
from selfheal_assets.serving.routes.service import UNAVAILABLE, Service
from selfheal_assets.serving.scoring import ScoringService


class Live(BaseModel):
    """The process lives."""

    status: str = "live"


class Ready(BaseModel):
    """Whether requests can be answered; ``reasons`` says what is in the way, and is empty where nothing is."""

    status: str
    reasons: list[str]


def health_router(service: Service) -> APIRouter:
    """Whether the process lives, and whether it can answer."""
    router = APIRouter(tags=["health"])

    @router.head("/health", include_in_schema=False)
    @router.get("/health", responses=UNAVAILABLE)
    def health(response: Response) -> dict[str, Any]:
        """Whether cases can be answered: 200 `ok` or `degraded` (see `problem`), 503 `unavailable`."""
        answer = _health(service.scoring)
        response.status_code = 503 if answer["status"] == "unavailable" else 200
        return answer | {"shadow": service.shadow.status() if service.shadow.wanted else None}

    @router.head("/health/live", include_in_schema=False)
    @router.get("/health/live")
    async def live() -> Live:
        """Always 200: an orchestrator restarts the process where this does not answer."""
        return Live()

    @router.head("/health/ready", include_in_schema=False)
    @router.get("/health/ready", responses={503: {"model": Ready, "description": "Send requests elsewhere"}})
    def ready(response: Response) -> Ready:
        """200 where a champion is loaded, the log can be written and API keys can be checked; else 503 with why."""
        reasons = _reasons(service)
        response.status_code = 503 if reasons else 200
        return Ready(status="unready" if reasons else "ready", reasons=reasons)

    return router


def _health(scoring: ScoringService) -> dict[str, Any]:
    answer: dict[str, Any] = {"log_durability": scoring.durability, "problem": scoring.problem}
    try:
        champion = scoring.champion
    except NoChampion as error:
        return {"status": "unavailable", "model_version": None, "detail": str(error)} | answer
    known = {"model_version": champion.version, "model_fingerprint": champion.bundle.fingerprint}
    if scoring.log_problem:
        return {"status": "unavailable", "detail": scoring.log_problem} | known | answer
    return {"status": "degraded" if scoring.problem else "ok"} | known | answer


def _reasons(service: Service) -> list[str]:
    reasons = [p for p in (service.scoring.log_problem, service.keys.problem) if p]
    try:
        _ = service.scoring.champion
    except NoChampion as error:
        return [str(error), *reasons]
    return reasons
