"""Requests and answers of the service. A request's fields, bounds and allowed values are the use case's.

Only shapes and their validation belong here: what is let through can be scored, logged and ingested.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

import polars as pl
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    create_model,
    model_validator,
)

from selfheal_assets.core.explanation import MAX_REASONS
from selfheal_assets.core.spec import Feature, FeatureType
from selfheal_assets.stores.label_ledger import COLUMNS
from selfheal_assets.stores.prediction_log import CaseColumns
from selfheal_assets.use_case import UseCase

MAX_ROWS = 10_000
FLOAT32_MAX, INT64_MAX = 3.4e38, 2**63 - 1  # the booster reads float32, the log keeps 64-bit integers
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


Text = Annotated[str, Field(strict=True, min_length=1, max_length=TEXT_LENGTH)]
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


class LabelsAccepted(Answer):
    """Labels that are on disk, waiting for the next ingestion."""

    accepted: int


class LabelIn(Request):
    """An outcome that has become known. ``recorded_at``, when we learned it, is the time of the request."""

    prediction_id: Text | None = Field(None, description="The answer that the label belongs to")
    entity_id: Text | None = Field(None, description="Or the case; give at least one of the two")
    label: Annotated[int, Field(strict=True, ge=0, le=1)] = Field(
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


def build_schemas(case: UseCase) -> CaseSchemas:
    """The request models that a use case declares: one case, and a batch of at most :data:`MAX_ROWS`."""
    fields: dict[str, Any] = {f.name: _field(f) for f in case.features}
    single = create_model("Case", __base__=CaseRequest, __doc__=f"One case of: {case.title}", **fields)
    rows = Annotated[list[single], Field(min_length=1, max_length=MAX_ROWS)]
    doc = f"Up to {MAX_ROWS:,} cases; all are answered or none."
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
    return Annotated[int, Field(strict=True, ge=low, le=high)]


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
    return CaseColumns(
        [row.entity_id or uuid.uuid4().hex for row in rows],
        [row.event_time.isoformat() if row.event_time else None for row in rows],
        {name: [getattr(row, name) for row in rows] for name in case.feature_names},
    )


def labels_frame(labels: Sequence[LabelIn], now: datetime) -> pl.DataFrame:
    """Validated labels in the shape of the ledger, learned at ``now`` (naive UTC)."""
    rows = [
        label.model_dump() | {"recorded_at": now, "occurred_at": label.occurred_at or now} for label in labels
    ]
    return pl.DataFrame(rows, schema=COLUMNS)
