"""What every request passes before its endpoint, plain ASGI, one module per concern.

``build_middlewares`` holds the order. None of them knows a use case, except the hot path at the end.
"""

from collections.abc import Collection

from fastapi.middleware import Middleware

from selfheal_assets.serving.hot_path import HotPath
from selfheal_assets.serving.middleware.authenticate import Authenticate
from selfheal_assets.serving.middleware.bodies import Bodies
from selfheal_assets.serving.middleware.observe import Observe
from selfheal_assets.serving.middleware.rate_limit import RateLimit
from selfheal_assets.serving.middleware.request_id import RequestId
from selfheal_assets.serving.middleware.security_headers import SecurityHeaders
from selfheal_assets.serving.routes import Service


def build_middlewares(service: Service, paths: Collection[str]) -> list[Middleware]:
    """All middlewares, the outermost first.

    Whoever is refused is still named, counted and given the headers; who may ask is settled before how much, and
    both before a byte of the body is read.

    Args:
        service: one installation.
        paths: of the endpoints; what is asked for elsewhere is counted as one.
    """
    settings = service.settings
    limited = [Middleware(RateLimit, limit=settings.rate_limit)] if settings.rate_limit else []
    return [
        Middleware(RequestId),
        Middleware(SecurityHeaders),
        Middleware(
            Observe,
            metrics=service.counters,
            paths=frozenset(paths),
            access_log=settings.access_log,
            slow_s=settings.slow_request_s,
        ),
        Middleware(
            Authenticate,
            keys=service.keys,
            metrics_open=settings.metrics_open,
            docs_open=settings.docs_open,
        ),
        *limited,
        Middleware(Bodies),
        Middleware(
            HotPath,
            case=settings.case,
            group=service.group,
            counters=service.counters,
            scoring=service.scoring,
        ),
    ]
