"""The FastAPI application: wires scoring, routes and errors, and follows the champion while it runs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from selfheal_assets.serving.careful import CarefulPath
from selfheal_assets.serving.errors import add_error_answers
from selfheal_assets.serving.group_commit import GroupCommit
from selfheal_assets.serving.hot_path import HotPath
from selfheal_assets.serving.request_id import RequestId
from selfheal_assets.serving.routes import Service, build_routers
from selfheal_assets.serving.scoring import ScoringService
from selfheal_assets.serving.snapshots import Counters
from selfheal_assets.settings import Settings
from selfheal_assets.stores.answers import AnswerStore
from selfheal_assets.stores.dead_letters import DeadLetters
from selfheal_assets.stores.model_registry import ModelRegistry
from selfheal_assets.stores.prediction_log import PredictionLog


def create_app(settings: Settings, refresh_s: float = 1.0) -> FastAPI:
    """The prediction service of one installation.

    Args:
        settings: names the use case, the registry, the log folder and the published snapshots.
        refresh_s: how often the registry is asked for the champion.
    """
    case = settings.case
    log = PredictionLog(settings.prediction_log)
    scoring = ScoringService(ModelRegistry(settings), log, case)
    group = GroupCommit(scoring, settings.now, idle=log.seal_if_old)
    counters = Counters(settings.now())
    careful = _careful_path(settings, scoring, counters)
    service = Service(settings, scoring, group, careful, counters)
    app = FastAPI(
        title=f"selfheal: {case.title}",
        description=f"{case.description}\n\nEach answer is on disk, in the prediction log, before it leaves.",
        lifespan=_lifespan(scoring, group, careful, log, refresh_s),
    )
    for router in build_routers(service):
        app.include_router(router)
    add_error_answers(app, counters)
    app.add_middleware(HotPath, case=case, group=group, counters=counters, scoring=scoring)
    app.add_middleware(RequestId)
    return app


def _careful_path(settings: Settings, scoring: ScoringService, counters: Counters) -> CarefulPath:
    folder = settings.prediction_log
    log = PredictionLog(folder)
    store = AnswerStore(folder, timedelta(hours=settings.idempotency_hours), log.durability)
    letters = DeadLetters(folder / "rejected")
    return CarefulPath(
        settings.case, scoring, log, store, letters, counters, settings.now, settings.wall_clock
    )


def _lifespan(
    scoring: ScoringService, group: GroupCommit, careful: CarefulPath, log: PredictionLog, refresh_s: float
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(scoring.refresh)
        stopped = threading.Event()
        watcher = threading.Thread(
            target=_watch, args=(scoring, stopped, refresh_s), name="champion", daemon=True
        )
        watcher.start()
        group.start(asyncio.get_running_loop())
        careful.group.start(asyncio.get_running_loop())
        try:
            yield
        finally:
            stopped.set()
            await run_in_threadpool(watcher.join)
            await run_in_threadpool(group.stop)
            await run_in_threadpool(careful.stop)
            log.close()

    return lifespan


def _watch(scoring: ScoringService, stopped: threading.Event, every_s: float) -> None:
    while not stopped.wait(every_s):
        scoring.refresh()
