"""The tables of a backtest's page: every number behind its plots."""

from typing import Any

import polars as pl

from selfheal_assets.core.backtest import Backtest
from selfheal_assets.reports.backtest_figures import COMPARED, HIGHER_IS_BETTER, chunk_name
from selfheal_assets.reports.decisions import version
from selfheal_assets.reports.page import Badge, Cell, Column, Notice, Table
from selfheal_assets.reports.statuses import action_badge
from selfheal_assets.reports.text import UNKNOWN, count, metric_name, moment, number

SHARES = ("auc", "auc_within", "f1", "brier", "expected_over_observed", "calibration_error")
COUNTS = (
    "retrainings", "promotions", "regretted_promotions", "proved_regrets", "refusals", "rollbacks", "alarms",
    "false_alarms", "events", "detected", "detection_delay_days", "cost",
)  # fmt: skip


TITLES = {
    "auc_within": "AUC within chunks",
    "retrainings": "trained",
    "promotions": "promoted",
    "regretted_promotions": "regretted",
    "proved_regrets": "proved regrets",
    "refusals": "refused",
    "rollbacks": "rolled back",
    "detection_delay_days": "delay, days",
}


def summary_table(found: Backtest, lead: str) -> Table:
    """One row for each policy; figures that no policy has are left out."""
    names = [n for n in (*SHARES, *COUNTS) if n in found.summary.columns and found.summary[n].count()]
    titles = TITLES | {"cost": f"cost, {found.currency}"}
    columns = [Column("Policy", False), *(Column(titles.get(n, metric_name(n))) for n in names)]
    rows = [
        [
            f"{row['policy']} ◀" if row["policy"] == lead else row["policy"],
            *(number(row[n], 4) if n in SHARES else count(row[n]) for n in names),
        ]
        for row in found.summary.iter_rows(named=True)
    ]
    sizes = found.summary.select(pl.max("rows", "positives")).row(0)
    caption = (
        f"Over {count(sizes[0])} cases, {count(sizes[1])} positive. The others are compared with {lead} ◀"
    )
    return Table(caption, columns, rows)


def chunks_table(found: Backtest) -> Table:
    """One row for each policy and chunk."""
    columns = [
        Column("Policy", False), Column("Chunk", False), Column("Rows"), Column("Positives"), Column("ROC AUC"),
        Column("F1"), Column("Brier score"), Column("Expected ÷ observed"), Column("Model"),
    ]  # fmt: skip
    rows = [
        [
            r["policy"],
            chunk_name(r["chunk"], found.period),
            count(r["rows"]),
            count(r["positives"]),
            number(r["auc"]),
            number(r["f1"]),
            number(r["brier"], 4),
            number(r["expected_over_observed"], 2),
            version(r["champion"]),
        ]
        for r in found.chunks.iter_rows(named=True)
    ]
    return Table("Each policy's figures by chunk", columns, rows, folded=True)


def promotions_table(found: Backtest) -> Table | Notice:
    """Each promotion that replaced a model, and whether it was regretted."""
    promoted = found.actions.filter((pl.col("action") == "PROMOTE") & pl.col("champion").is_not_null())
    if promoted.is_empty():
        return Notice("No policy replaced a model.")
    columns = [
        Column("Policy", False), Column("Day"), Column("From"), Column("To"), Column("Regret, nats a case"),
        Column("Interval"), Column("Verdict", False),
    ]  # fmt: skip
    rows = [_promotion(r) for r in promoted.iter_rows(named=True)]
    caption = "Promotions and their regret: the promoted model's log loss less that of the model it replaced, on the "
    return Table(caption + "cases it served; below 0 it paid", columns, rows, folded=True)


def _promotion(row: dict[str, Any]) -> list[Cell]:
    lower, upper = row.get("regret_lower"), row.get("regret_upper")
    known = lower is not None and upper is not None
    badge = Badge("?", "not known", "unknown", "no label of a case that it served is known")
    if row["regretted"] is not None:
        badge = Badge("★", "regretted", "bad") if row["regretted"] else Badge("✓", "paid", "good")
    return [
        row["policy"],
        moment(row["as_of"]),
        version(row["champion"]),
        version(row["challenger"]),
        UNKNOWN if row["regret"] is None else f"{row['regret']:+.4f}",
        f"{lower:+.4f} to {upper:+.4f}" if known else UNKNOWN,
        badge,
    ]


def actions_table(found: Backtest) -> Table:
    """Every decision with its reason."""
    columns = [
        Column("Policy", False), Column("Day"), Column("Action", False), Column("Champion"), Column("Challenger"),
        Column("Why", False),
    ]  # fmt: skip
    rows = [
        [
            r["policy"],
            moment(r["as_of"]),
            action_badge(r["action"]),
            version(r["champion"]),
            version(r["challenger"]),
            r["reason"] or "",
        ]
        for r in found.actions.iter_rows(named=True)
    ]
    return Table(f"All {found.actions.height} decisions with their reasons", columns, rows, folded=True)


def differences_table(found: Backtest, lead: str) -> Table:
    """The lead's figure less each other policy's, with intervals."""
    columns = [
        Column("Less", False), Column("Metric", False), Column("Difference"), Column("Interval"), Column("So", False),
    ]  # fmt: skip
    shown = found.differences.filter((pl.col("against") == lead) & pl.col("metric").is_in(COMPARED))
    rows = [_difference(r) for r in shown.iter_rows(named=True)]
    return Table(
        f"{lead}'s figure less the other's; paired {found.confidence:.0%} intervals",
        columns,
        rows,
        folded=True,
    )


def _difference(row: dict[str, Any]) -> list[Cell]:
    head = [row["policy"], metric_name(row["metric"])]
    if row["difference"] is None or row["lower"] is None or row["upper"] is None:
        return [*head, UNKNOWN, UNKNOWN, Badge("?", "not known", "unknown")]
    digits = 0 if row["metric"] == "cost" else 4
    value, lower, upper = -row["difference"], -row["upper"], -row["lower"]
    sign = 1 if row["metric"] in HIGHER_IS_BETTER else -1
    low, high = sorted((sign * lower, sign * upper))
    badge = Badge("=", "not told apart", "neutral")
    if low > 0 or high < 0:
        badge = Badge("✓", "better", "good") if low > 0 else Badge("✕", "worse", "bad")
    return [*head, f"{value:+,.{digits}f}", f"{lower:+,.{digits}f} to {upper:+,.{digits}f}", badge]
