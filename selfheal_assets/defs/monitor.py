"""Monitor: what the chunk's predictions look like, how well they probably do, how well they did.

Each asset writes its chunk's rows to the table of its name. Checks state the healthy truth; unknown is not
healthy.
"""

import dagster as dg
import numpy as np
import polars as pl

from selfheal_assets.core import maturity, monitoring, realized
from selfheal_assets.core.monitoring import Finding
from selfheal_assets.core.periods import shift_chunks
from selfheal_assets.core.spec import AlarmPolicy
from selfheal_assets.defs.resources import (
    ChampionProfile,
    Chunk,
    Context,
    Stores,
    StoresParam,
    check_result,
    chunk_of,
    table_metadata,
)
from selfheal_assets.nannyml_bridge import ESTIMATED_METRICS, MULTIVARIATE_METHOD, UNIVARIATE_METHOD
from selfheal_assets.stores import cases, chunks

GROUP = "monitor"
LABELLED = "fct_labelled_predictions"
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def served(stores: Stores, chunk: Chunk) -> tuple[ChampionProfile | None, pl.DataFrame]:
    """The version that answered the chunk, with its profile, and its rows; ``None`` where nothing was."""
    version = chunks.serving_version(stores.warehouse, chunk.start, chunk.end)
    if version is None:
        return None, pl.DataFrame()
    rows = chunks.champion_predictions(stores.warehouse, chunk.start, chunk.end, version)
    return stores.profile(version), rows


def cannot_judge(
    stores: Stores, profile: ChampionProfile | None, rows: pl.DataFrame, by_labels: bool = False
) -> str:
    """Why the chunk, or the reference it is held against, says nothing; empty where both are large enough."""
    policy = stores.case.policy.alarms
    if profile is None or rows.height < policy.min_rows:
        return f"{rows.height} predictions in this chunk; alarms.min_rows asks for {policy.min_rows}"
    positives = profile.positives if by_labels else None
    return monitoring.reference_shortage(policy, profile.reference.height, positives)


def save(stores: Stores, table: str, chunk: Chunk, frame: pl.DataFrame) -> dict[str, dg.MetadataValue]:
    """Replace the chunk's rows of ``table``; returns the asset's metadata."""
    stores.save_chunk(table, chunk.start, frame)
    return {"rows": dg.MetadataValue.int(frame.height), "figures": table_metadata(frame)}


def judged(
    stores: Stores, chunk: Chunk, finding: Finding, severity: dg.AssetCheckSeverity, metadata: dict
) -> dg.MaterializeResult:
    """Keep the finding and report it as the asset's check."""
    stores.save_finding(chunk.start, finding)
    return dg.MaterializeResult(metadata=metadata, check_results=[check_result(finding, chunk, severity)])


def build_monitor_assets(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The monitoring assets, one partition per chunk."""

    @dg.asset(
        group_name=GROUP, kinds={"duckdb", "polars"}, partitions_def=partitions, deps=["prediction_log"]
    )
    def proxy_metrics(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """Volume, mean score, positive rate, score entropy, missing share: no label and no reference needed."""
        chunk = chunk_of(context, stores.case)
        _, rows = served(stores, chunk)
        frame = monitoring.proxy_metrics(rows, stores.case.features)
        return dg.MaterializeResult(metadata=save(stores, "proxy_metrics", chunk, frame))

    @dg.asset(
        group_name=GROUP,
        kinds={"duckdb", "nannyml"},
        partitions_def=partitions,
        deps=["prediction_log", "reference_data"],
    )
    def univariate_drift(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """Jensen–Shannon distance of each feature between the champion's reference and this chunk (NannyML)."""
        chunk = chunk_of(context, stores.case)
        profile, rows = served(stores, chunk)
        why = cannot_judge(stores, profile, rows)
        if profile is None or why:
            names = [f.name for f in stores.case.features]
            blank = [None] * len(names)
            methods = [UNIVARIATE_METHOD] * len(names)
            frame = pl.DataFrame(
                {"feature": names, "method": methods, "value": blank, "reason": [why] * len(names)}
            )
        else:
            frame = profile.drift.univariate_drift(rows)
        frame = _shaped(frame, ["feature", "method"], ["value", "threshold"])
        return dg.MaterializeResult(metadata=save(stores, "univariate_drift", chunk, frame))

    @dg.asset(
        group_name=GROUP,
        kinds={"duckdb", "nannyml"},
        partitions_def=partitions,
        deps=["prediction_log", "reference_data"],
    )
    def multivariate_drift(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """PCA reconstruction error of the chunk: have the relations between the features changed (NannyML)?"""
        chunk = chunk_of(context, stores.case)
        profile, rows = served(stores, chunk)
        why = cannot_judge(stores, profile, rows)
        if profile is None or why:
            frame = pl.DataFrame({"method": [MULTIVARIATE_METHOD], "reason": [why]})
        else:
            frame = profile.drift.multivariate_drift(rows)
        frame = _shaped(frame, ["method"], ["value", "lower_threshold", "upper_threshold"])
        return dg.MaterializeResult(metadata=save(stores, "multivariate_drift", chunk, frame))

    @dg.asset(
        group_name=GROUP,
        kinds={"duckdb", "nannyml"},
        partitions_def=partitions,
        deps=["prediction_log", "reference_data"],
        check_specs=[dg.AssetCheckSpec("estimated_performance_holds", asset="estimated_performance")],
    )
    def estimated_performance(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """ROC AUC and F1 without labels: CBPE by NannyML, fitted on the champion's reference.

        It cannot see that the relation between features and outcome changed: a failure says 'look', and a pass
        certifies nothing. Read it beside partial_label_evidence and realized_performance.
        """
        chunk = chunk_of(context, stores.case)
        profile, rows = served(stores, chunk)
        why = cannot_judge(stores, profile, rows, by_labels=True)
        if profile is None or profile.reference_auc is None or why:
            frame = pl.DataFrame({"metric": ESTIMATED_METRICS, "reason": [why] * len(ESTIMATED_METRICS)})
            finding = monitoring.unknown("estimated_performance_holds", why)
        else:
            frame = profile.performance.estimate(rows)
            finding = monitoring.estimate_finding(frame, profile.reference_auc, stores.case.policy.alarms)
        numbers = ["value", "lower", "upper", "threshold_lower", "threshold_upper"]
        metadata = save(stores, "estimated_performance", chunk, _shaped(frame, ["metric"], numbers))
        return judged(stores, chunk, finding, WARN, metadata)

    @dg.asset(
        group_name=GROUP,
        kinds={"duckdb", "polars"},
        partitions_def=partitions,
        deps=[LABELLED, "reference_data"],
        check_specs=[dg.AssetCheckSpec("calibration_holds", asset="partial_label_evidence")],
    )
    def partial_label_evidence(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """Expected against observed positives so far, cohort by cohort, long before the labels mature.

        The champion scores the recent cohorts; a case with probability p aged a should be positive so far with
        probability p·F(a), with F the timing curve of the matured cases. A failure means that the champion
        expects far too few or too many positives.
        """
        chunk = chunk_of(context, stores.case)
        profile, _ = served(stores, chunk)
        check = "calibration_holds"
        if profile is None:
            why = "no predictions in this chunk"
            frame = pl.DataFrame({"cohort": [None], "reason": [why]})
            finding = monitoring.unknown(check, why)
        else:
            frame = _cohort_evidence(stores, chunk, profile)
            finding = _calibration_finding(frame, stores.case.policy.alarms)
        numbers = ["rows", "mean_age_days", "share_known", "expected", "observed", "variance"]
        frame = _shaped(frame.with_columns(pl.col("cohort").cast(pl.Datetime("us"))), [], numbers)
        metadata = save(stores, "partial_label_evidence", chunk, frame)
        return judged(stores, chunk, finding, ERROR, metadata)

    @dg.asset(
        group_name=GROUP,
        kinds={"duckdb", "polars"},
        partitions_def=partitions,
        deps=[LABELLED, "reference_data"],
        check_specs=[dg.AssetCheckSpec("realized_performance_holds", asset="realized_performance")],
    )
    def realized_performance(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """Metrics on the newest matured cohort: as it was served then, and as today's champion scores it.

        The check judges today's champion. A failure means that its ranking is clearly worse than on its reference.
        """
        chunk = chunk_of(context, stores.case)
        profile, _ = served(stores, chunk)
        frame, finding = _realized(stores, chunk, profile)
        metadata = save(stores, "realized_performance", chunk, frame)
        return judged(stores, chunk, finding, ERROR, metadata)

    return [
        proxy_metrics,
        univariate_drift,
        multivariate_drift,
        estimated_performance,
        partial_label_evidence,
        realized_performance,
    ]


def _shaped(frame: pl.DataFrame, texts: list[str], numbers: list[str]) -> pl.DataFrame:
    """Add the columns a result lacks, so that a table has one shape whether or not it could be computed."""
    wanted = (
        {name: pl.String for name in texts}
        | {name: pl.Float64 for name in numbers}
        | {"alert": pl.Boolean, "reason": pl.String}
    )
    others = [pl.col(c) for c in frame.columns if c not in wanted]
    shaped = [(pl.col(n) if n in frame.columns else pl.lit(None)).cast(t).alias(n) for n, t in wanted.items()]
    return frame.select(*others, *shaped)


def _cohort_evidence(stores: Stores, chunk: Chunk, profile: ChampionProfile) -> pl.DataFrame:
    monitored = stores.case.monitoring
    since = shift_chunks(chunk.start, monitored.chunk, 1 - monitored.lookback)
    rows = chunks.labelled_predictions(stores.warehouse, since, chunk.end)
    rows = rows.with_columns(probability=pl.Series(profile.bundle.score(rows)))
    if rows.is_empty():
        return pl.DataFrame({"cohort": [None], "reason": [f"{LABELLED} holds no case: build the dbt models"]})
    curve = cases.timing_curve(stores.warehouse, stores.case, chunk.end)
    return maturity.cohort_evidence(rows, curve)


def _calibration_finding(cohorts: pl.DataFrame, policy: AlarmPolicy) -> Finding:
    if "reason" in cohorts.columns:
        return monitoring.unknown("calibration_holds", cohorts["reason"][0])
    return monitoring.calibration_finding(cohorts, policy)


def _realized(stores: Stores, chunk: Chunk, profile: ChampionProfile | None) -> tuple[pl.DataFrame, Finding]:
    """Realized metrics of the cohort that became mature in this chunk, and the champion's finding."""
    case, policy = stores.case, stores.case.policy.alarms
    chunks_to_mature = _chunks_in_horizon(case)
    start = shift_chunks(chunk.start, case.monitoring.chunk, -chunks_to_mature)
    end = shift_chunks(start, case.monitoring.chunk, 1)
    rows = chunks.labelled_predictions(stores.warehouse, start, end)
    rows = rows.filter(pl.col("is_mature") & pl.col("label").is_not_null())
    seed = case.training.seed
    as_served = realized.realized_by_segment(
        rows.with_columns(flagged=pl.col("prediction") == 1), case.segments, policy, seed=seed
    )
    parts = [as_served.with_columns(scored_by=pl.lit("served"))]
    if profile is None:
        finding = monitoring.unknown("realized_performance_holds", "no predictions in this chunk")
    else:
        p = profile.bundle.score(rows)
        scored = rows.with_columns(probability=pl.Series(p), flagged=pl.Series(p >= profile.bundle.threshold))
        today = realized.realized_by_segment(scored, case.segments, policy, seed=seed)
        parts.append(today.with_columns(scored_by=pl.lit("champion")))
        finding = _realized_finding(today, profile, policy)
    return pl.concat(parts).with_columns(cohort=pl.lit(start).cast(pl.Datetime("us"))), finding


def _realized_finding(today: pl.DataFrame, profile: ChampionProfile, policy: AlarmPolicy) -> Finding:
    short = monitoring.reference_shortage(policy, profile.reference.height, profile.positives)
    if short or profile.reference_auc is None:
        return monitoring.unknown("realized_performance_holds", short)
    return monitoring.realized_finding(today, profile.reference_auc, policy)


def _chunks_in_horizon(case) -> int:
    """Whole chunks after which every case of a chunk is mature."""
    days = case.label.horizon_months * maturity.DAYS_PER_MONTH
    length = {
        "day": 1.0,
        "week": 7.0,
        "month": maturity.DAYS_PER_MONTH,
        "quarter": 3 * maturity.DAYS_PER_MONTH,
    }
    return int(np.ceil(days / length[case.monitoring.chunk] - 1e-9))
