"""The FastAPI application: wires scoring, routes and errors, and follows the champion while it runs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from selfheal_assets.serving.errors import add_error_answers
from selfheal_assets.serving.group_commit import GroupCommit
from selfheal_assets.serving.hot_path import HotPath
from selfheal_assets.serving.request_id import RequestId
from selfheal_assets.serving.routes import Service, build_routers
from selfheal_assets.serving.scoring import ScoringService
from selfheal_assets.serving.shadow import Shadow
from selfheal_assets.serving.snapshots import Counters
from selfheal_assets.settings import Settings
from selfheal_assets.stores.model_registry import ModelRegistry
from selfheal_assets.stores.prediction_log import PredictionLog
from selfheal_assets.stores.segments import Durability

LOOKS_PER_SHADOW = 5  # who scores in shadow is asked for less often than the champion: nobody waits for it


def create_app(settings: Settings, refresh_s: float = 1.0) -> FastAPI:
    """The prediction service of one installation.

    Args:
        settings: names the use case, the registry, the log folder and the published snapshots.
        refresh_s: how often the registry is asked for the champion.
    """
    case = settings.case
    log = PredictionLog(settings.prediction_log, Durability(settings.durability))
    registry, counters = ModelRegistry(settings), Counters(settings.now())
    scoring = ScoringService(registry, log, case)
    group = GroupCommit(scoring, settings.now, idle=log.tend)
    shadow = Shadow(settings, registry, counters)
    log.follower = shadow.offer if shadow.wanted else None
    service = Service(settings, scoring, group, counters, shadow)
    app = FastAPI(
        title=f"selfheal: {case.title}",
        description=f"{case.description}\n\nEach answer is in the prediction log before it leaves.",
        lifespan=_lifespan(scoring, group, log, shadow, refresh_s),
    )
    for router in build_routers(service):
        app.include_router(router)
    add_error_answers(app, service.counters)
    app.add_middleware(HotPath, case=case, group=group, counters=service.counters)
    app.add_middleware(RequestId)
    return app


def _lifespan(
    scoring: ScoringService, group: GroupCommit, log: PredictionLog, shadow: Shadow, refresh_s: float
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(scoring.refresh)
        await run_in_threadpool(log.probe)
        stopped = threading.Event()
        watcher = threading.Thread(
            target=_watch, args=(scoring, shadow, stopped, refresh_s), name="champion", daemon=True
        )
        watcher.start()
        shadow.start()
        group.start(asyncio.get_running_loop())
        try:
            yield
        finally:
            stopped.set()
            await run_in_threadpool(watcher.join)
            await run_in_threadpool(group.stop)
            log.close()
            await run_in_threadpool(shadow.stop)

    return lifespan


def _watch(scoring: ScoringService, shadow: Shadow, stopped: threading.Event, every_s: float) -> None:
    for look in count():
        if look % LOOKS_PER_SHADOW == 0:
            shadow.refresh()
        if stopped.wait(every_s):
            return
        scoring.refresh()
