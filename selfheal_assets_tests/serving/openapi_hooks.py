"""Hooks of schemathesis for ``test_openapi``: what a schema cannot say about a request."""

from datetime import UTC, datetime
from typing import Any

import schemathesis

PAST = "2020-02-29T12:00:00Z"


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Send no label of the future, as OpenAPI knows no clock; and no two options that exclude each other."""
    if case.path == "/labels" and isinstance(case.body, dict):
        for label in _members(case.body, "labels"):
            if _is_future(label.get("occurred_at")):
                label["occurred_at"] = PAST
    if case.path.startswith("/predict") and any(
        case.query.get(name) for name in ("explain", "model_version")
    ):
        case.headers.pop("Idempotency-Key", None)
        case.query.pop("on_error", None)
        if isinstance(case.body, dict):
            for member in _members(case.body, "cases"):
                member.pop("prediction_id", None)


def _members(body: dict[str, Any], name: str) -> list[dict[str, Any]]:
    members = body[name] if isinstance(body.get(name), list) else [body]
    return [member for member in members if isinstance(member, dict)]


def _is_future(value: Any) -> bool:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return False
    return moment.replace(tzinfo=moment.tzinfo or UTC) > datetime.now(UTC)
