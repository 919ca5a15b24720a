"""Cases that are asked about, and what is answered. Fields, bounds and allowed values are the use case's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
)

from selfheal_assets.core.explanation import MAX_REASONS
from selfheal_assets.core.spec import Feature, FeatureType
from selfheal_assets.serving.schemas import (
    FLOAT32_MAX,
    INT64_MAX,
    MAX_ROWS,
    Answer,
    Moment,
    OwnId,
    Request,
    Text,
    whole,
)
from selfheal_assets.stores.prediction_log import CaseColumns, with_ids
from selfheal_assets.use_case import UseCase

_EXAMPLE_NUMBER = 10


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
    return Annotated[int, Field(strict=True, ge=low, le=high), BeforeValidator(whole)]


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
