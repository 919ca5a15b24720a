"""What a use case declares: features, label, segments, periods, how it serves and trains.

Its policy, with every threshold, is in ``policies`` and ``evidence_policy``.

Only value types belong here. Reading them from YAML is ``selfheal_assets.use_case``'s work.
"""

from collections.abc import Sequence
from datetime import date
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ChunkPeriod = Literal["day", "week", "month", "quarter"]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
# Far enough for any history, and near enough for every sum of dates in here to be a date.
Day = Annotated[date, Field(ge=date(1900, 1, 1), lt=date(2200, 1, 1))]
Days = Annotated[int, Field(ge=0, le=36500)]
Months = Annotated[int, Field(ge=1, le=600)]
RESERVED_COLUMNS = frozenset(
    {
        "prediction_id", "entity_id", "event_time", "predicted_at", "model_version", "model_fingerprint",
        "role", "probability", "prediction", "threshold", "label", "occurred_at", "recorded_at", "as_of",
        "chunk", "segment_file", "reference_fingerprint", "part", "ingested_at", "row_id",
    }
)  # fmt: skip


class Spec(BaseModel):
    """Base of every declared thing: frozen; an unknown key is an error (a misspelt limit must not pass)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def require_distinct(values: Sequence[str]) -> None:
    """Refuse a list that names something twice.

    Raises:
        ValueError: says what.
    """
    if twice := sorted({v for v in values if values.count(v) > 1}):
        raise ValueError(f"given twice: {', '.join(twice)}")


class FeatureType(StrEnum):
    """How a feature's values are stored and validated."""

    number = "number"
    integer = "integer"
    category = "category"


class Feature(Spec):
    """One model input.

    ``min`` and ``max`` bound numbers and integers; ``values`` lists what a category may hold (open when
    omitted). ``known_at`` says when the value is known: only what is known at application time may be used.
    ``reason`` is how a client is told that this feature raised a score. A value that is ``personal`` is shown in no
    message, check or sample of rows.
    """

    name: Name
    type: FeatureType
    min: float | None = None
    max: float | None = None
    values: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    nullable: bool = False
    known_at: Literal["application", "outcome"] = "application"
    description: str = ""
    reason: str = ""
    personal: bool = False

    @field_validator("values")
    @classmethod
    def _values_are_distinct(cls, values: tuple[str, ...] | None) -> tuple[str, ...] | None:
        require_distinct(values or ())
        for value in values or ():
            if value != value.strip():
                raise ValueError(
                    f"'{value}' begins or ends with a space, which no value keeps when it is read"
                )
        return values

    @model_validator(mode="after")
    def _bounds_fit_the_type(self) -> Self:
        if self.type is FeatureType.category and (self.min is not None or self.max is not None):
            raise ValueError(f"feature '{self.name}' is a category: use 'values', not 'min'/'max'")
        if self.type is not FeatureType.category and self.values is not None:
            raise ValueError(f"feature '{self.name}' is a {self.type}: 'values' belongs to categories")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"feature '{self.name}': min {self.min} is above max {self.max}")
        if self.name in RESERVED_COLUMNS:
            raise ValueError(f"feature '{self.name}': this name is reserved, rename the column in 'source'")
        return self


class LabelSpec(Spec):
    """The outcome, and when it becomes known.

    Either ``positive_at`` (a date column: when the bad outcome happened, empty if it has not) or ``column``
    (0/1, known at the horizon). ``horizon_months`` is the age at which a case without a positive label is
    negative. ``recorded_at`` is a column that says when the outcome, good or bad, was recorded, where that may be
    later than it became true; empty where it never was. ``outcome`` is the plural by which people call the positives.
    ``implicit_negatives``: nobody reports the good ones, so a mature case without any label counts as negative;
    otherwise it stays unlabelled.
    """

    name: Text
    horizon_months: Months
    positive_at: Text | None = None
    column: Text | None = None
    recorded_at: Text | None = None
    implicit_negatives: bool = True
    outcome: str = "positives"
    description: str = ""

    @model_validator(mode="after")
    def _one_way_to_know(self) -> Self:
        if (self.positive_at is None) == (self.column is None):
            raise ValueError("label: give either 'positive_at' (date of the outcome) or 'column' (0/1)")
        return self

    @property
    def outcome_columns(self) -> frozenset[str]:
        """Columns of the source that are only known after the outcome."""
        return frozenset(c for c in (self.name, self.positive_at, self.column, self.recorded_at) if c)


class Segment(Spec):
    """A slice of the population by a feature: its categories, or bands between ``cuts``."""

    name: Text
    feature: Text
    cuts: tuple[float, ...] | None = None
    fairness: bool = False

    @model_validator(mode="after")
    def _cuts_ascend(self) -> Self:
        if self.cuts is not None and list(self.cuts) != sorted(set(self.cuts)):
            raise ValueError(f"segment '{self.name}': cuts {list(self.cuts)} must ascend strictly")
        return self


class Period(Spec):
    """A half-open interval of event time: ``start`` included, ``end`` not."""

    start: Day
    end: Day

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"start {self.start} must be before end {self.end}")
        return self


class Monitoring(Spec):
    """How often the loop looks, and how many past chunks evidence by cohort covers.

    ``until`` ends the list of chunks for a use case whose history is over. ``domain_classifier``: whether a
    classifier that tells chunk from reference judges all features together, beside the PCA reconstruction error;
    it costs five boosted fits a chunk.
    """

    chunk: ChunkPeriod = "month"
    lookback: Annotated[int, Field(ge=1, le=1000)] = 8
    until: Day | None = None
    domain_classifier: bool = False


class Serving(Spec):
    """How the service answers.

    ``unseen_category``: a category that the model has never seen is scored as missing, or refused.
    ``shadow``: who scores the same cases off the answer's path, and is logged with its role.
    """

    unseen_category: Literal["missing", "refuse"] = "missing"
    shadow: Literal["nobody", "challenger", "predecessor"] = "nobody"


FamilyName = Literal["full_history", "recent_window", "maturity_aware", "recalibrated"]


class Hazard(Spec):
    """How the family member ``maturity_aware`` learns from cohorts that are not mature.

    Attributes:
        bands: age bands into which the horizon is cut.
        half_life_months: exposure that long before the day of the retraining counts half.
        negative_share: share of the bands lived through without a positive that is drawn, with weights that make
            up for it, where exposure counts in full; older exposure is drawn in proportion to its weight.
        cohort_half_life_months: a case that old counts half, whatever of it was watched when.
        history_months: older cases are left out.
    """

    bands: Annotated[int, Field(ge=2, le=60)] = 12
    half_life_months: Annotated[float, Field(gt=0, le=600)] = 12
    negative_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    cohort_half_life_months: Annotated[float, Field(gt=0, le=600)] = 24
    history_months: Months = 72


class Training(Spec):
    """How challengers are trained.

    ``family`` names the members that are tried at each retraining: matured cases since the beginning
    (``full_history``) or of the last ``recent_months`` (``recent_window``); immature cohorts too, by ``hazard``
    (``maturity_aware``); the champion's booster with a new calibrator and threshold (``recalibrated``).
    ``gate_months``: where labels so far are evidence, that many of the newest months are the gates' and learned
    by nobody; more, back to the newest matured cases, where fewer than ``gate_positives`` are positive so far in
    them. ``level``: whether a model's level is then that of all cases it learned from (``history``), or of the
    validation months (``newest``), which for that reach back until ``level_positives`` are positive so far. A level
    that fell is not taken over while these became known at other ages than the matured ones did, by more than
    ``max_timing_errors`` standard errors, nor one that rose while they do earlier. ``parallel_fits`` bounds how many
    models are fitted side by side, each with one thread and a copy of its rows.
    """

    family: Annotated[tuple[FamilyName, ...], Field(min_length=1)] = (
        "full_history", "recent_window", "recalibrated",
    )  # fmt: skip
    recent_months: Months = 36
    evaluation_months: Months = 12
    validation_months: Months = 6
    gate_months: Months = 12
    gate_positives: Annotated[int, Field(ge=0)] = 100
    level: Literal["newest", "history"] = "newest"
    level_positives: Annotated[int, Field(ge=1)] = 400
    max_timing_errors: Annotated[float, Field(gt=0)] = 3.0
    hazard: Hazard = Hazard()
    folds: Annotated[int, Field(ge=2, le=50)] = 3
    min_positives: Annotated[int, Field(ge=5)] = 30
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 80
    max_depth: Annotated[int, Field(ge=1, le=16)] = 4
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    min_child_weight: Annotated[float, Field(ge=0)] = 5
    subsample: Annotated[float, Field(gt=0, le=1)] = 0.8
    colsample_bytree: Annotated[float, Field(gt=0, le=1)] = 0.8
    parallel_fits: Annotated[int, Field(ge=1, le=64)] = 2
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @field_validator("family")
    @classmethod
    def _members_are_distinct(cls, family: tuple[FamilyName, ...]) -> tuple[FamilyName, ...]:
        require_distinct(family)
        return family
