"""Every table of figures that leaves the core, declared: types, ranges, no NaN, and no empty value without a reason.

A new table is one entry here; ``Stores`` saves no table that has none. What enters (cases, labels) is declared by the
use case and checked by ``schemas``.
"""

import polars as pl

from selfheal_assets.core.evidence import STAGES
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.realized import REALIZED_METRICS
from selfheal_assets.core.table_rules import (
    InvalidTable,
    Rule,
    Table,
    count,
    explained,
    figure,
    flag,
    moment,
    ordered,
    share,
    text,
)

# On a scale of 0 to 1. What is not here (χ², Wasserstein, PSI, log loss …) has no upper end.
_BOUNDED_DISTANCES = ("jensen_shannon", "hellinger", "l_infinity", "kolmogorov_smirnov")
_BOUNDED_METRICS = (
    "roc_auc", "average_precision", "ks", "f1", "precision", "recall", "specificity", "accuracy", "brier",
    "expected_calibration_error",
)  # fmt: skip
_STATUSES = tuple(s.value for s in Status)


def _in_unit_interval(columns: tuple[str, ...], kind: str, names: tuple[str, ...]) -> tuple[Rule, ...]:
    """The columns lie in 0..1 in rows whose ``kind`` is one of ``names``."""
    return tuple(
        Rule(c, f"must be in 0..1 for this {kind}", ~pl.col(kind).is_in(names) | pl.col(c).is_between(0, 1))
        for c in columns
    )


TABLES = {
    "proxy_metrics": Table(
        {
            "metric": text("volume", "mean_score", "positive_rate", "score_entropy", "missing_share"),
            "value": figure(least=0),
            "unit": text(),
            "reason": text(nullable=True),
        },
        key=("metric",),
        rules=explained("value"),
    ),
    "univariate_drift": Table(
        {
            "feature": text(),
            "kind": text("feature", "score", "prediction"),
            "segment": text(),
            "method": text(),
            "value": figure(least=0),
            "rows": count(nullable=True),
            "reference_rows": count(nullable=True),
            "cells": count(nullable=True),
            "reason": text(nullable=True),
            "threshold": figure(),
            "alert": flag(nullable=True),
        },
        key=("feature", "segment", "method"),
        rules=explained("value") + _in_unit_interval(("value",), "method", _BOUNDED_DISTANCES),
    ),
    "drift_alarms": Table(
        {
            "feature": text(),
            "tier": text("warn", "act"),
            "status": text(*_STATUSES),
            "statistic": figure(),
            "limit": figure(),
            "p_value": share(),
            "budget_spent": share(),
            "rows": count(),
            "rows_before": count(),
            "first_chunk": text(nullable=True),
            "first_chunk_earliest": text(nullable=True),
            "first_chunk_latest": text(nullable=True),
            "first_chunk_score": share(),
            "direction": text(nullable=True),
            "grown": text(nullable=True),
            "shrunk": text(nullable=True),
            "effect_size": figure(least=0),
            "shift_sd": figure(),
            "mass_moved": share(),
            "prediction_mass_moved": share(),
            "reason": text(nullable=True),
        },
        key=("feature", "tier"),
        rules=explained("statistic", exactly=False),
    ),
    "suspected_causes": Table(
        {
            "metric": text(),
            "rank": count(nullable=True),
            "feature": text(),
            "effect": figure(),
            "share": figure(),
            "total_change": figure(),
            "reason": text(nullable=True),
        },
        key=("metric", "feature"),
        rules=explained("effect", exactly=False),
    ),
    "harm_alarms": Table(
        {
            "evidence": text("partial", "realized"),
            "status": text(*_STATUSES),
            "statistic": figure(),
            "limit": figure(),
            "budget": share(),
            "budget_spent": figure(least=0),
            "first_chunk": moment(nullable=True),
            "direction": text("more", "fewer", nullable=True),
            "effect": figure(least=0),
            "effect_lower": figure(least=0),
            "effect_upper": figure(least=0),
            "reason": text(),
        },
        key=("evidence",),
        rules=ordered("effect_lower", "effect", "effect_upper"),
    ),
    "hazard_counts": Table(
        {
            "version": count(),
            "cohort": moment(),
            "age_band": count(),
            "observed": figure(least=0, nullable=False),
            "expected": figure(least=0, nullable=False),
            "expected_at_most": figure(least=0, nullable=False),
            "expected_at_least": figure(least=0, nullable=False),
        },
        key=("version", "cohort", "age_band"),
    ),
    "realized_losses": Table(
        {
            "version": count(),
            "seen_in": moment(),
            "rows": count(),
            "total": figure(least=0, nullable=False),
            "squares": figure(least=0, nullable=False),
        },
        key=("version", "seen_in"),
        rules=ordered("squares", "total"),
    ),
    "multivariate_drift": Table(
        {
            "method": text(),
            "value": figure(least=0),
            "lower_threshold": figure(),
            "upper_threshold": figure(),
            "alert": flag(nullable=True),
            "reason": text(nullable=True),
        },
        key=("method",),
        rules=explained("value"),
    ),
    "estimated_performance": Table(
        {
            "segment": text(),
            "metric": text(),
            "value": figure(),
            "lower": figure(),
            "upper": figure(),
            "standard_error": figure(least=0),
            "rows": count(),
            "unit": text(nullable=True),
            "estimator": text("cbpe", "weighted", nullable=True),
            "own_error": figure(least=0),
            "value_cbpe": figure(),
            "value_weighted": figure(),
            "trusted": flag(nullable=True),
            "status": text(*_STATUSES),
            "reason": text(nullable=True),
        },
        key=("segment", "metric"),
        # A reason beside a value says why it is not trusted, or what it leaves out.
        rules=explained("value", exactly=False)
        + ordered("lower", "value", "upper")
        + _in_unit_interval(("value", "lower", "upper"), "metric", _BOUNDED_METRICS),
    ),
    "partial_label_evidence": Table(
        {
            "cohort": moment(nullable=True),
            "rows": count(nullable=True),
            "mean_age_days": figure(least=0),
            "share_known": share(),
            "expected": figure(least=0),
            "observed": figure(least=0),
            "variance": figure(least=0),
            "lower": figure(least=0),
            "upper": figure(least=0),
            "reason": text(nullable=True),
        },
        key=("cohort",),
        # A reason beside a value says what was left out, or how many cases the cohort lacks.
        rules=explained("expected", exactly=False)
        + explained("cohort", exactly=False)
        + ordered("lower", "upper"),
    ),
    "realized_performance": Table(
        {
            "cohort": moment(),
            "scored_by": text("served", "champion"),
            "segment": text(),
            "metric": text(*REALIZED_METRICS),
            "value": figure(),
            "lower": figure(),
            "upper": figure(),
            "rows": count(),
            "positives": count(),
            "unit": text(),
            "method": text(),
            "rows_needed": count(nullable=True),
            "status": text(*_STATUSES),
            "reason": text(nullable=True),
            "note": text(nullable=True),
        },
        key=("cohort", "scored_by", "segment", "metric"),
        rules=explained("value")
        + ordered("lower", "value", "upper")
        + ordered("positives", "rows")
        + _in_unit_interval(("value", "lower", "upper"), "metric", _BOUNDED_METRICS),
    ),
    "nannyml_drift": Table(
        {
            "feature": text(),
            "method": text(),
            "value": figure(least=0),
            "threshold": figure(),
            "alert": flag(nullable=True),
            "reason": text(nullable=True),
        },
        key=("feature", "method"),
        rules=explained("value") + _in_unit_interval(("value",), "method", _BOUNDED_DISTANCES),
    ),
    "nannyml_estimates": Table(
        {
            "metric": text(),
            "value": figure(),
            "lower": figure(),
            "upper": figure(),
            "threshold_lower": figure(),
            "threshold_upper": figure(),
            "alert": flag(nullable=True),
            "reason": text(nullable=True),
        },
        key=("metric",),
        # A reason beside a value says what the estimate leaves out.
        rules=explained("value", exactly=False)
        + ordered("lower", "value", "upper")
        + _in_unit_interval(("value", "lower", "upper"), "metric", _BOUNDED_METRICS),
    ),
    "evidence": Table(
        {
            "stage": text(*STAGES),
            "segment": text(),
            "metric": text(),
            "value": figure(),
            "lower": figure(),
            "upper": figure(),
            "rows": count(),
            "method": text(nullable=True),
            "own_error": figure(least=0),
            "status": text(*_STATUSES),
            "reason": text(nullable=True),
        },
        key=("stage", "segment", "metric"),
        rules=explained("value", exactly=False) + ordered("lower", "value", "upper"),
    ),
    "findings": Table(
        {
            "check": text(),
            "status": text(*_STATUSES),
            "statistic": figure(),
            "limit": figure(),
            "reason": text(),
        },
        key=("check",),
    ),
    "health_report": Table(
        {
            "label": text(),
            "status": text(*_STATUSES),
            "reason": text(),
            "champion": count(nullable=True),
            "rows": count(),
            "labels_known": count(),
            "estimated_auc": share(),
            "estimated_lower": share(),
            "estimated_upper": share(),
            "realized_auc": share(),
            "expected_so_far": figure(least=0),
            "observed_so_far": figure(least=0),
            "failed_checks": text(),
        },
        key=("label",),
        rules=ordered("estimated_lower", "estimated_auc", "estimated_upper"),
    ),
    "shadow_models": Table(
        {
            "candidate": text(),
            "validation_log_loss": figure(least=0),
            "reason": text(),
            "chosen": flag(),
            "as_of": moment(),
            "version": count(),
        },
        key=("candidate",),
        rules=explained("validation_log_loss", exactly=False),
    ),
    "shadow_evaluation": Table(
        {
            "segment": text(),
            "metric": text("f1", "roc_auc", "brier", "log_loss", "expected_over_observed"),
            "champion_value": figure(least=0, nullable=False),
            "challenger_value": figure(least=0, nullable=False),
            "lower": figure(nullable=False),
            "upper": figure(nullable=False),
            "rows": count(),
            "positives": count(),
            "as_of": moment(),
            "champion": count(nullable=True),
            "challenger": count(),
        },
        key=("segment", "metric"),
        rules=ordered("lower", "upper")
        + ordered("positives", "rows")
        + _in_unit_interval(("champion_value", "challenger_value"), "metric", _BOUNDED_METRICS),
    ),
}


def validated(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame, if it is a sound table of that name.

    Args:
        name: of the table, as in :data:`TABLES`.
        frame: its rows, without the column ``chunk`` that storing adds.

    Raises:
        LookupError: no such table is declared.
        InvalidTable: columns, types, ranges or reasons are not as declared; names column, row and rule.
    """
    if name not in TABLES:
        raise LookupError(
            f"table '{name}' is not declared: add its columns and rules to TABLES in selfheal_assets/core/tables.py"
        )
    from pandera.errors import SchemaErrors

    table = TABLES[name]
    try:
        table.schema.validate(frame, lazy=True)
    except SchemaErrors:
        raise InvalidTable(name, table.problems(frame)) from None
    return frame
