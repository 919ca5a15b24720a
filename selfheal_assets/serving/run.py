"""Start the service under uvicorn: what ``selfheal serve`` calls."""

import logging.config

import uvicorn

from selfheal_assets.serving.app import create_app
from selfheal_assets.serving.logs import log_config
from selfheal_assets.settings import Settings

SHUTDOWN_S = 10


def serve(settings: Settings, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Answer requests until the process is told to stop, then finish them and seal the log.

    Args:
        settings: the installation to serve; its log level and format apply.
        host: address to listen on; ``0.0.0.0`` for all.
        port: port to listen on.
    """
    logs = log_config(settings.log_format, settings.log_level)
    logging.config.dictConfig(logs)  # before the application is made, which may have something to say
    uvicorn.run(
        create_app(settings),
        host=host,
        port=port,
        log_config=logs,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
