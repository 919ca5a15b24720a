"""The OpenAPI document: FastAPI's, with what the middlewares ask for and answer."""

from copy import deepcopy
from typing import Any

from fastapi import FastAPI

from selfheal_assets.serving.middleware.authenticate import HEALTH
from selfheal_assets.serving.routes import Service
from selfheal_assets.stores.api_keys import KeysUnusable

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key of `selfheal keys create`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key"},
}
_TEXT = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "string"}}}
_JSON = {"application/json": {"schema": _TEXT}}
_RETRY = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}
_UNAUTHORIZED = {"description": "No valid API key", "content": _JSON}
_TOO_MANY = {"description": "More requests than the limit allows", "content": _JSON, "headers": _RETRY}
_UNAVAILABLE = {"description": "API keys cannot be checked", "content": _JSON}
_OF_A_BODY = {"413": "The body is too large", "415": "The body is not `application/json`"}
_INVALID = {"application/json": {"schema": {"$ref": "#/components/schemas/HTTPValidationError"}}}


def describe(app: FastAPI, service: Service) -> None:
    """Let the document say that keys are required, exactly while they are."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = deepcopy(plain())
        document["components"]["securitySchemes"] = _SCHEMES
        required = _keys_are_required(service)
        for path, methods in document["paths"].items():
            for operation in methods.values():
                _complete(operation, secured=required and path not in HEALTH)
                if service.settings.rate_limit and path not in HEALTH:
                    operation["responses"].setdefault("429", _TOO_MANY)
        return document

    app.openapi = openapi


def _keys_are_required(service: Service) -> bool:
    try:
        return service.keys.required
    except KeysUnusable:
        return True


def _complete(operation: dict[str, Any], secured: bool) -> None:
    answers = operation["responses"]
    if secured:
        operation["security"] = [{name: []} for name in _SCHEMES]
        answers.setdefault("401", _UNAUTHORIZED)
        answers.setdefault("503", _UNAVAILABLE)
    if "requestBody" in operation:
        for status, text in _OF_A_BODY.items():
            answers.setdefault(status, {"description": text, "content": _INVALID})
