"""The tables of a chunk's page: every number behind its plots."""

from typing import Any

import polars as pl

from selfheal_assets.core.spec import ChunkPeriod
from selfheal_assets.reports.page import Badge, Column, Table
from selfheal_assets.reports.statuses import SCORED_BY, alert_badge, finding_badge
from selfheal_assets.reports.text import UNKNOWN, count, interval, moment, number, percent, statistic

STATUS = Column("Status", False)


def _row_badge(row: dict[str, Any]) -> Badge:
    known = row["alert"] if row["value"] is not None else None
    return alert_badge(known, row.get("status"), row.get("reason") or "")


def findings_table(findings: pl.DataFrame) -> Table:
    """Each check with its number, its limit and why."""
    columns = [Column("Check", False), STATUS, Column("Value"), Column("Limit"), Column("Why", False)]
    rows = [
        [
            r["check"],
            finding_badge(r["status"]),
            statistic(r["statistic"]),
            statistic(r["limit"]),
            r["reason"] or "",
        ]
        for r in findings.iter_rows(named=True)
    ]
    return Table("Each check states the healthy truth; 'fail' means it does not hold.", columns, rows)


def _alarm_badge(row: dict[str, Any]) -> Badge:
    if row["value"] is None or row["alert"] is None:
        return _row_badge(row)
    return Badge("▲", "alarm", "bad") if row["alert"] else Badge("✓", "no alarm", "good")


def univariate_table(univariate: pl.DataFrame, judged: bool = False) -> Table:
    """Every drift value of every feature. ``judged``: ``alert`` is what the alarms say of the feature."""
    badge = _alarm_badge if judged else _row_badge
    columns = [Column("Feature", False), Column("Method", False), Column("Value"), Column("Limit"), STATUS]
    rows = [
        [r["feature"], r["method"] or "", statistic(r["value"]), statistic(r["threshold"]), badge(r)]
        for r in univariate.iter_rows(named=True)
    ]
    return Table(f"All {univariate.height} drift values", columns, rows, folded=True)


def multivariate_table(multivariate: pl.DataFrame) -> Table:
    """Drift of all features together."""
    columns = [Column("Method", False), Column("Value"), Column("Healthy range"), STATUS]
    rows = [
        [
            r["method"],
            statistic(r["value"]),
            interval(r["lower_threshold"], r["upper_threshold"]),
            _row_badge(r),
        ]
        for r in multivariate.iter_rows(named=True)
    ]
    return Table("All features together", columns, rows)


def _estimate_badge(row: dict[str, Any]) -> Badge:
    """An estimate that has no limit is not 'within' one, and one that is not trusted says so first."""
    if row["value"] is None or row["alert"]:
        return _row_badge(row)
    if row.get("trusted") is False:
        return Badge("?", "not trusted", "unknown", row.get("reason") or "")
    if row["threshold_lower"] is None and row["threshold_upper"] is None:
        return Badge("·", "no limit", "neutral", row.get("reason") or "")
    return _row_badge(row)


def estimates_table(estimates: pl.DataFrame) -> Table:
    """Estimated metrics with interval and healthy range."""
    columns = [Column("Metric", False), *map(Column, ("Estimate", "Interval", "Healthy range")), STATUS]
    rows = [
        [
            r["metric"],
            number(r["value"]),
            interval(r["lower"], r["upper"]),
            interval(r["threshold_lower"], r["threshold_upper"]),
            _estimate_badge(r),
        ]
        for r in estimates.iter_rows(named=True)
    ]
    return Table(
        "Estimated from the scores alone; a changed meaning of the inputs does not show.", columns, rows
    )


def cohorts_table(evidence: pl.DataFrame, period: ChunkPeriod) -> Table:
    """Expected and observed outcomes of each cohort, with its age."""
    titles = (
        "Rows",
        "Mean age, days",
        "Share that shows by now",
        "Expected",
        "Observed",
        "Observed ÷ expected",
    )
    rows = [
        [
            moment(r["cohort"], period),
            count(r["rows"]),
            count(r["mean_age_days"]),
            percent(r["share_known"], 0),
            number(r["expected"], 1),
            count(r["observed"]),
            number(r["observed"] / r["expected"], 2)
            if r["expected"] and r["observed"] is not None
            else UNKNOWN,
        ]
        for r in evidence.iter_rows(named=True)
    ]
    return Table(
        "Cohorts and their labels so far", [Column("Cohort", False), *map(Column, titles)], rows, folded=True
    )


def realized_table(realized: pl.DataFrame, period: ChunkPeriod, folded: bool) -> Table:
    """Realized metrics of matured cohorts, by the model that scored them where there are several."""
    numbers = [Column(title) for title in ("Value", "Interval", "Rows", "Positives")]
    by_model = "scored_by" in realized.columns
    rows = [
        [
            moment(r["cohort"], period),
            *([SCORED_BY.get(r["scored_by"], r["scored_by"] or UNKNOWN)] if by_model else []),
            r["metric"],
            number(r["value"]),
            interval(r["lower"], r["upper"]),
            count(r["rows"]),
            count(r["positives"]),
            finding_badge("INSUFFICIENT_DATA", r["reason"] or "") if r["value"] is None else "measured",
        ]
        for r in realized.iter_rows(named=True)
    ]
    words = ["Cohort", *(["Scored by"] if by_model else []), "Metric"]
    columns = [*(Column(word, False) for word in words), *numbers, STATUS]
    return Table("Metrics on cohorts past the horizon, whose labels are all in", columns, rows, folded=folded)
