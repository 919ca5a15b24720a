"""Realized performance: every metric of matured cases with its interval, or the reason why there is none.

The one stage of evidence that knows all outcomes, and the last to arrive. What it says is about the cases of the
cohort that has just matured, scored by one model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import norm

from selfheal_assets.core import metrics
from selfheal_assets.core.confusion import Confusion, confusion_of
from selfheal_assets.core.intervals import Resampled, resample, score_groups, wilson
from selfheal_assets.core.metrics import Interval, UndefinedMetric
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.segments import slices
from selfheal_assets.core.spec import AlarmPolicy, Costs, RealizedFigures, Segment

REALIZED_SCHEMA = {
    "segment": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "rows": pl.Int64,
    "positives": pl.Int64,
    "unit": pl.String,
    "method": pl.String,
    "rows_needed": pl.Int64,
    "status": pl.String,
    "reason": pl.String,
    "note": pl.String,
}


def realized_metrics(
    label: np.ndarray,
    probability: np.ndarray,
    flagged: np.ndarray,
    policy: AlarmPolicy,
    costs: Costs | None = None,
    seed: int = 0,
    figures: RealizedFigures | None = None,
) -> pl.DataFrame:
    """All metrics of one set of matured cases.

    Args:
        label: 0/1, matured.
        probability: of the model that is judged, 0..1.
        flagged: bool: at or above that model's threshold.
        policy: asks for ``min_rows`` and ``min_positives``.
        costs: what decisions are worth; without them the business value is a row without a value.
        seed: of the bootstrap.
        figures: confidence, wanted precision, resamples and bins; the defaults if omitted.

    Returns:
        One row per metric: ``segment`` (``all``), ``metric``, ``value``, ``lower``, ``upper`` (null for counts),
        ``rows``, ``positives``, ``unit``, ``method`` of the interval, ``rows_needed`` (at this share of positives:
        where there is a value, for an interval of ±``half_width``; where there is none, for the policy; null where it
        cannot be told), ``status`` (PASS: measured; INSUFFICIENT_DATA), ``reason`` (null exactly where there is a
        value), ``note`` (what was pooled). Counts are told however few rows there are.

    Raises:
        ValueError: the arrays differ in length, or a label is neither 0 nor 1.
    """
    cases = pl.DataFrame({"label": label, "probability": probability, "flagged": flagged})
    return realized_by_segment(cases, (), policy, costs, seed, figures)


def realized_by_segment(
    cases: pl.DataFrame,
    segments: tuple[Segment, ...],
    policy: AlarmPolicy,
    costs: Costs | None = None,
    seed: int = 0,
    figures: RealizedFigures | None = None,
) -> pl.DataFrame:
    """All metrics of all cases (segment ``all``, first) and of each segment; the smallest segments are pooled.

    Args:
        cases: ``label`` (0/1), ``probability`` (f64), ``flagged`` (bool), and the segments' features.
        segments: of the use case.
        policy: see :func:`realized_metrics`, as are the others. A segment's value with fewer rows or positives is
            pooled with the segment's others (``area=other``), and ``note`` says which.

    Returns:
        As :func:`realized_metrics`.

    Raises:
        ValueError: a label is neither 0 nor 1.
    """
    figures = figures or RealizedFigures()
    label, probability = cases["label"].to_numpy(), cases["probability"].to_numpy().astype(np.float64)
    flagged = cases["flagged"].to_numpy().astype(bool)
    if wrong := int(np.sum(~np.isin(label, (0, 1)))):
        raise ValueError(f"{wrong} of {len(label)} labels are neither 0 nor 1")
    label = label.astype(np.int8)
    rows: list[tuple[Any, ...]] = []
    for part in slices(cases, label, segments, policy.min_rows, policy.min_positives):
        outcomes = _Outcomes(label[part.mask], probability[part.mask], flagged[part.mask], figures, seed)
        rows += [(part.name, *row, part.note) for row in _rows(outcomes, policy, costs)]
    return pl.DataFrame(rows, schema=REALIZED_SCHEMA, orient="row")


@dataclass(frozen=True)
class _Outcomes:
    """One slice's cases, and what several metrics share."""

    label: np.ndarray
    probability: np.ndarray
    flagged: np.ndarray
    figures: RealizedFigures
    seed: int

    @property
    def rows(self) -> int:
        return len(self.label)

    @cached_property
    def positives(self) -> int:
        return int(self.label.sum())

    @cached_property
    def confusion(self) -> Confusion:
        return confusion_of(self.label, self.flagged)

    @cached_property
    def resampled(self) -> Resampled:
        groups = score_groups(self.label, self.probability, self.figures.calibration_bins)
        return resample(groups, self.figures.resamples, self.seed)

    @cached_property
    def auc(self) -> Interval:
        return metrics.roc_auc_interval(self.label, self.probability, self.figures.confidence)

    def measurable(self) -> None:
        """Raise where a score is no probability."""
        p = self.probability
        if wrong := int(np.sum(~((p >= 0) & (p <= 1)))):
            raise UndefinedMetric(
                f"{wrong} of {self.rows} scores are no probabilities (missing, or not in 0..1)"
            )

    def within(self, draws: np.ndarray, value: float) -> Interval:
        """The draws' percentiles as the value's interval."""
        tail = 0.5 - self.figures.confidence / 2
        lower, upper = np.quantile(draws, [tail, 1 - tail])
        return Interval(value, min(float(lower), value), max(float(upper), value))

    def around(self, shifts: np.ndarray, value: float, least: float = 0.0) -> Interval:
        """The value and all that lies within the shifts' quantile of it.

        For a norm of sample means: no such norm is further from the truth than the norm of the means' own error, so
        these bounds hold even where the true value is 0, at which percentiles fail.
        """
        reach = float(np.quantile(shifts, self.figures.confidence))
        return Interval(value, max(least, value - reach), min(1.0, value + reach))


def _average_precision(o: _Outcomes) -> Interval:
    """On the logit scale, with the bootstrap's standard error. Source of the scale: Boyd, Eng and Page, ECML 2013."""
    value = metrics.average_precision(o.label, o.probability)
    draws = o.resampled.average_precision + value - o.resampled.grouped_average_precision
    error = float(norm.ppf(0.5 + o.figures.confidence / 2)) * float(np.std(_logit(draws)))
    lower, upper = (1 / (1 + np.exp(-(_logit(np.array(value)) + side * error))) for side in (-1, 1))
    return Interval(value, min(float(lower), value), max(float(upper), value))


def _logit(share: np.ndarray) -> np.ndarray:
    inside = np.clip(share, 1e-6, 1 - 1e-6)
    return np.log(inside) - np.log1p(-inside)


def _gini(o: _Outcomes) -> Interval:
    return Interval(*(2 * x - 1 for x in (o.auc.value, o.auc.lower, o.auc.upper)))


def _expected_over_observed(o: _Outcomes) -> Interval:
    """The scores as they are over the share of positives, with Wilson's bounds of that share."""
    value = metrics.expected_over_observed(o.label, o.probability)
    share = wilson(o.positives, o.rows, o.figures.confidence)
    mean = float(o.probability.mean())
    return Interval(value, min(mean / share.upper, value), max(mean / share.lower, value))


def _calibration_error(o: _Outcomes) -> Interval:
    value = metrics.expected_calibration_error(o.label, o.probability, o.figures.calibration_bins)
    return o.around(o.resampled.calibration_shift, value)


@dataclass(frozen=True)
class _Metric:
    """How one metric is computed. ``scored``: from scores, not from decisions alone; ``bounded``: on a scale of 1."""

    name: str
    unit: str
    method: str
    compute: Callable[[_Outcomes], Interval]
    scored: bool = True
    bounded: bool = True


_METRICS = (
    _Metric("roc_auc", "probability", "delong", lambda o: o.auc),
    _Metric("gini", "share", "delong", _gini),
    _Metric("average_precision", "share", "bootstrap", _average_precision),
    _Metric(
        "ks",
        "share",
        "bootstrap",
        lambda o: o.around(o.resampled.gap_shift, metrics.kolmogorov_smirnov(o.label, o.probability)),
    ),
    _Metric("f1", "share", "wilson", lambda o: o.confusion.f1(o.figures.confidence), scored=False),
    _Metric(
        "precision", "share", "wilson", lambda o: o.confusion.precision(o.figures.confidence), scored=False
    ),
    _Metric("recall", "share", "wilson", lambda o: o.confusion.recall(o.figures.confidence), scored=False),
    _Metric(
        "specificity",
        "share",
        "wilson",
        lambda o: o.confusion.specificity(o.figures.confidence),
        scored=False,
    ),
    _Metric(
        "accuracy", "share", "wilson", lambda o: o.confusion.accuracy(o.figures.confidence), scored=False
    ),
    _Metric(
        "brier",
        "squared probability",
        "bootstrap",
        lambda o: o.within(o.resampled.brier, metrics.brier_score(o.label, o.probability)),
    ),
    _Metric(
        "log_loss",
        "nats",
        "bootstrap",
        lambda o: o.within(o.resampled.log_loss, metrics.log_loss(o.label, o.probability)),
        bounded=False,
    ),
    _Metric("expected_over_observed", "ratio", "wilson", _expected_over_observed, bounded=False),
    _Metric("expected_calibration_error", "probability", "bootstrap", _calibration_error),
)
_CELLS = ("true_positives", "false_positives", "false_negatives", "true_negatives")
REALIZED_METRICS = (*(m.name for m in _METRICS), *_CELLS, "business_value")


def _rows(o: _Outcomes, policy: AlarmPolicy, costs: Costs | None) -> Iterator[tuple[Any, ...]]:
    """The rows of one slice, without its name and note."""
    short = _short(o, policy)
    for metric in _METRICS:
        yield _row(o, metric, policy, short)
    for cell in _CELLS:
        value = float(getattr(o.confusion, cell))
        yield (cell, value, None, None, o.rows, o.positives, "rows", "count", None, Status.passed.value, None)
    yield _row(o, _business_value(costs), policy, short)


def _business_value(costs: Costs | None) -> _Metric:
    def compute(o: _Outcomes) -> Interval:
        if costs is None:
            raise UndefinedMetric(
                "no costs in the policy: say what a missed positive and a refused good case cost"
            )
        return o.confusion.value_per_case(costs, o.figures.confidence, o.figures.resamples, o.seed)

    unit = f"{costs.currency} per case" if costs else "per case"
    return _Metric("business_value", unit, "bootstrap", compute, scored=False, bounded=False)


def _row(o: _Outcomes, metric: _Metric, policy: AlarmPolicy, short: str | None) -> tuple[Any, ...]:
    try:
        if short:
            raise UndefinedMetric(short + _at_worst(o, metric.name))
        if metric.scored:
            o.measurable()
        found = metric.compute(o)
    except UndefinedMetric as error:
        blank, needed = (metric.name, None, None, None), _rows_for_policy(o, policy)
        status, reason = Status.insufficient, str(error)
    else:
        blank, status, reason = (metric.name, found.value, found.lower, found.upper), Status.passed, None
        needed = _rows_for_width(o, found) if metric.bounded else None
    return (*blank, o.rows, o.positives, metric.unit, metric.method, needed, status.value, reason)


def _short(o: _Outcomes, policy: AlarmPolicy) -> str | None:
    """What is missing for the policy, in words; ``None`` where there is enough."""
    if o.rows >= policy.min_rows and o.positives >= policy.min_positives:
        return None
    needed = _rows_for_policy(o, policy)
    at_this_share = f": about {needed} labels at this share of positives" if needed else ""
    return (
        f"{o.rows} matured labels with {o.positives} positives; the policy asks for {policy.min_rows} and "
        f"{policy.min_positives}{at_this_share}"
    )


def _rows_for_policy(o: _Outcomes, policy: AlarmPolicy) -> int | None:
    """Rows in which the policy's positives are to be expected; ``None`` where none has been seen."""
    if o.positives == 0:
        return None
    return max(policy.min_rows, ceil(policy.min_positives * o.rows / o.positives))


def _at_worst(o: _Outcomes, metric: str) -> str:
    """The most rows that an interval as narrow as wanted can take, in words; empty where no bound is known.

    A proportion's variance, and that of a mean of squares in 0..1, is at most 1/4 over its cases; the ROC AUC's at
    most 1/4 over the cases of the smaller class (Cortes and Mohri, NIPS 2004).
    """
    among = {
        "accuracy": o.rows,
        "brier": o.rows,
        "recall": o.positives,
        "specificity": o.rows - o.positives,
        "precision": int(o.flagged.sum()),
        "roc_auc": min(o.positives, o.rows - o.positives),
    }.get(metric, 0)
    if among == 0:
        return ""
    half = o.figures.half_width
    cases = float(norm.ppf(0.5 + o.figures.confidence / 2)) ** 2 / (4 * half**2)
    return f"; at most {ceil(cases * o.rows / among)} for an interval of ±{half:g}"


def _rows_for_width(o: _Outcomes, found: Interval) -> int:
    """Rows at which the interval would be as narrow as wanted: its width falls with their square root."""
    half = (found.upper - found.lower) / 2
    return max(1, ceil(o.rows * (half / o.figures.half_width) ** 2))
