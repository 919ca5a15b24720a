"""Every table is refused when it is unsound, in words that name table, column, row and rule; and quickly."""

import math
import time
from datetime import datetime

import polars as pl
import pytest

from selfheal_assets.core.monitoring import Finding, Status, finding_frame, proxy_metrics
from selfheal_assets.core.policies import AlarmPolicy
from selfheal_assets.core.realized import REALIZED_METRICS, REALIZED_SCHEMA, realized_metrics
from selfheal_assets.core.spec import Feature
from selfheal_assets.core.table_rules import InvalidTable
from selfheal_assets.core.tables import TABLES, validated
from selfheal_assets_tests.core.test_realized import outcome

NAN, DAY = math.nan, datetime(2020, 1, 1)
# One sound row of each table.
SOUND = {
    "proxy_metrics": {"metric": "volume", "value": 3.0, "unit": "rows", "reason": None},
    "univariate_drift": {
        "feature": "age", "kind": "feature", "segment": "all", "method": "jensen_shannon", "value": 0.2, "rows": 400,
        "reference_rows": 900, "cells": 31, "reason": None, "threshold": 0.1, "alert": True,
    },
    "drift_alarms": {
        "feature": "age", "tier": "act", "status": "FAIL", "statistic": 9.1, "limit": 6.2, "p_value": 1e-4,
        "budget_spent": 0.01, "rows": 400, "rows_before": 3000, "first_chunk": "2020-03",
        "first_chunk_earliest": "2020-02", "first_chunk_latest": "2020-03", "first_chunk_score": 0.8,
        "direction": "up", "grown": "cell 10 +4 %", "shrunk": "cell 01 -4 %", "effect_size": 0.2, "shift_sd": -0.3,
        "mass_moved": 0.05, "prediction_mass_moved": None, "reason": None,
    },
    "suspected_causes": {
        "metric": "roc_auc", "rank": 1, "feature": "age", "effect": -0.04, "share": 0.8, "total_change": -0.05,
        "reason": None,
    },
    "harm_alarms": {
        "evidence": "partial", "status": "FAIL", "statistic": 5.5, "limit": 3.7, "budget": 0.025,
        "budget_spent": 0.02, "first_chunk": DAY, "direction": "more", "effect": 1.6, "effect_lower": 1.2,
        "effect_upper": 2.1, "reason": "more than expected",
    },
    "hazard_counts": {
        "version": 1, "cohort": DAY, "age_band": 0, "observed": 3.0, "expected": 2.5, "expected_at_most": 3.1,
        "expected_at_least": 2.0,
    },
    "realized_losses": {"version": 1, "seen_in": DAY, "rows": 400, "total": 30.0, "squares": 12.5},
    "multivariate_drift": {
        "method": "pca_reconstruction_error", "value": 1.2, "lower_threshold": 1.0, "upper_threshold": 1.5,
        "alert": False, "reason": None,
    },
    "estimated_performance": {
        "segment": "all", "metric": "roc_auc", "value": 0.7, "lower": 0.6, "upper": 0.8, "standard_error": 0.05,
        "rows": 400, "unit": "share", "estimator": "weighted", "own_error": 0.01, "value_cbpe": 0.72,
        "value_weighted": 0.7, "trusted": True, "status": "PASS", "reason": None,
    },
    "partial_label_evidence": {
        "cohort": DAY, "rows": 20, "mean_age_days": 9.5, "share_known": 0.5, "expected": 2.0, "observed": 1.0,
        "variance": 1.5, "lower": 0.0, "upper": 5.0, "reason": None,
    },
    "realized_performance": {
        "cohort": DAY, "scored_by": "served", "segment": "all", "metric": "f1", "value": 0.4, "lower": 0.3,
        "upper": 0.5, "rows": 400, "positives": 40, "unit": "share", "method": "wilson", "rows_needed": 900,
        "status": "PASS", "reason": None, "note": None,
    },
    "nannyml_drift": {
        "feature": "age", "method": "jensen_shannon", "value": 0.2, "threshold": 0.1, "alert": True, "reason": None,
    },
    "nannyml_estimates": {
        "metric": "roc_auc", "value": 0.7, "lower": 0.6, "upper": 0.8, "threshold_lower": 0.65,
        "threshold_upper": None, "alert": False, "reason": None,
    },
    "evidence": {
        "stage": "realized", "segment": "all", "metric": "roc_auc", "value": 0.7, "lower": 0.6, "upper": 0.8,
        "rows": 400, "method": "delong", "own_error": None, "status": "PASS", "reason": None,
    },
    "findings": {"check": "a", "status": "FAIL", "statistic": 0.3, "limit": 0.2, "reason": "too far"},
    "health_report": {
        "label": "2020 Q1", "status": "PASS", "reason": "holds", "champion": 1, "rows": 20, "labels_known": 3,
        "estimated_auc": 0.7, "estimated_lower": 0.6, "estimated_upper": 0.8, "realized_auc": None,
        "expected_so_far": 2.0, "observed_so_far": 1.0, "failed_checks": "",
    },
    "shadow_models": {
        "candidate": "full_history", "validation_log_loss": 0.4, "reason": "the least loss", "chosen": True,
        "as_of": DAY, "version": 2,
    },
    "shadow_evaluation": {
        "segment": "all", "metric": "f1", "champion_value": 0.4, "challenger_value": 0.5, "lower": 0.02,
        "upper": 0.18, "rows": 400, "positives": 40, "as_of": DAY, "champion": None, "challenger": 2,
    },
}  # fmt: skip


def table(name: str, *changes: dict) -> pl.DataFrame:
    """Sound rows with these changes; with one key each, as they must differ."""
    schema = {c: column.dtype for c, column in TABLES[name].columns.items()}
    return pl.DataFrame([SOUND[name] | change for change in changes or ({},)], schema=schema)


def problems(name: str, frame: pl.DataFrame) -> list[str]:
    with pytest.raises(InvalidTable) as caught:
        validated(name, frame)
    assert str(caught.value).startswith(f"table '{name}' breaks its schema")
    return [str(p) for p in caught.value.problems]


@pytest.mark.parametrize("name", TABLES)
def test_a_sound_table_passes_in_any_order_of_columns_and_without_rows(name):
    frame = table(name)
    assert validated(name, frame) is frame
    validated(name, frame.select(reversed(frame.columns)))
    validated(name, frame.clear())


@pytest.mark.parametrize("name", TABLES)
def test_a_nan_or_infinite_float_is_refused_in_every_column(name):
    floats = [c for c, column in TABLES[name].columns.items() if column.dtype == pl.Float64]
    for column in floats:
        for bad in (NAN, math.inf):
            told = problems(name, table(name, {column: bad}))
            assert any(p.startswith(f"column '{column}', row 1: {bad} must be a finite") for p in told), told


@pytest.mark.parametrize("name", TABLES)
def test_an_empty_value_is_refused_where_one_is_needed(name):
    for column, rule in TABLES[name].columns.items():
        if not rule.nullable:
            told = problems(name, table(name, {column: None}))
            assert any(f"column '{column}', row 1: is null, but must have a value" in p for p in told), told


@pytest.mark.parametrize("name", TABLES)
def test_columns_and_types_are_those_declared(name):
    frame = table(name)
    first = frame.columns[0]
    assert problems(name, frame.drop(first)) == [f"column '{first}': is missing"]
    assert problems(name, frame.with_columns(more=1)) == ["column 'more': is not declared"]
    told = problems(name, frame.with_columns(pl.lit(1, dtype=pl.Int8).alias(first)))
    assert told == [f"column '{first}': holds Int8 values, must hold {frame.schema[first]}"]


@pytest.mark.parametrize("name", TABLES)
def test_a_row_that_is_there_twice_is_refused(name):
    told = problems(name, table(name, {}, {}))
    assert len(told) == 2
    assert "is there more than once" in told[0]


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("univariate_drift", {"value": 1.2}, "column 'value', row 1: 1.2 must be in 0..1 for this method"),
        ("univariate_drift", {"value": -0.1}, "-0.1 must be at least 0"),
        ("univariate_drift", {"value": None}, "column 'value', row 1: is null without a reason"),
        ("univariate_drift", {"value": None, "reason": ""}, "column 'value', row 1: is null without a reason"),
        ("univariate_drift", {"reason": "few"}, "column 'reason', row 1: 'few' is given although value has a value"),
        ("univariate_drift", {"kind": "column"}, "'column' must be one of feature, score, prediction"),
        ("drift_alarms", {"tier": "look"}, "'look' must be one of warn, act"),
        ("drift_alarms", {"p_value": 1.5}, "1.5 must be at most 1"),
        ("drift_alarms", {"statistic": None}, "is null without a reason (feature=age, tier=act)"),
        ("suspected_causes", {"effect": None}, "is null without a reason"),
        ("harm_alarms", {"evidence": "estimated"}, "'estimated' must be one of partial, realized"),
        ("harm_alarms", {"direction": "up"}, "'up' must be one of more, fewer"),
        ("harm_alarms", {"effect_upper": 1.5}, "must be at most effect_upper"),
        ("hazard_counts", {"observed": -1.0}, "-1.0 must be at least 0"),
        ("realized_losses", {"squares": 30.5}, "30.5 must be at most total"),
        ("multivariate_drift", {"value": None}, "is null without a reason"),
        ("proxy_metrics", {"metric": "mean"}, "'mean' must be one of volume, mean_score"),
        ("proxy_metrics", {"value": None}, "is null without a reason"),
        ("estimated_performance", {"value": 0.5}, "column 'lower', row 1: 0.6 must be at most value"),
        ("estimated_performance", {"value": 0.9}, "column 'value', row 1: 0.9 must be at most upper"),
        ("estimated_performance", {"upper": 1.1}, "1.1 must be in 0..1 for this metric"),
        ("estimated_performance", {"value": None}, "is null without a reason"),
        ("estimated_performance", {"estimator": "dle"}, "'dle' must be one of cbpe, weighted"),
        ("partial_label_evidence", {"lower": 6.0}, "6.0 must be at most upper"),
        ("partial_label_evidence", {"share_known": 1.01}, "1.01 must be at most 1"),
        ("partial_label_evidence", {"expected": None}, "is null without a reason"),
        ("partial_label_evidence", {"cohort": None}, "is null without a reason"),
        ("realized_performance", {"positives": 401}, "401 must be at most rows"),
        ("realized_performance", {"rows": -1}, "-1 must be at least 0"),
        ("realized_performance", {"lower": 0.45}, "0.45 must be at most value"),
        ("realized_performance", {"metric": "auc"}, "'auc' must be one of roc_auc"),
        ("realized_performance", {"value": None}, "is null without a reason (cohort=2020-01-01 00:00:00, scored_by"),
        ("realized_performance", {"status": "OK"}, "'OK' must be one of PASS, FAIL, INSUFFICIENT_DATA"),
        ("nannyml_drift", {"value": 1.2}, "1.2 must be in 0..1 for this method"),
        ("nannyml_estimates", {"value": 0.9}, "0.9 must be at most upper"),
        ("evidence", {"stage": "guessed"}, "'guessed' must be one of estimated, partial, realized"),
        ("evidence", {"value": None}, "is null without a reason (stage=realized, segment=all, metric=roc_auc)"),
        ("findings", {"status": "GOOD"}, "'GOOD' must be one of PASS"),
        ("health_report", {"estimated_auc": 1.2}, "1.2 must be at most 1"),
        ("shadow_models", {"reason": None}, "reason"),
        ("shadow_evaluation", {"champion_value": 1.5}, "1.5 must be in 0..1 for this metric"),
        ("shadow_evaluation", {"metric": "log_loss", "champion_value": -0.1}, "-0.1 must be at least 0"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_named(name, change, says):
    told = problems(name, table(name, change))
    assert any(says in p for p in told), told


def test_distances_and_metrics_without_an_upper_end_may_be_large():
    validated("univariate_drift", table("univariate_drift", {"method": "wasserstein", "value": 12.5}))
    many = {"metric": "log_loss", "value": 2.5, "lower": 2.0, "upper": 3.0}
    validated("realized_performance", table("realized_performance", many))


def test_an_estimate_may_say_what_it_leaves_out():
    validated(
        "estimated_performance", table("estimated_performance", {"reason": "7 of 600 scores are left out"})
    )


def test_the_row_is_the_one_that_is_wrong():
    frame = table("univariate_drift", *({"feature": f"f{i}", "value": 0.1} for i in range(30)))
    frame = frame.with_columns(value=pl.when(pl.col("feature") == "f17").then(NAN).otherwise("value"))
    [told] = problems("univariate_drift", frame)
    assert told == (
        "column 'value', row 18: nan must be a finite number, or null with a reason "
        "(feature=f17, segment=all, method=jensen_shannon)"
    )


def test_ten_problems_are_listed_and_all_counted():
    frame = table("findings", *({"check": f"c{i}", "limit": NAN} for i in range(25)))
    with pytest.raises(InvalidTable) as caught:
        validated("findings", frame)
    lines = str(caught.value).splitlines()
    assert "25 problems; nothing was saved" in lines[0]
    assert len(lines) == 12
    assert lines[-1].strip() == "… and 15 more"


def test_a_table_that_nobody_declared_is_refused():
    with pytest.raises(
        LookupError, match=r"table 'new_figures' is not declared: add .* to TABLES in .*tables.py"
    ):
        validated("new_figures", pl.DataFrame())


def test_what_the_core_returns_is_as_declared():
    features = (Feature(name="x", type="number"),)
    scored = pl.DataFrame({"probability": [0.5, 0.25], "prediction": [1, 0], "x": [None, 2.0]})
    for frame in (scored, scored.clear(), scored.with_columns(probability=NAN), pl.DataFrame()):
        validated("proxy_metrics", proxy_metrics(frame, features))
    validated("findings", finding_frame([Finding("a", Status.failed, "far", 0.3, 0.2)]))
    assert set(REALIZED_SCHEMA) | {"cohort", "scored_by"} == set(TABLES["realized_performance"].columns)
    for rows in (0, 50, 500):
        frame = realized_metrics(*outcome(rows), AlarmPolicy())
        frame = frame.with_columns(cohort=pl.lit(DAY).cast(pl.Datetime("us")), scored_by=pl.lit("served"))
        validated("realized_performance", frame)


def test_validation_costs_milliseconds():
    """Of the largest table: 18 metrics of 10 segments by two models. The first call builds the schema."""
    names = [f"s={i}" for i in range(10)]
    rows = [
        {"segment": s, "metric": m, "scored_by": by}
        for s in names
        for m in REALIZED_METRICS
        for by in ("served", "champion")
    ]
    frame = table("realized_performance", *rows)
    validated("realized_performance", frame)
    started = time.process_time()
    for _ in range(20):
        validated("realized_performance", frame)
    assert (time.process_time() - started) / 20 < 0.02
