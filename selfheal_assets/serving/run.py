"""Start the service under uvicorn, in one process or several: what ``selfheal serve`` calls."""

import gc
import logging.config
import os
import signal
import socket
import threading
import time
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from selfheal_assets.serving.app import create_app
from selfheal_assets.serving.logs import log_config
from selfheal_assets.settings import Settings, SettingsError, share_metrics

SHUTDOWN_S = 10
_ORPHAN_CHECK_S = 0.5
_HEALTHCHECK_S = 30  # a busy machine is no reason to replace a worker
_KEEP_ALIVE_S = 75  # longer than a load balancer's 60: who closes first must not be the one that answers


def serve(settings: Settings, host: str = "127.0.0.1", port: int = 8000, workers: int = 1) -> None:
    """Answer requests until the process is told to stop, then finish them and seal the log.

    Args:
        settings: the installation to serve; its log level and format apply.
        host: address to listen on; ``0.0.0.0`` for all.
        port: port to listen on.
        workers: processes that answer. They share the port, the log's folder and the metrics' folder, and nothing
            else: each follows the champion and writes segments by itself. One that dies is replaced.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    logs = log_config(settings.log_format, settings.log_level)
    logging.config.dictConfig(logs)  # before the application is made, which may have something to say
    with _bound(host, port) as bound:
        _run(settings, logs, workers, bound)


def _run(settings: Settings, logs: dict[str, Any], workers: int, bound: socket.socket) -> None:
    if workers == 1:
        uvicorn.Server(_config(partial(_application, settings), logs)).run(sockets=[bound])
        return
    folder = settings.root / "metrics"
    share_metrics(folder)
    worker = partial(_worker, settings.model_copy(update={"metrics_folder": folder}), os.getpid())
    Multiprocess(_config(worker, logs, workers=workers), sockets=[bound]).run()


def _bound(host: str, port: int) -> socket.socket:
    """The address, taken before anything is loaded; nobody can connect until it is listened on.

    Raises:
        SettingsError: it cannot be had.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.set_inheritable(True)  # by the workers
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise SettingsError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}): choose another with --host and "
            "--port, or end the program that has it"
        ) from error
    return bound


def _config(application: partial[FastAPI], logs: dict[str, Any], **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        factory=True,
        log_config=logs,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_worker_healthcheck=_HEALTHCHECK_S,
        **more,
    )


def _worker(settings: Settings, supervisor: int) -> FastAPI:
    """What a worker process answers with."""
    threading.Thread(target=_end_with, args=(supervisor,), name="orphan-check", daemon=True).start()
    return _application(settings)


def _application(settings: Settings) -> FastAPI:
    return create_app(settings, started=_set_aside)


def _set_aside() -> None:
    """Keep Python's collector from what is loaded by now: walking it takes 200 ms, in which nobody is answered."""
    gc.collect()
    gc.freeze()


def _end_with(supervisor: int) -> None:
    """Stop this worker when its supervisor was killed: it would hold the port with nobody to replace it."""
    while os.getppid() == supervisor:
        time.sleep(_ORPHAN_CHECK_S)
    os.kill(os.getpid(), signal.SIGTERM)
