"""Error answers: a refusal names field and mend, in FastAPI's shape, and never shows a stack trace."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from selfheal_assets.serving.scoring import LogNotDurable, NoChampion
from selfheal_assets.serving.snapshots import Counters

SHOWN_ERRORS = 100
_SHOWN_CHARACTERS = 200
_LARGEST_SHOWN = 1e300  # also keeps NaN and infinity out, which JSON cannot hold
_LARGEST_INTEGER = 2**63  # many readers of JSON stop there


def add_error_answers(app: FastAPI, counters: Counters) -> None:
    """Answer refused requests with 422 and unavailable ones with 503, and count both."""

    @app.exception_handler(RequestValidationError)
    def refused(request: Request, error: RequestValidationError) -> JSONResponse:
        counters.add("refused_requests")
        problems = error.errors()
        return JSONResponse({"detail": [told(p) for p in problems[:SHOWN_ERRORS]]}, status_code=422)

    @app.exception_handler(NoChampion)
    @app.exception_handler(LogNotDurable)
    def unavailable(request: Request, error: Exception) -> JSONResponse:
        counters.add("unavailable_answers")
        return JSONResponse({"detail": str(error)}, status_code=503, headers={"Retry-After": "1"})


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
