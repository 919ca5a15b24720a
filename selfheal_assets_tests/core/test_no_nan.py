"""Hypothesis: whatever frame comes, the core's statistics neither crash nor put a NaN into a table."""

import math

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from selfheal_assets.core.evidence_policy import HarmAlarms
from selfheal_assets.core.harm import (
    joint_finding,
    partial_harm_finding,
    partial_row,
    ranking_finding,
)
from selfheal_assets.core.maturity import TimingCurve, fit_timing_curve
from selfheal_assets.core.metrics import UndefinedMetric
from selfheal_assets.core.monitoring import Status, estimate_finding, finding_frame, proxy_metrics
from selfheal_assets.core.partial_counts import cohort_rows, hazard_counts
from selfheal_assets.core.partial_labels import partial_alarm
from selfheal_assets.core.policies import AlarmPolicy, Costs, RealizedFigures
from selfheal_assets.core.realized import realized_by_segment
from selfheal_assets.core.spec import Feature, LabelSpec, Segment
from selfheal_assets.core.tables import validated
from selfheal_assets_tests.core.generated import START, days

FEATURES = (
    Feature(name="x", type="number", nullable=True),
    Feature(name="n", type="integer", nullable=True),
    Feature(name="kind", type="category", nullable=True),
)
SEGMENTS = (Segment(name="kind", feature="kind"), Segment(name="x", feature="x", cuts=(0.0, 10.0)))
LOOSE = AlarmPolicy(min_rows=2, min_positives=1)
anything = st.one_of(st.none(), st.floats(), st.sampled_from([0.0, 0.25, 1.0, math.nan, math.inf, -math.inf]))
row = st.fixed_dictionaries(
    {
        "x": anything,
        "n": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        "kind": st.one_of(
            st.none(), st.sampled_from(["a", "b", "other", "missing", ""]), st.text(max_size=3)
        ),
        "probability": st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]), st.floats()),
        "prediction": st.integers(0, 1),
        "label": st.integers(0, 1),
    }
)
SCHEMA = {
    "x": pl.Float64, "n": pl.Int64, "kind": pl.String, "probability": pl.Float64, "prediction": pl.Int8,
    "label": pl.Int8,
}  # fmt: skip
frames = st.lists(row, max_size=12).map(lambda rows: pl.DataFrame(rows, schema=SCHEMA))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(frames)
def test_proxy_metrics(frame):
    found = validated("proxy_metrics", proxy_metrics(frame, FEATURES))
    assert found["value"][0] == frame.height


@settings(max_examples=40, deadline=None, derandomize=True)
@given(frames)
def test_realized_metrics_by_segment(frame):
    cases = frame.with_columns(flagged=pl.col("prediction") == 1)
    costs, quick = Costs(currency="USD", missed_positive=9), RealizedFigures(resamples=200)
    found = realized_by_segment(cases, SEGMENTS, LOOSE, costs, 0, quick)
    stored = found.with_columns(cohort=pl.lit(START).cast(pl.Datetime("us")), scored_by=pl.lit("served"))
    validated("realized_performance", stored)
    counts = found.filter(metric="true_positives")
    for name in ("kind", "x"):
        parts = counts.filter(pl.col("segment").str.starts_with(f"{name}="))
        assert parts["rows"].sum() == frame.height, "each case is in one slice of each segment"
    sound = cases.filter(pl.col("probability").is_between(0, 1))
    ranked = ranking_finding(sound["label"].to_numpy(), sound["probability"].to_numpy(), 0.7, 0.05, 0.01)
    validated("findings", finding_frame([joint_finding([ranked, ranked])]))
    assert (ranked.status is Status.insufficient) == (
        min(int((sound["label"] == y).sum()) for y in (0, 1)) < 2
    )


@st.composite
def cohort_cases(draw: st.DrawFn) -> dict[str, object]:
    """A case of which no label from the future is known; scores and ages may be anything."""
    age = draw(st.one_of(anything, st.floats(-10, 5000)))
    known = age is not None and math.isfinite(age)
    return {
        "cohort": draw(st.sampled_from([START, START + days(90), None])),
        "age_days": age,
        "probability": draw(st.one_of(anything, st.floats(0, 1))),
        "positive_age_days": draw(st.one_of(st.none(), st.floats(-10, age)))
        if known and age >= -10
        else None,
    }


ages = st.lists(st.one_of(st.none(), st.floats(-500, 5000)), max_size=8)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(cohort_cases(), max_size=12), ages)
def test_partial_label_evidence_and_its_alarm(rows, known_after):
    matured = pl.DataFrame(
        {
            "event_time": [START] * len(known_after),
            "recorded_at": [None if a is None else START + days(a) for a in known_after],
            "label": [1] * len(known_after),
        },
        schema={"event_time": pl.Datetime("us"), "recorded_at": pl.Datetime("us"), "label": pl.Int8},
    )
    curve = fit_timing_curve(matured, LabelSpec(name="bad", column="bad", horizon_months=12))
    assert ((curve.ages >= 0) & (curve.ages <= curve.horizon_days)).all()
    schema = {
        "cohort": pl.Datetime("us"), "age_days": pl.Float64, "probability": pl.Float64,
        "positive_age_days": pl.Float64,
    }  # fmt: skip
    cases, policy = pl.DataFrame(rows, schema=schema), HarmAlarms(min_positives=1, age_bands=3)
    validated("partial_label_evidence", cohort_rows(cases, curve, 3.0, policy))
    counts = hazard_counts(cases, curve, policy)
    validated("hazard_counts", counts.with_columns(version=pl.lit(1, dtype=pl.Int64)))
    alarm = partial_alarm(counts, counts, policy)
    validated("harm_alarms", partial_row(alarm, policy))
    judged = partial_harm_finding(alarm)
    validated("findings", finding_frame([judged]))
    assert (judged.statistic is None) == (judged.status is Status.insufficient)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.one_of(st.none(), st.floats(0, 1)), st.floats(0, 1))
def test_findings_of_estimates(value, reference):
    estimates = pl.DataFrame(
        [("roc_auc", value, None if value is not None else "few")],
        schema={"metric": pl.String, "value": pl.Float64, "reason": pl.String},
        orient="row",
    )
    found = estimate_finding(estimates, reference, LOOSE)
    validated("findings", finding_frame([found]))
    assert (found.status is Status.insufficient) == (value is None)


def test_undefined_is_an_error_with_words_not_a_nan():
    assert issubclass(UndefinedMetric, ValueError)
    assert TimingCurve(np.empty(0), 10.0).known_by(np.array([5.0, 10.0])).tolist() == [0.0, 1.0]
