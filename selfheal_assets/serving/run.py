"""Start the service under uvicorn: what ``selfheal serve`` calls."""

import logging

import uvicorn

from selfheal_assets.serving.app import create_app
from selfheal_assets.settings import Settings

SHUTDOWN_S = 10


def serve(settings: Settings, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Answer requests until the process is told to stop, then finish them and seal the log.

    Args:
        settings: the installation to serve; its log level applies.
        host: address to listen on; ``0.0.0.0`` for all.
        port: port to listen on.
    """
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvicorn.run(
        create_app(settings),
        host=host,
        port=port,
        log_level=settings.log_level.lower(),
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
