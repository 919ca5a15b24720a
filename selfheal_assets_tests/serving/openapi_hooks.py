"""Hooks of schemathesis for ``test_openapi``: what a schema cannot say about a request."""

from datetime import UTC, datetime
from typing import Any

import schemathesis

PAST = "2020-02-29T12:00:00Z"


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """A label must not be of the future, and OpenAPI knows no clock."""
    if case.path == "/labels" and isinstance(case.body, dict):
        labels = case.body.get("labels")
        for label in labels if isinstance(labels, list) else [case.body]:
            if isinstance(label, dict) and _is_future(label.get("occurred_at")):
                label["occurred_at"] = PAST


def _is_future(value: Any) -> bool:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return False
    return moment.replace(tzinfo=moment.tzinfo or UTC) > datetime.now(UTC)
