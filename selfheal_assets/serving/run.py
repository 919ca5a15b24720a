"""Start the service under uvicorn, in one process or several: what ``selfheal serve`` calls."""

import logging
import os
import signal
import threading
import time
from functools import partial

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from selfheal_assets.serving.app import create_app
from selfheal_assets.settings import Settings

SHUTDOWN_S = 10
_ORPHAN_CHECK_S = 0.5
_HEALTHCHECK_S = 30  # a busy machine is no reason to replace a worker


def serve(settings: Settings, host: str = "127.0.0.1", port: int = 8000, workers: int = 1) -> None:
    """Answer requests until the process is told to stop, then finish them and seal the log.

    Args:
        settings: the installation to serve; its log level applies.
        host: address to listen on; ``0.0.0.0`` for all.
        port: port to listen on.
        workers: processes that answer. They share the port and the log's folder, and nothing else: each follows
            the champion and writes segments by itself. One that dies is replaced.
    """
    supervisor = os.getpid() if workers > 1 else None
    config = uvicorn.Config(
        partial(_application, settings, supervisor),
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level=settings.log_level.lower(),
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_worker_healthcheck=_HEALTHCHECK_S,
    )
    if supervisor is None:
        uvicorn.Server(config).run()
    else:
        Multiprocess(config, sockets=[config.bind_socket()]).run()


def _application(settings: Settings, supervisor: int | None) -> FastAPI:
    """What a process answers with; a worker process begins here."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if supervisor is not None:
        threading.Thread(target=_end_with, args=(supervisor,), name="orphan-check", daemon=True).start()
    return create_app(settings)


def _end_with(supervisor: int) -> None:
    """Stop this worker when its supervisor was killed: it would hold the port with nobody to replace it."""
    while os.getppid() == supervisor:
        time.sleep(_ORPHAN_CHECK_S)
    os.kill(os.getpid(), signal.SIGTERM)
