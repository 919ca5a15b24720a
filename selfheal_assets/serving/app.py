"""The FastAPI application: wires scoring, routes, middlewares and errors, and follows the champion while it runs."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import partial
from itertools import count

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from selfheal_assets.serving.careful import CarefulPath
from selfheal_assets.serving.errors import add_error_answers
from selfheal_assets.serving.group_commit import GroupCommit
from selfheal_assets.serving.label_intake import LabelIntake
from selfheal_assets.serving.metrics import Metrics
from selfheal_assets.serving.middleware import build_middlewares
from selfheal_assets.serving.openapi import describe
from selfheal_assets.serving.routes import Service, build_routers
from selfheal_assets.serving.scoring import ScoringService
from selfheal_assets.serving.shadow import Shadow
from selfheal_assets.settings import Settings
from selfheal_assets.stores import champion_failures
from selfheal_assets.stores.answers import AnswerStore
from selfheal_assets.stores.api_keys import KeyRing
from selfheal_assets.stores.dead_letters import DeadLetters
from selfheal_assets.stores.label_log import LabelLog
from selfheal_assets.stores.model_registry import ModelRegistry
from selfheal_assets.stores.prediction_log import PredictionLog
from selfheal_assets.stores.segment_writer import Durability

LOOKS_PER_SHADOW = 5  # who scores in shadow is asked for less often than the champion: nobody waits for it
logger = logging.getLogger(__name__)


def create_app(
    settings: Settings, refresh_s: float = 1.0, started: Callable[[], None] = lambda: None
) -> FastAPI:
    """The prediction service of one installation.

    Args:
        settings: names the use case, the registry, the log folder and the published snapshots.
        refresh_s: how often the registry is asked for the champion, and the file of the API keys looked at.
    """
    case = settings.case
    durability = Durability(settings.durability)
    metrics = Metrics(settings.now(), settings.metrics_folder)
    log = PredictionLog(settings.prediction_log, durability)
    registry = ModelRegistry(settings)
    failed = partial(champion_failures.report, settings.champion_failures)
    scoring = ScoringService(registry, log, case, metrics.appended, failed)
    group = GroupCommit(scoring, settings.now, log.tend, metrics.group)
    careful = _careful_path(settings, scoring, durability, metrics)
    labels = LabelIntake(LabelLog(settings.label_landing, durability))
    keys = KeyRing(settings.api_keys_path, named=settings.api_keys is not None, every_s=refresh_s)
    shadow = Shadow(settings, registry, metrics)
    scoring.follower = shadow.offer if shadow.wanted else None
    service = Service(settings, scoring, group, careful, labels, metrics, keys, shadow)
    app = FastAPI(
        title=f"selfheal: {case.title}",
        description=f"{case.description}\n\nEach answer is in the prediction log before it leaves.",
        docs_url=None,  # routes.docs has them, without a CDN
        redoc_url=None,
        lifespan=_lifespan(service, log, refresh_s, started),
    )
    routers = build_routers(service)
    for router in routers:
        app.include_router(router)
    add_error_answers(app)
    describe(app, service)
    paths = {route.path for router in routers for route in router.routes}  # pyright: ignore[reportAttributeAccessIssue]
    paths.add("/openapi.json")
    for middleware in reversed(build_middlewares(service, paths)):  # FastAPI puts each around those before
        app.add_middleware(middleware.cls, *middleware.args, **middleware.kwargs)
    return app


def _careful_path(
    settings: Settings, scoring: ScoringService, durability: Durability, metrics: Metrics
) -> CarefulPath:
    folder = settings.prediction_log
    log = PredictionLog(folder, durability)
    store = AnswerStore(folder, timedelta(hours=settings.idempotency_hours), durability)
    letters = DeadLetters(folder / "rejected")
    return CarefulPath(
        settings.case, scoring, log, store, letters, metrics, settings.now, settings.wall_clock
    )


def _lifespan(
    service: Service, log: PredictionLog, refresh_s: float, started: Callable[[], None]
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    scoring, paths = service.scoring, (service.group, service.careful, service.labels)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        _say_who_may_ask(service)
        await run_in_threadpool(scoring.refresh)
        await run_in_threadpool(service.shadow.refresh)
        await run_in_threadpool(log.probe)
        stopped = threading.Event()
        watcher = threading.Thread(
            target=_watch, args=(service, stopped, refresh_s), name="champion", daemon=True
        )
        watcher.start()
        service.shadow.start()
        for path in paths:
            path.start(asyncio.get_running_loop())
        started()
        try:
            yield
        finally:
            stopped.set()
            await run_in_threadpool(watcher.join)
            for path in paths:
                await run_in_threadpool(path.stop)
            log.close()
            await run_in_threadpool(service.shadow.stop)

    return lifespan


def _say_who_may_ask(service: Service) -> None:
    if service.keys.problem is None and not service.keys.required:
        logger.warning(
            "no API keys in %s: every endpoint is open to whoever reaches this address; "
            "`selfheal keys create --name NAME` closes it",
            service.settings.api_keys_path,
        )


def _watch(service: Service, stopped: threading.Event, every_s: float) -> None:
    for look in count(1):
        if stopped.wait(every_s):
            return
        service.scoring.refresh()
        if look % LOOKS_PER_SHADOW == 0:
            service.shadow.refresh()
