"""Report: the drift report of a chunk and its health in one row, which readers outside Dagster are given."""

import dagster as dg
import polars as pl

from selfheal_assets.core import monitoring
from selfheal_assets.core.chunk_statistics import ALL
from selfheal_assets.core.drift import psi_readings
from selfheal_assets.core.drift_limits import METHOD
from selfheal_assets.core.evidence import evidence_table
from selfheal_assets.core.monitoring import Finding, Status
from selfheal_assets.defs.champion import ChampionProfile
from selfheal_assets.defs.credit import credit_view
from selfheal_assets.defs.monitor import LABELLED, served
from selfheal_assets.defs.resources import (
    Chunk,
    Context,
    Stores,
    StoresParam,
    chunk_of,
    report_path,
    table_metadata,
)
from selfheal_assets.reports.drift import DriftPage, save_drift_page
from selfheal_assets.reports.plots import bars_markdown, timeline_markdown
from selfheal_assets.stores import chunks
from selfheal_assets.stores.credit_marts import MARTS

GROUP = "report"
_UPSTREAM = [
    "proxy_metrics",
    "univariate_drift",
    "multivariate_drift",
    "drift_alarms",
    "estimated_performance",
    "partial_label_evidence",
    "realized_performance",
]


def build_health_assets(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Drift report and health report, one partition per chunk."""

    @dg.asset(
        group_name=GROUP, kinds={"duckdb", "html"}, partitions_def=partitions, deps=[*_UPSTREAM, *MARTS]
    )
    def drift_report(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """What changed in this chunk and what is known of it, on one HTML page with plots."""
        chunk = chunk_of(context, stores.case)
        drift = _shown_drift(stores, chunk)
        path = report_path(stores.settings, chunk)
        metadata: dict = {
            "report": dg.MetadataValue.path(str(save_drift_page(_page(stores, chunk, drift), path)))
        }
        measured = drift.filter(pl.col("value").is_not_null()) if not drift.is_empty() else drift
        if not measured.is_empty():
            metadata["distances"] = dg.MetadataValue.md(bars_markdown(measured, "feature", "value", "alert"))
            metadata["drift"] = table_metadata(drift)
        return dg.MaterializeResult(metadata=metadata)

    @dg.asset(group_name=GROUP, kinds={"duckdb"}, partitions_def=partitions, deps=[drift_report])
    def health_report(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """The chunk in one row: champion, volume, evidence at each stage, what failed. Published for readers.

        The table ``evidence`` has the stages side by side, in all metrics with their intervals, by segment.
        """
        chunk = chunk_of(context, stores.case)
        findings = stores.load_findings(chunk.start)
        row = _health_row(stores, chunk, findings)
        stores.save_chunk("health_report", chunk.start, row)
        evidence = _evidence(stores, chunk)
        stores.save_chunk("evidence", chunk.start, evidence)
        whole = stores.warehouse.query("select * from health_report order by chunk")
        stores.warehouse.publish("health_report", whole)
        newest = chunk.start == whole["chunk"].max()  # an older chunk, built again, is no news
        if newest and stores.warehouse.has(LABELLED):
            stores.warehouse.publish("prediction_stats", chunks.prediction_stats(stores.warehouse))
        if newest:
            stores.warehouse.publish(
                "evidence", evidence.select(pl.lit(chunk.start).alias("chunk"), pl.all())
            )
        facts = {k: ("" if v is None else v) for k, v in row.row(0, named=True).items()}
        return dg.MaterializeResult(
            metadata=facts
            | {"dagster/row_count": 1, "performance": _timeline(whole), "report": _report(stores, chunk)}
            | {"recent": table_metadata(whole.tail(8)), "evidence": table_metadata(_whole(evidence))}
        )

    return [drift_report, health_report]


def _report(stores: Stores, chunk: Chunk) -> dg.MetadataValue:
    return dg.MetadataValue.path(str(report_path(stores.settings, chunk)))


def _timeline(health: pl.DataFrame) -> dg.MetadataValue:
    """ROC AUC of the newest 40 chunks as a picture, or the words that there is none yet."""
    shown = health.sort("chunk").tail(40)
    if shown["estimated_auc"].is_null().all() and shown["realized_auc"].is_null().all():
        return dg.MetadataValue.text("no chunk has an estimated or realized ROC AUC yet")
    return dg.MetadataValue.md(timeline_markdown(shown))


def _page(stores: Stores, chunk: Chunk, drift: pl.DataFrame) -> DriftPage:
    profile, rows = served(stores, chunk)
    return DriftPage(
        title=stores.case.title,
        chunk_label=chunk.label,
        champion=profile.version if profile else None,
        findings=monitoring.finding_frame(stores.load_findings(chunk.start)),
        univariate=drift,
        multivariate=stores.load_chunk("multivariate_drift", chunk.start),
        estimates=_shown_estimates(stores, chunk, profile),
        cohort_evidence=stores.load_chunk("partial_label_evidence", chunk.start),
        realized=_whole(stores.load_chunk("realized_performance", chunk.start)),
        reference_features=profile.reference if profile else pl.DataFrame(),
        analysis_features=rows,
        outcome=stores.case.label.outcome,
        period=stores.case.monitoring.chunk,
        alarms=stores.load_chunk("drift_alarms", chunk.start),
        psi=_psi(stores, chunk),
        causes=stores.load_chunk("suspected_causes", chunk.start),
        credit=credit_view(stores, chunk, stores.case.policy.credit),
    )


def _evidence(stores: Stores, chunk: Chunk) -> pl.DataFrame:
    tables = ("estimated_performance", "partial_label_evidence", "harm_alarms", "realized_performance")
    return evidence_table(*(stores.load_chunk(table, chunk.start) for table in tables))


def _whole(figures: pl.DataFrame) -> pl.DataFrame:
    """Figures of all cases, without those of the segments."""
    return figures.filter(pl.col("segment") == ALL) if "segment" in figures.columns else figures


def _shown_drift(stores: Stores, chunk: Chunk) -> pl.DataFrame:
    """Jensen–Shannon distance of each feature over all rows, with whether the alarms say that it changed."""
    drift = _whole(stores.load_chunk("univariate_drift", chunk.start))
    if drift.is_empty():
        return drift
    alarms = stores.load_chunk("drift_alarms", chunk.start)
    failed = alarms.filter(pl.col("status") == Status.failed.value)["feature"] if alarms.height else []
    shown = drift.filter((pl.col("method") == METHOD) & (pl.col("kind") == "feature"))
    return shown.with_columns(alert=pl.col("feature").is_in(list(failed)))


def _psi(stores: Stores, chunk: Chunk) -> pl.DataFrame:
    """PSI of every feature and of the score over all rows, beside what chance alone would give."""
    drift = _whole(stores.load_chunk("univariate_drift", chunk.start))
    return psi_readings(drift, stores.case.policy.drift_figures) if drift.height else drift


def _shown_estimates(stores: Stores, chunk: Chunk, profile: ChampionProfile | None) -> pl.DataFrame:
    """Estimates over all rows; the ROC AUC is held against the policy's limit."""
    estimates = _whole(stores.load_chunk("estimated_performance", chunk.start))
    if estimates.is_empty():
        return estimates
    held = (
        profile.reference_auc - stores.case.policy.alarms.max_auc_drop
        if profile and profile.reference_auc
        else None
    )
    is_auc = pl.col("metric") == "roc_auc"
    limit = pl.when(is_auc).then(pl.lit(held, pl.Float64))
    return estimates.with_columns(
        threshold_lower=limit,
        threshold_upper=pl.lit(None, pl.Float64),
        alert=(pl.col("value") < limit).fill_null(False),
    )


def _value(frame: pl.DataFrame, column: str = "value", **where: str) -> float | None:
    """One figure of a tidy table, ``None`` where it is not there."""
    if frame.is_empty():
        return None
    found = frame.filter(*(pl.col(k) == v for k, v in where.items()))
    return found[column][0] if found.height else None


def _health_row(stores: Stores, chunk: Chunk, findings: list[Finding]) -> pl.DataFrame:
    status, reason = (
        monitoring.health(findings) if findings else (monitoring.Status.insufficient, "no checks ran")
    )
    profile, rows = served(stores, chunk)
    estimates = _whole(stores.load_chunk("estimated_performance", chunk.start))
    realized = _whole(stores.load_chunk("realized_performance", chunk.start))
    cohorts = stores.load_chunk("partial_label_evidence", chunk.start)
    known = stores.warehouse.query(
        "select count(*) as n from labels_as_of(cast(? as timestamp)) semi join prediction_log using (entity_id)",
        [chunk.end],
    )
    evidence = cohorts.drop_nulls("expected") if not cohorts.is_empty() else pl.DataFrame()
    totals = evidence.select(pl.col("expected", "observed").sum()).row(0) if evidence.height else (None, None)
    return pl.DataFrame(
        {
            "label": [chunk.label],
            "status": [status.value],
            "reason": [reason],
            "champion": pl.Series([profile.version if profile else None], dtype=pl.Int64),
            "rows": pl.Series([rows.height], dtype=pl.Int64),
            "labels_known": pl.Series([known["n"][0]], dtype=pl.Int64),
            "estimated_auc": pl.Series([_value(estimates, metric="roc_auc")], dtype=pl.Float64),
            "estimated_lower": pl.Series([_value(estimates, "lower", metric="roc_auc")], dtype=pl.Float64),
            "estimated_upper": pl.Series([_value(estimates, "upper", metric="roc_auc")], dtype=pl.Float64),
            "realized_auc": pl.Series(
                [_value(realized, metric="roc_auc", scored_by="served")], dtype=pl.Float64
            ),
            "expected_so_far": pl.Series([totals[0]], dtype=pl.Float64),
            "observed_so_far": pl.Series([totals[1]], dtype=pl.Float64),
            "failed_checks": [
                ", ".join(sorted(f.check for f in findings if f.status is monitoring.Status.failed))
            ],
        }
    )
