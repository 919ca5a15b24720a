"""Report: the drift report of a chunk and its health in one row, which readers outside Dagster are given."""

import dagster as dg
import polars as pl

from selfheal_assets.core import monitoring
from selfheal_assets.core.monitoring import Finding
from selfheal_assets.core.spec import CreditPolicy
from selfheal_assets.defs.credit import credit_view
from selfheal_assets.defs.monitor import LABELLED, WARN, judged, served
from selfheal_assets.defs.resources import Chunk, Context, Stores, StoresParam, chunk_of, table_metadata
from selfheal_assets.reports.drift import DriftPage, save_drift_page
from selfheal_assets.reports.plots import bars_markdown
from selfheal_assets.stores import chunks
from selfheal_assets.stores.credit_marts import MARTS

GROUP = "report"
_UPSTREAM = [
    "proxy_metrics",
    "univariate_drift",
    "multivariate_drift",
    "estimated_performance",
    "partial_label_evidence",
    "realized_performance",
]


def build_health_assets(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Drift report and health report, one partition per chunk."""

    @dg.asset(
        group_name=GROUP,
        kinds={"duckdb", "html"},
        partitions_def=partitions,
        deps=[*_UPSTREAM, *MARTS],
        check_specs=[dg.AssetCheckSpec("drift_within_limits", asset="drift_report")],
    )
    def drift_report(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """What changed in this chunk, on one HTML page with plots, and whether the inputs drifted.

        A failure says 'look': drift is not yet harm. It starts a retraining, and the gates decide.
        """
        chunk = chunk_of(context, stores.case)
        drift = stores.load_chunk("univariate_drift", chunk.start)
        if drift.is_empty():
            reason = f"univariate_drift has no rows for {chunk.label}: materialize it first"
            finding = monitoring.unknown("drift_within_limits", reason)
        else:
            finding = monitoring.drift_finding(drift, stores.case.policy.alarms)
        stores.save_finding(chunk.start, finding)
        page = save_drift_page(
            _page(stores, chunk, drift), stores.settings.reports / f"drift_{chunk.key}.html"
        )
        metadata: dict = {"report": dg.MetadataValue.path(str(page))}
        if not drift.is_empty() and drift["value"].null_count() < drift.height:
            limit = stores.case.policy.alarms.jensen_shannon
            metadata["distances"] = dg.MetadataValue.md(bars_markdown(drift, "feature", "value", limit))
            metadata["drift"] = table_metadata(drift)
        return judged(stores, chunk, finding, WARN, metadata)

    @dg.asset(group_name=GROUP, kinds={"duckdb"}, partitions_def=partitions, deps=[drift_report])
    def health_report(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """The chunk in one row: champion, volume, evidence at each stage, what failed. Published for readers."""
        chunk = chunk_of(context, stores.case)
        findings = stores.load_findings(chunk.start)
        row = _health_row(stores, chunk, findings)
        stores.save_chunk("health_report", chunk.start, row)
        whole = stores.warehouse.query("select * from health_report order by chunk")
        stores.warehouse.publish("health_report", whole)
        newest = chunk.start == whole["chunk"].max()  # an older chunk, built again, is no news
        if newest and stores.warehouse.has(LABELLED):
            stores.warehouse.publish("prediction_stats", chunks.prediction_stats(stores.warehouse))
        facts = {k: ("" if v is None else v) for k, v in row.row(0, named=True).items()}
        return dg.MaterializeResult(metadata=facts | {"recent": table_metadata(whole.tail(8))})

    return [drift_report, health_report]


def _page(stores: Stores, chunk: Chunk, drift: pl.DataFrame) -> DriftPage:
    profile, rows = served(stores, chunk)
    return DriftPage(
        title=stores.case.title,
        chunk_label=chunk.label,
        champion=profile.version if profile else None,
        findings=monitoring.finding_frame(stores.load_findings(chunk.start)),
        univariate=drift,
        multivariate=stores.load_chunk("multivariate_drift", chunk.start),
        estimates=stores.load_chunk("estimated_performance", chunk.start),
        cohort_evidence=stores.load_chunk("partial_label_evidence", chunk.start),
        realized=_whole(stores.load_chunk("realized_performance", chunk.start)),
        reference_features=profile.reference if profile else pl.DataFrame(),
        analysis_features=rows,
        outcome=stores.case.label.outcome,
        period=stores.case.monitoring.chunk,
        least_drift=stores.case.policy.alarms.jensen_shannon,
        credit=credit_view(stores, chunk, CreditPolicy()),
    )


def _whole(realized: pl.DataFrame) -> pl.DataFrame:
    """Figures of all cases, without those of the segments; rows of a table from before it had segments are whole."""
    return (
        realized.filter(pl.col("segment").fill_null("all") == "all")
        if "segment" in realized.columns
        else realized
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
    estimates = stores.load_chunk("estimated_performance", chunk.start)
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
