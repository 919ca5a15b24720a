"""The three stages of evidence about a champion side by side: estimated, partial, realized. One tidy table.

*Estimated* is of the chunk, before any label; *partial* of the cohorts whose labels are coming in; *realized* of the
newest matured cohort, as today's champion scores it. They speak of different cases: read down a stage, not across.
"""

from typing import Final

import polars as pl

from selfheal_assets.core.chunk_statistics import ALL
from selfheal_assets.core.monitoring import Status

STAGES: Final = ("estimated", "partial", "realized")
RATIO: Final = (
    "expected_over_observed"  # as the realized stage has it: 1 is calibrated, above 1 is too pessimistic
)
EVIDENCE_SCHEMA: Final = {
    "stage": pl.String,
    "segment": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "rows": pl.Int64,
    "method": pl.String,
    "own_error": pl.Float64,
    "status": pl.String,
    "reason": pl.String,
}


def evidence_table(
    estimated: pl.DataFrame, cohorts: pl.DataFrame, alarms: pl.DataFrame, realized: pl.DataFrame
) -> pl.DataFrame:
    """Evidence of one chunk.

    Args:
        estimated: table ``estimated_performance``.
        cohorts: table ``partial_label_evidence``.
        alarms: table ``harm_alarms``; its row of partial labels has observed over expected, since the change
            that it suspects.
        realized: table ``realized_performance``.

    Returns:
        One row per ``stage``, ``segment`` and ``metric``: ``value`` with its interval ``lower``–``upper`` (null where
        ``reason`` says why), ``rows`` it rests on, ``method`` (estimator, or how the interval was made),
        ``own_error`` (an estimator's past error), ``status``. A stage without any row has one that says so.
    """
    parts = {
        "estimated": estimated.rename({"estimator": "method"}) if estimated.height else estimated,
        "partial": _partial(cohorts, alarms),
        "realized": realized.filter(pl.col("scored_by") == "champion") if realized.height else realized,
    }
    return pl.concat([_stage(name, frame) for name, frame in parts.items()])


def _partial(cohorts: pl.DataFrame, alarms: pl.DataFrame) -> pl.DataFrame:
    found = alarms.filter(pl.col("evidence") == "partial") if alarms.height else alarms
    if found.is_empty():
        return found
    rows = int(cohorts["rows"].sum()) if cohorts.height else 0
    return found.select(
        pl.lit(ALL).alias("segment"),
        pl.lit(RATIO).alias("metric"),
        _inverse("effect").alias("value"),
        _inverse("effect_upper").alias("lower"),
        _inverse("effect_lower").alias("upper"),
        pl.lit(rows, pl.Int64).alias("rows"),
        pl.lit("poisson").alias("method"),
        "status",
        "reason",
    )


def _inverse(ratio: str) -> pl.Expr:
    """1 / ratio; null where nothing was observed, which has no upper end."""
    return pl.when(pl.col(ratio) > 0).then(1 / pl.col(ratio))


def _stage(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    if frame.is_empty():
        why = f"nothing is {name} of this chunk: see the check of its asset"
        blank = {"segment": ALL, "status": Status.insufficient.value, "reason": why}
        frame = pl.DataFrame([blank | {"metric": "all", "rows": 0}])
    known = frame.with_columns(pl.lit(name).alias("stage"))
    return known.select(
        (pl.col(c) if c in known.columns else pl.lit(None)).cast(kind).alias(c)
        for c, kind in EVIDENCE_SCHEMA.items()
    )
