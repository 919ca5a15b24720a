"""Error answers: a refusal names field and mend, in FastAPI's shape, and never shows a stack trace."""

import sys
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from selfheal_assets.serving.champion import NoChampion
from selfheal_assets.serving.requested import QuarantinedVersion, UnknownVersion, VersionUnavailable
from selfheal_assets.serving.scoring import LogNotDurable

SHOWN_ERRORS = 100
_SHOWN_CHARACTERS = 200
_DEPTH_OF_A_BATCH = 3
_LARGEST_SHOWN = 1e300  # also keeps NaN and infinity out, which JSON cannot hold
_LARGEST_INTEGER = 2**63  # many readers of JSON stop there


class ReusedKey(ValueError):
    """A key or an id came again with something else; ``problems`` say which, in FastAPI's shape."""

    def __init__(self, problems: list[dict[str, Any]]) -> None:
        super().__init__(problems[0]["msg"])
        self.problems = problems


def add_error_answers(app: FastAPI) -> None:
    """Answer refused requests with 422 or 409 and unavailable ones with 503."""

    @app.exception_handler(RequestValidationError)
    def refused(request: Request, error: RequestValidationError) -> JSONResponse:
        return _refusal(422, error.errors())

    @app.exception_handler(ReusedKey)
    def conflicting(request: Request, error: ReusedKey) -> JSONResponse:
        return _refusal(409, error.problems)

    @app.exception_handler(HTTPException)
    async def unreadable(request: Request, error: HTTPException) -> Response:
        """FastAPI only says that it could not parse the body; what it met is the cause."""
        if error.status_code == 400 and (problem := _unreadable(error.__cause__)):
            return JSONResponse({"detail": [problem]}, status_code=422)
        return await http_exception_handler(request, error)

    @app.exception_handler(NoChampion)
    @app.exception_handler(LogNotDurable)
    @app.exception_handler(VersionUnavailable)
    def unavailable(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=503, headers={"Retry-After": "1"})

    @app.exception_handler(UnknownVersion)
    @app.exception_handler(QuarantinedVersion)
    def not_that_version(request: Request, error: Exception) -> JSONResponse:
        unknown = isinstance(error, UnknownVersion)
        kind, status = ("unknown_version", 404) if unknown else ("quarantined_version", 409)
        problem = {"type": kind, "loc": ["query", "model_version"], "msg": str(error)}
        return JSONResponse({"detail": [problem]}, status_code=status)


def _refusal(status: int, problems: Sequence[Any]) -> JSONResponse:
    return JSONResponse({"detail": [told(p) for p in problems[:SHOWN_ERRORS]]}, status_code=status)


def _unreadable(cause: BaseException | None) -> dict[str, Any] | None:
    """Why a body is no JSON that can be read, in FastAPI's shape."""
    if isinstance(cause, UnicodeDecodeError):
        byte = cause.object[cause.start]
        message = f"the body is not UTF-8: byte {cause.start} is 0x{byte:02x} ({cause.reason})"
        return {"type": "invalid_utf8", "loc": ["body", cause.start], "msg": message}
    if isinstance(cause, RecursionError):
        message = f"the body is nested too deeply: a case nests {_DEPTH_OF_A_BATCH} levels at most"
        return {"type": "nested_too_deeply", "loc": ["body"], "msg": message}
    if isinstance(cause, ValueError):
        message = f"a number of the body has more than {sys.get_int_max_str_digits():,} digits"
        return {"type": "number_too_long", "loc": ["body"], "msg": message}
    return None


def told(problem: dict[str, Any]) -> dict[str, Any]:
    """A validation error in FastAPI's shape; the input only where it is a value that JSON can hold."""
    location = [_printable(part) if isinstance(part, str) else part for part in problem["loc"]]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "json_invalid":
        message = f"{message}: {problem['ctx']['error']}"
    told: dict[str, Any] = {"type": problem["type"], "loc": location, "msg": message}
    given = problem.get("input")
    if isinstance(given, str):
        told["input"] = _printable(given)
    elif isinstance(given, int | float) and abs(given) < (
        _LARGEST_INTEGER if isinstance(given, int) else _LARGEST_SHOWN
    ):
        told["input"] = given
    return told


def _printable(text: str) -> str:
    """Text from outside, cut, and without what UTF-8 cannot hold."""
    return text[:_SHOWN_CHARACTERS].encode(errors="replace").decode()
