"""How the service's log looks, uvicorn's lines like ours: an object of JSON a line, or text."""

import logging
from typing import Any, Literal

from selfheal_assets.serving.middleware.request_id import current_request_id

_TEXT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"


class NamesRequest(logging.Filter):
    """Gives each line the id of the request that it was logged for, or ``None``."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every line through, named."""
        record.request_id = current_request_id.get()
        return True


def log_config(style: Literal["json", "text"], level: str) -> dict[str, Any]:
    """The configuration of ``logging`` for a process that serves; it can be handed to another process."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request": {"()": f"{__name__}.NamesRequest"}},
        "formatters": {"json": _json(), "text": {"format": _TEXT}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": style, "filters": ["request"]},
        },
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "uvicorn": {"level": level},
            "uvicorn.access": {"level": "WARNING"},  # ours knows route, time and key
        },
    }


def _json() -> dict[str, Any]:
    from pythonjsonlogger.core import RESERVED_ATTRS

    return {
        "()": "pythonjsonlogger.orjson.OrjsonFormatter",
        "fmt": ["levelname", "name", "message", "request_id"],
        "rename_fields": {"levelname": "level", "name": "logger"},
        "timestamp": "time",
        "reserved_attrs": [*RESERVED_ATTRS, "color_message"],
    }
