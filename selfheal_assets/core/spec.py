"""What a use case declares: features, label, segments, periods and the policy with every threshold.

Only value types belong here. Reading them from YAML is ``selfheal_assets.use_case``'s work.
"""

from collections.abc import Sequence
from datetime import date
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ChunkPeriod = Literal["day", "week", "month", "quarter"]
CheckName = Literal[
    "drift_within_limits", "estimated_performance_holds", "calibration_holds", "realized_performance_holds"
]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
# Far enough for any history, and near enough for every sum of dates in here to be a date.
Day = Annotated[date, Field(ge=date(1900, 1, 1), lt=date(2200, 1, 1))]
Days = Annotated[int, Field(ge=0, le=36500)]
Months = Annotated[int, Field(ge=1, le=600)]
Above1 = Annotated[float, Field(gt=1, le=100)]
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


def _require_distinct(values: Sequence[str]) -> None:
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
        _require_distinct(values or ())
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
    negative. ``outcome`` is the plural by which people call the positives. ``implicit_negatives``: nobody
    reports the good ones, so a mature case without any label counts
    as negative; otherwise it stays unlabelled.
    """

    name: Text
    horizon_months: Months
    positive_at: Text | None = None
    column: Text | None = None
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
        return frozenset(c for c in (self.name, self.positive_at, self.column) if c)


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


class GatePolicy(Spec):
    """Limits that a challenger must meet before it replaces the champion. All must hold.

    ``primary_metric`` decides about improvement and segments: F1 at each model's own threshold, or ROC AUC where
    positives are so rare that F1 has no power.
    """

    primary_metric: Literal["f1", "roc_auc"] = "f1"
    min_rows: Annotated[int, Field(ge=1)] = 200
    min_positives: Annotated[int, Field(ge=1)] = 50
    min_label_coverage: Share = 0.30
    cooldown_days: Days = 7
    min_improvement_pct: float = 2.0
    max_brier_degradation: Annotated[float, Field(ge=0)] = 0.01
    max_segment_degradation_pct: Annotated[float, Field(ge=0)] = 5.0
    min_segment_rows: Annotated[int, Field(ge=1)] = 500
    min_segment_positives: Annotated[int, Field(ge=1)] = 50
    min_adverse_impact_ratio: Share = 0.80
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=200, le=100_000)] = 2000
    max_latency_ms: Annotated[float, Field(gt=0)] = 50.0
    max_size_mb: Annotated[float, Field(gt=0)] = 50.0


class DriftAlarms(Spec):
    """When drift of inputs and scores warns, and when it asks for action, with a bounded chance of false alarms.

    ``false_alarm_budget``: the chance of *any* false drift alarm in a year of ``chunks_per_year`` chunks, over all
    features, both tiers and all looks; ``warn_share`` of it is the warning tier's. A feature warns when ``warn_hits``
    of the last ``warn_window`` chunks differ from what came before; the level of each test follows from the budget.
    ``cells`` is the most cells a feature is judged on (neighbours, or the rarest categories, are merged; missing and
    unseen values stay apart); the warning's χ² groups cells until each expects ``min_expected`` rows in both samples.
    ``effect_sizes`` (Cohen's w) are the sizes of change that the acting tier bets on, ``max_starts`` the chunks
    at which it supposes the change to have begun: the first, and the newest. ``min_reference_rows``: with
    fewer nothing is judged. ``min_mass_moved``: a change of fewer rows than this share is no alarm, however certain.
    ``change_confidence``: of the interval around the change point and of the cells named as grown or shrunk.
    """

    false_alarm_budget: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    chunks_per_year: Annotated[int, Field(ge=1, le=100_000)] = 52
    warn_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    warn_hits: Annotated[int, Field(ge=1, le=10)] = 2
    warn_window: Annotated[int, Field(ge=1, le=10)] = 3
    cells: Annotated[int, Field(ge=2, le=100)] = 10
    min_expected: Annotated[float, Field(gt=0)] = 5.0
    effect_sizes: Annotated[tuple[Annotated[float, Field(gt=0, le=10)], ...], Field(min_length=1)] = (
        0.05,
        0.1,
        0.2,
        0.4,
    )
    max_starts: Annotated[int, Field(ge=12, le=10_000)] = 100
    min_reference_rows: Annotated[int, Field(ge=1)] = 500
    min_mass_moved: Share = 0.02
    change_confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.9

    @model_validator(mode="after")
    def _hits_fit_the_window(self) -> Self:
        if self.warn_hits > self.warn_window:
            raise ValueError(
                f"warn_hits {self.warn_hits} cannot happen in warn_window {self.warn_window} chunks"
            )
        return self


class Attribution(Spec):
    """How a change of score or of estimated performance is put down to the features that drifted.

    ``max_features``: the effects of that many are told apart (each subset of them is one reweighting of the
    reference, 2ⁿ in all). ``min_effective_rows``: a reweighting that leaves fewer says nothing.
    """

    max_features: Annotated[int, Field(ge=1, le=10)] = 6
    min_effective_rows: Annotated[int, Field(ge=1)] = 200


class AlarmPolicy(Spec):
    """What a chunk must have to be judged at all, and how far ROC AUC may fall below the reference's.

    ``min_rows`` predictions or labels, ``min_positives`` of each class where labels matter. ``rollback_alpha``: the
    chance of ever taking a promotion falsely back.
    """

    min_rows: Annotated[int, Field(ge=1)] = 200
    min_positives: Annotated[int, Field(ge=1)] = 20
    max_auc_drop: Annotated[float, Field(gt=0)] = 0.05
    rollback_alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05


class DensityRatio(Spec):
    """How a chunk's rows are told from the reference's, for importance weights.

    ``classifier``: boosted trees, which see interactions, or logistic on standardised features and their squares,
    which matches the columns' means more closely. ``folds``: each reference row is judged by a classifier fitted on
    the others. ``largest`` cuts weights (mean 1) from above. ``rounds``, ``max_depth`` and ``learning_rate`` are the
    trees'.
    """

    classifier: Literal["logistic", "boosted"] = "boosted"
    folds: Annotated[int, Field(ge=2, le=10)] = 2
    largest: Annotated[float, Field(gt=1)] = 20.0
    rounds: Annotated[int, Field(ge=1, le=1000)] = 40
    max_depth: Annotated[int, Field(ge=1, le=10)] = 3
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.15


class Estimation(Spec):
    """When performance can be estimated without labels, by which estimator, and when to trust it.

    A chunk needs ``min_rows`` scored rows, the reference ``min_class_rows`` rows of each class. Importance weights
    are used only if the weighted reference keeps ``min_effective_rows`` effective rows of each class and differs from
    the chunk by at most ``max_imbalance`` in every column (see ``core.density_ratio.imbalance``; more where chance
    alone explains more); ``ratios`` are tried in turn until one does. ``folds`` and ``draws``: the backtest fits on
    all but one fold of the reference and redraws so many chunks from that one. Estimates of two estimators that
    differ by more than ``disagreement`` standard errors are not trusted. ``confidence`` is the intervals'.
    ``max_rows`` bounds the rows of either side that weights are learnt from.
    """

    min_rows: Annotated[int, Field(ge=1)] = 200
    min_class_rows: Annotated[int, Field(ge=2)] = 30
    min_effective_rows: Annotated[int, Field(ge=2)] = 100
    max_imbalance: Annotated[float, Field(gt=0, lt=1)] = 0.04
    ratios: Annotated[tuple[DensityRatio, ...], Field(min_length=1)] = (
        DensityRatio(),
        DensityRatio(classifier="logistic"),
    )
    folds: Annotated[int, Field(ge=2, le=10)] = 3
    draws: Annotated[int, Field(ge=1, le=200)] = 4
    disagreement: Annotated[float, Field(gt=0)] = 2.0
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    max_rows: Annotated[int, Field(ge=1000)] = 100_000


class Costs(Spec):
    """What a decision is worth, per case, in one currency: what ``business_value`` adds up.

    A positive is the bad outcome, and a case predicted positive is refused. ``missed_positive`` is lost on each
    positive that was accepted, ``refused_good`` on each good case that was refused; ``caught_positive`` is gained by
    each positive refused, ``accepted_good`` by each good case accepted. ``currency`` is only shown.
    """

    missed_positive: Annotated[float, Field(ge=0)]
    refused_good: Annotated[float, Field(ge=0)] = 0.0
    caught_positive: float = 0.0
    accepted_good: float = 0.0
    currency: Text = "units"

    @property
    def worth(self) -> tuple[float, float, float, float]:
        """Of a true positive, a false positive, a false negative and a true negative."""
        return self.caught_positive, -self.refused_good, -self.missed_positive, self.accepted_good


class HarmAlarms(Spec):
    """How much chance of a false alarm of harm is allowed, and what harm is looked for.

    ``budget``: chance of any false alarm of harm in a year of monitoring (``horizon_chunks`` looks), over the
    partial and the realized evidence together; ``partial_share`` of it is the partial labels'.
    ``first_share``: the part of a year's budget that is spent on harm from the first chunk on, as after a promotion.
    ``reference_share``: the part of the realized losses' budget that pays for the reference being a sample, where
    the losses are no counts.
    ``harm_ratios``: the realized loss (for 0–1 losses its odds) is suspected to be this many times the reference's.
    ``hazard_factors``: the hazard of a positive is suspected to be this many times what it should be, or one such
    part. ``tolerated_ratio``: expected over observed positives within this band is no harm. ``age_bands``: how
    many equal bands of age up to the horizon have a hazard of their own. ``min_rows``: fewer
    labelled rows, ``min_positives``: fewer expected and observed positives tell nothing.
    """

    budget: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    partial_share: Share = 0.5
    reference_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    horizon_chunks: Annotated[int, Field(ge=1, le=10_000)] = 52
    first_share: Annotated[float, Field(gt=0, lt=1)] = 0.75
    harm_ratios: Annotated[tuple[Above1, ...], Field(min_length=1)] = (1.3, 1.7)
    hazard_factors: Annotated[tuple[Above1, ...], Field(min_length=1)] = (1.25, 1.5, 2.0, 3.0)
    tolerated_ratio: tuple[float, float] = (0.8, 1.25)
    age_bands: Annotated[int, Field(ge=1, le=400)] = 24
    min_rows: Annotated[int, Field(ge=1)] = 200
    min_positives: Annotated[int, Field(ge=1)] = 20

    @field_validator("tolerated_ratio")
    @classmethod
    def _band_is_around_one(cls, band: tuple[float, float]) -> tuple[float, float]:
        low, high = band
        if not 0 < low <= 1 <= high:
            raise ValueError(f"[{low:g}, {high:g}] must be a band around 1 of two positive ratios")
        return band

    @property
    def partial_alpha(self) -> float:
        """Chance of a false alarm from partial labels in a year."""
        return self.budget * self.partial_share

    @property
    def realized_alpha(self) -> float:
        """Chance of a false alarm from realized losses in a year."""
        return self.budget * (1 - self.partial_share)


class DriftFigures(Spec):
    """How drift figures are taken and read; which of them raise an alarm is the alarms' policy.

    ``min_segment_rows``: a segment's value with fewer rows in the reference is pooled with the other small ones.
    ``max_segment_values``: of a segment's values, at most this many of the largest are told apart.
    ``psi_bands``: from the first on PSI says 'watch', from the second on 'moved', as is usual in credit.
    ``psi_confidence``: the share of unchanged samples whose PSI stays below the cut-off for their size.
    """

    min_segment_rows: Annotated[int, Field(ge=1)] = 500
    max_segment_values: Annotated[int, Field(ge=1, le=100)] = 20
    psi_bands: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.10, 0.25)
    psi_confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95

    @field_validator("psi_bands")
    @classmethod
    def _bands_ascend(cls, bands: tuple[float, float]) -> tuple[float, float]:
        if bands[0] >= bands[1]:
            raise ValueError(f"{list(bands)} must ascend: 'watch' begins below 'moved'")
        return bands


class RealizedFigures(Spec):
    """How the metrics on matured labels are computed.

    ``confidence`` is of each two-sided interval, ``resamples`` those of a bootstrap, ``calibration_bins`` the
    equal-count bins of the calibration error. ``half_width`` is the precision that is wanted of a metric between 0
    and 1: each figure says how many rows it would take.
    """

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    half_width: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    resamples: Annotated[int, Field(ge=200, le=100_000)] = 1000
    calibration_bins: Annotated[int, Field(ge=2, le=100)] = 10


class CreditPolicy(Spec):
    """Conventions of credit monitoring; none of them starts a retraining.

    Attributes:
        bands: cells of equal size in the reference for score bands, PSI and CSI; ten are deciles.
        rare_share: categories with a smaller share of the reference share one cell.
        psi_bands: a PSI from the first on is called moderate, from the second on large.
        confidence: of every interval, and of the cut-off below which a PSI may be chance.
        cohorts: how many of the newest cohorts a report shows.
        min_group_rows: smaller groups are not compared for adverse impact.
        min_adverse_impact_ratio: a group approved less often than this share of the most approved group's rate is
            flagged; 0.8 is the four-fifths rule (29 CFR 1607.4(D)).
    """

    bands: Annotated[int, Field(ge=2, le=100)] = 10
    rare_share: Annotated[float, Field(ge=0, lt=1)] = 0.01
    psi_bands: tuple[float, float] = (0.1, 0.25)
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    cohorts: Annotated[int, Field(ge=1, le=100)] = 8
    min_group_rows: Annotated[int, Field(ge=1)] = 200
    min_adverse_impact_ratio: Share = 0.80

    @field_validator("psi_bands")
    @classmethod
    def _bands_ascend(cls, bands: tuple[float, float]) -> tuple[float, float]:
        moderate, large = bands
        if not 0 < moderate < large:
            raise ValueError(f"[{moderate:g}, {large:g}] must be two positive values that ascend")
        return bands


class Policy(Spec):
    """Every threshold of the loop: none lives in code.

    ``engine``: who computes drift figures and estimates: NannyML on the chunk's rows, or the push-down engine from
    counts where the rows lie; ``auto`` is the latter. ``costs`` turn confusion into business value.
    """

    retraining_cooldown_days: Days = 30
    retraining_attempts: Annotated[int, Field(ge=1, le=10)] = 2
    probation_days: Annotated[Days, Field(ge=1)] = 365
    retrain_on: tuple[CheckName, ...] = (
        "drift_within_limits",
        "estimated_performance_holds",
        "calibration_holds",
        "realized_performance_holds",
    )
    engine: Literal["auto", "nannyml", "pushdown"] = "auto"
    costs: Costs | None = None
    gates: GatePolicy = GatePolicy()
    alarms: AlarmPolicy = AlarmPolicy()
    drift: DriftAlarms = DriftAlarms()
    drift_figures: DriftFigures = DriftFigures()
    attribution: Attribution = Attribution()
    harm: HarmAlarms = HarmAlarms()
    estimation: Estimation = Estimation()
    realized: RealizedFigures = RealizedFigures()
    credit: CreditPolicy = CreditPolicy()

    @field_validator("retrain_on")
    @classmethod
    def _checks_are_distinct(cls, checks: tuple[CheckName, ...]) -> tuple[CheckName, ...]:
        _require_distinct(checks)
        return checks


class Serving(Spec):
    """How the service answers.

    ``unseen_category``: a category that the model has never seen is scored as missing, or refused.
    ``shadow``: who scores the same cases off the answer's path, and is logged with its role.
    """

    unseen_category: Literal["missing", "refuse"] = "missing"
    shadow: Literal["nobody", "challenger", "predecessor"] = "nobody"


class Training(Spec):
    """How challengers are trained.

    ``recent_months`` is the length of the short window; ``parallel_fits`` bounds how many models are fitted side
    by side, each with one thread and a copy of its rows.
    """

    recent_months: Months = 36
    evaluation_months: Months = 12
    validation_months: Months = 6
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
