"""Requests and answers of the service. A request's fields, bounds and allowed values are the use case's.

Only shapes and their validation belong here: what is let through can be scored, logged and ingested.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
    model_validator,
)

from selfheal_assets.core.explanation import MAX_REASONS
from selfheal_assets.core.spec import Feature, FeatureType
from selfheal_assets.stores.prediction_log import SHADOW_MARK, CaseColumns, with_ids
from selfheal_assets.use_case import UseCase

MAX_ROWS = 10_000
FLOAT32_MAX = 3.4e38  # the booster reads float32
# The log keeps 64-bit integers, and OpenAPI tells limits as rounded doubles: a number that is the same in all.
INT64_MAX = 9_200_000_000_000_000_000
TEXT_LENGTH = 200
_EXAMPLE_NUMBER = 10


def as_moment(value: Any) -> Any:
    """ISO 8601 text as naive UTC; text without an offset is UTC already."""
    if value is None or isinstance(value, datetime):
        return value
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
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


def _whole(value: Any) -> Any:
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


class CaseRequest(Request):
    """What every use case's cases have; the features are added by :func:`build_schemas`."""

    entity_id: Text | None = Field(None, description="Your id of the case. Default: a new one")
    event_time: Moment | None = Field(
        None, description="When the case happened, ISO 8601 (UTC without an offset). Default: now"
    )
    prediction_id: OwnId | None = Field(
        None,
        description="Your id of the answer: sent again, it gives the first answer again. Default: a new one",
    )


class Answer(BaseModel):
    """Base of what the service sends."""

    model_config = ConfigDict(protected_namespaces=())


class ReasonOut(Answer):
    """A feature that raised the score."""

    feature: str
    value: float | int | str | None = Field(description="As it was given; null where it was missing")
    contribution: float = Field(description="By how much it raised the log odds", gt=0)
    text: str


class ExplanationOut(Answer):
    """The log odds of one answer, taken apart: base + contributions + rest = log_odds."""

    base: float = Field(description="What the model says of nobody in particular")
    reasons: list[ReasonOut] = Field(
        description="What raised the score most, strongest first", max_length=MAX_REASONS
    )
    rest: float = Field(description="The sum of all other features")
    log_odds: float = Field(description="probability = 1 / (1 + exp(-log_odds))")


class Prediction(Answer):
    """One answer. It is in the log when the client sees it."""

    prediction_id: str = Field(description="Key of the logged row; labels may refer to it")
    entity_id: str
    probability: float = Field(description="Calibrated probability of the positive label")
    prediction: int = Field(description="1 where the probability reaches the threshold")
    threshold: float
    model_version: int
    model_fingerprint: str
    warnings: list[str] = Field(description="What was unusual, for example categories unseen in training")
    explanation: ExplanationOut | None = Field(None, description="Only with `explain=true`")


class PredictionBatch(Answer):
    """Answers in the order of the cases."""

    count: int
    predictions: list[Prediction]


class RejectedCase(Answer):
    """A case of a batch that was not answered: its index in the request, and the first of its problems."""

    index: int
    problems: int = Field(description="How many there are; the dead letters hold all")
    type: str
    loc: list[str | int] = Field(description="Path of the field")
    msg: str
    input: Any = Field(None, description="What was given, where it is short and plain")


class PartialBatch(PredictionBatch):
    """Answers to the valid cases of a batch, in their order, and what was wrong with the others."""

    indices: list[int] = Field(description="Index in the request of each prediction")
    rejected_count: int
    rejected: list[RejectedCase]


class LabelsAccepted(Answer):
    """Labels that are on disk, waiting for the next ingestion."""

    accepted: int


class LabelsWaiting(Answer):
    """Labels that have landed and are not in the ledger yet."""

    rows: int = Field(description="Sent to this API")
    files: int = Field(description="Dropped into the landing folder; their rows are not counted yet")
    oldest_file_landed_at: datetime | None


class LabelsIngested(Answer):
    """The ledger as the last ingestion left it."""

    published_at: datetime
    rows: int
    unmatched: int = Field(description="Rows for a case or prediction that is not known (yet); they are kept")
    newest_recorded_at: datetime | None


class LabelCoverage(Answer):
    """Of the cases that a champion has scored, how many have a label."""

    cases: int
    labelled_cases: int
    share: float | None


class RejectedLabel(Answer):
    """Why a row, or where `row` is null a whole file, was set aside."""

    file: str
    row: int | None
    reason: str
    at: datetime | None


class LabelsRejected(Answer):
    """What was set aside, in `rejected/` of the landing folder."""

    rows: int
    files: int
    newest: list[RejectedLabel]


class LabelStatus(Answer):
    """Where labels stand. All times are UTC."""

    waiting: LabelsWaiting
    ingested: LabelsIngested | None = Field(description="Null before the first ingestion")
    coverage: LabelCoverage | None
    rejected: LabelsRejected


class LabelIn(Request):
    """An outcome that has become known. ``recorded_at``, when we learned it, is the time of the request."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"type": "string"}}}
                for name in ("prediction_id", "entity_id")
            ]
        }
    )
    prediction_id: Text | None = Field(None, description="The answer that the label belongs to")
    entity_id: Text | None = Field(None, description="Or the case; give at least one of the two")
    label: Annotated[int, Field(strict=True, ge=0, le=1), BeforeValidator(_whole)] = Field(
        description="1 positive, 0 negative", examples=[1]
    )
    occurred_at: Moment | None = Field(None, description="When it became true, ISO 8601 (UTC); default: now")
    source: Text = Field("api", description="Who reports it")

    @model_validator(mode="after")
    def _names_a_case(self) -> Self:
        if self.prediction_id is None and self.entity_id is None:
            raise ValueError("give prediction_id or entity_id: the label must belong to a case")
        return self


class LabelBatch(Request):
    """Several labels; all are taken or none."""

    labels: Annotated[list[LabelIn], Field(min_length=1, max_length=MAX_ROWS)]


def _label_kind(body: Any) -> str:
    return "batch" if isinstance(body, dict) and "labels" in body else "single"


LabelBody = Annotated[
    Annotated[LabelIn, Tag("single")] | Annotated[LabelBatch, Tag("batch")], Discriminator(_label_kind)
]


@dataclass(frozen=True)
class CaseSchemas:
    """Request models of one use case."""

    single: type[CaseRequest]
    batch: type[BaseModel]


@dataclass(frozen=True)
class InvalidCase:
    """A case of a batch that is none: what was sent, and pydantic's errors."""

    given: Any
    errors: list[Any]


def _kept_invalid(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Whether one bad case refuses the batch is the request's word, so that all are looked at first."""
    try:
        return validate(value)
    except ValidationError as error:
        return InvalidCase(value, list(error.errors(include_url=False)))


def build_schemas(case: UseCase) -> CaseSchemas:
    """The request models that a use case declares: one case, and a batch of at most :data:`MAX_ROWS`.

    ``cases`` of a batch holds instances of the former, and :class:`InvalidCase`.
    """
    fields: dict[str, Any] = {f.name: _field(f) for f in case.features}
    single = create_model("Case", __base__=CaseRequest, __doc__=f"One case of: {case.title}", **fields)
    row = Annotated[single, WrapValidator(_kept_invalid)]
    rows = Annotated[list[row], Field(min_length=1, max_length=MAX_ROWS)]
    doc = f"Up to {MAX_ROWS:,} cases."
    fields_of_batch: dict[str, Any] = {"cases": (rows, ...)}
    return CaseSchemas(single, create_model("CaseBatch", __base__=Request, __doc__=doc, **fields_of_batch))


def _field(feature: Feature) -> tuple[Any, Any]:
    kind = _TYPES[feature.type](feature)
    info: dict[str, Any] = {"description": feature.description or None, "examples": [_example(feature)]}
    return (kind | None, Field(None, **info)) if feature.nullable else (kind, Field(**info))


def _number(feature: Feature) -> Any:
    low = -FLOAT32_MAX if feature.min is None else feature.min
    high = FLOAT32_MAX if feature.max is None else feature.max
    return Annotated[float, Field(strict=True, allow_inf_nan=False, ge=low, le=high)]


def _integer(feature: Feature) -> Any:
    low = -INT64_MAX if feature.min is None else feature.min
    high = INT64_MAX if feature.max is None else feature.max
    return Annotated[int, Field(strict=True, ge=low, le=high), BeforeValidator(_whole)]


def _category(feature: Feature) -> Any:
    return Text if feature.values is None else Literal[feature.values]


_TYPES = {FeatureType.number: _number, FeatureType.integer: _integer, FeatureType.category: _category}


def _example(feature: Feature) -> Any:
    if feature.type is FeatureType.category:
        return feature.values[0] if feature.values else "other"
    low = _EXAMPLE_NUMBER if feature.min is None else feature.min
    high = _EXAMPLE_NUMBER if feature.max is None else feature.max
    return min(max(_EXAMPLE_NUMBER, low), high)


def case_columns(case: UseCase, rows: Sequence[CaseRequest]) -> CaseColumns:
    """Validated requests, instances of the use case's ``single`` model, as columns; a case without id gets one."""
    own = [row.prediction_id for row in rows]
    return CaseColumns(
        with_ids([row.entity_id for row in rows]),
        [row.event_time.isoformat() if row.event_time else None for row in rows],
        {name: [getattr(row, name) for row in rows] for name in case.feature_names},
        own if any(own) else None,
    )


def label_rows(labels: Sequence[LabelIn], now: datetime) -> list[dict[str, Any]]:
    """Validated labels in the shape of the ledger, learned at ``now`` (naive UTC)."""
    return [
        label.model_dump() | {"recorded_at": now, "occurred_at": label.occurred_at or now} for label in labels
    ]
