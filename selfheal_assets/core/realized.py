"""Realized performance: every metric of matured cases with its interval, or the reason why there is none.

The one stage of evidence that knows all outcomes, and the last to arrive. What it says is about the cases of the
cohort that has just matured, scored by one model.
"""

from collections.abc import Iterator
from math import ceil
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import norm

from selfheal_assets.core.metrics import Interval, UndefinedMetric
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.outcomes import CELLS, METRICS, Metric, Outcomes, business_value
from selfheal_assets.core.policies import AlarmPolicy, Costs, RealizedFigures
from selfheal_assets.core.segments import slices
from selfheal_assets.core.spec import Segment

REALIZED_METRICS = (*(m.name for m in METRICS), *CELLS, "business_value")
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
        outcomes = Outcomes(label[part.mask], probability[part.mask], flagged[part.mask], figures, seed)
        rows += [(part.name, *row, part.note) for row in _rows(outcomes, policy, costs)]
    return pl.DataFrame(rows, schema=REALIZED_SCHEMA, orient="row")


def _rows(o: Outcomes, policy: AlarmPolicy, costs: Costs | None) -> Iterator[tuple[Any, ...]]:
    """The rows of one slice, without its name and note."""
    short = _short(o, policy)
    for metric in METRICS:
        yield _row(o, metric, policy, short)
    for cell in CELLS:
        value = float(getattr(o.confusion, cell))
        yield (cell, value, None, None, o.rows, o.positives, "rows", "count", None, Status.passed.value, None)
    yield _row(o, business_value(costs), policy, short)


def _row(o: Outcomes, metric: Metric, policy: AlarmPolicy, short: str | None) -> tuple[Any, ...]:
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


def _short(o: Outcomes, policy: AlarmPolicy) -> str | None:
    """What is missing for the policy, in words; ``None`` where there is enough."""
    if o.rows >= policy.min_rows and o.positives >= policy.min_positives:
        return None
    needed = _rows_for_policy(o, policy)
    at_this_share = f": about {needed} labels at this share of positives" if needed else ""
    return (
        f"{o.rows} matured labels with {o.positives} positives; the policy asks for {policy.min_rows} and "
        f"{policy.min_positives}{at_this_share}"
    )


def _rows_for_policy(o: Outcomes, policy: AlarmPolicy) -> int | None:
    """Rows in which the policy's positives are to be expected; ``None`` where none has been seen."""
    if o.positives == 0:
        return None
    return max(policy.min_rows, ceil(policy.min_positives * o.rows / o.positives))


def _at_worst(o: Outcomes, metric: str) -> str:
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


def _rows_for_width(o: Outcomes, found: Interval) -> int:
    """Rows at which the interval would be as narrow as wanted: its width falls with their square root."""
    half = (found.upper - found.lower) / 2
    return max(1, ceil(o.rows * (half / o.figures.half_width) ** 2))
