"""What all requests and answers of the service share: limits, texts, moments, and their bases.

Only shapes and their validation belong here and in ``case_schemas`` and ``label_schemas``: what is let through can be
scored, logged and ingested.
"""

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from selfheal_assets.core.periods import in_utc
from selfheal_assets.stores.prediction_log import SHADOW_MARK

MAX_ROWS = 10_000
FLOAT32_MAX = 3.4e38  # the booster reads float32
# The log keeps 64-bit integers, and OpenAPI tells limits as rounded doubles: a number that is the same in all.
INT64_MAX = 9_200_000_000_000_000_000
TEXT_LENGTH = 200


def as_moment(value: Any) -> Any:
    """ISO 8601 text as naive UTC; text without an offset is UTC already."""
    if value is None or isinstance(value, datetime):
        return value
    try:
        return in_utc(datetime.fromisoformat(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("must be a date or time in ISO 8601, for example 2005-03-01T12:00:00Z") from error


# Databases and files end a text at a NUL: what is logged would not be what was scored.
WITHOUT_NUL = r"^[^\x00]*$"
Text = Annotated[str, Field(strict=True, min_length=1, max_length=TEXT_LENGTH, pattern=WITHOUT_NUL)]
# The form of the ids that the log makes: a client's must not meet one of them.
_MADE_ID = re.compile(rf"^[0-9a-f]{{32}}-[0-9]+$|{SHADOW_MARK}[0-9]+$")


def _not_made(value: str) -> str:
    if _MADE_ID.search(value):
        raise ValueError("has the form of the ids that this service makes: choose another")
    return value


def whole(value: Any) -> Any:
    """1.0 is an integer to JSON Schema, in which our fields are described, and to JSON itself."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


OwnId = Annotated[
    Text,
    AfterValidator(_not_made),
    Field(json_schema_extra={"not": {"pattern": _MADE_ID.pattern}}),
]
Moment = Annotated[datetime, BeforeValidator(as_moment)]


class Request(BaseModel):
    """Base of what clients send: an unknown field is an error, since a misspelt one must not pass."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Answer(BaseModel):
    """Base of what the service sends."""

    model_config = ConfigDict(protected_namespaces=())
