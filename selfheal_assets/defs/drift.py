"""Drift: the chunk's rows counted once, their distances from the champion's reference, and whether they alarm.

Nothing here knows an outcome: an alarm says 'look', and no silence certifies health.
"""

import dagster as dg
import polars as pl

from selfheal_assets.core import attribution, drift_state, monitoring
from selfheal_assets.core.chunk_statistics import ALL
from selfheal_assets.core.drift import DRIFT_SCHEMA, drift_figures
from selfheal_assets.core.drift_alarms import ALARM_SCHEMA, alarm_finding, alarm_rows
from selfheal_assets.core.drift_limits import METHOD, with_limits
from selfheal_assets.core.drift_state import DriftState
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.watched_counts import watched_cells, watched_history
from selfheal_assets.defs.champion import ChampionProfile
from selfheal_assets.defs.check_catalogue import check_spec
from selfheal_assets.defs.monitor import GROUP, WARN, cannot_judge, judged, save, served
from selfheal_assets.defs.resources import Chunk, Context, Stores, StoresParam, chunk_of, table_metadata
from selfheal_assets.nannyml_bridge import MULTIVARIATE_METHOD
from selfheal_assets.stores.champion_counts import count_chunk, counted, counted_until, forget_chunk

CHECK = "drift_within_limits"
FIGURES = {k: t for k, t in DRIFT_SCHEMA.items() if k != "chunk"} | {
    "threshold": pl.Float64,
    "alert": pl.Boolean,
}


def build_drift_assets(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The assets about inputs and scores, one partition per chunk."""

    @dg.asset(
        group_name=GROUP,
        kinds={"duckdb"},
        partitions_def=partitions,
        deps=["prediction_log", "reference_data"],
    )
    def chunk_statistics(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """The chunk's rows, counted in the cells of the champion's reference, for all features and segments.

        Figures of drift and estimates are made of these counts, which add up: no row is read twice.
        """
        chunk = chunk_of(context, stores.case)
        profile, rows = served(stores, chunk)
        if profile is None:
            forget_chunk(stores.warehouse, chunk.key)
            return dg.MaterializeResult(metadata={"rows": 0})
        counted = count_chunk(
            stores.warehouse, profile.cells, profile.version, chunk.start, chunk.end, chunk.key
        )
        return dg.MaterializeResult(
            metadata={
                "rows": rows.height,
                "columns": len(profile.cells.columns),
                "segments": len(profile.cells.segment_labels),
                "kept_mb": round(
                    (counted.features.estimated_size() + counted.scores.estimated_size()) / 1e6, 3
                ),
                "profile": profile.cells.fingerprint,
            }
        )

    @dg.asset(
        group_name=GROUP, kinds={"duckdb", "nannyml"}, partitions_def=partitions, deps=[chunk_statistics]
    )
    def univariate_drift(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """How far each feature, the score and the prediction moved from the champion's reference, by segment.

        NannyML's definitions, and PSI; missing, unseen and out-of-range values beside them. ``threshold`` is
        NannyML's limit on the Jensen–Shannon distance; what alarms is drift_alarms.
        """
        chunk = chunk_of(context, stores.case)
        profile, rows = served(stores, chunk)
        frame = _figures(stores, chunk, profile, rows)
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
        numbers = dict.fromkeys(["value", "lower_threshold", "upper_threshold"], pl.Float64)
        kinds = {"method": pl.String} | numbers | {"alert": pl.Boolean, "reason": pl.String}
        return dg.MaterializeResult(metadata=save(stores, "multivariate_drift", chunk, shaped(frame, kinds)))

    @dg.asset(
        group_name=GROUP,
        kinds={"duckdb"},
        partitions_def=partitions,
        deps=[chunk_statistics],
        check_specs=[check_spec(CHECK, "drift_alarms")],
    )
    def drift_alarms(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """Whether inputs or scores changed since the champion's reference, with a bounded chance of false alarms.

        Two tiers share the policy's budget for a year: a test failed twice in three chunks warns, accumulated
        evidence asks for action. An alarm names the features, since when, which way and how much, and the suspected
        causes.
        """
        chunk = chunk_of(context, stores.case)
        profile, rows = served(stores, chunk)
        why = cannot_judge(stores, profile, rows)
        if profile is None or why:
            alarms, causes = _unjudged(stores, rows, why), pl.DataFrame(schema=attribution.ATTRIBUTION_SCHEMA)
            finding = monitoring.unknown(CHECK, why)
        else:
            state = _state(stores, chunk, profile)
            alarms = alarm_rows(state, stores.case.drift_alarms)
            causes, finding = _causes(stores, profile, state, alarms), alarm_finding(alarms, CHECK)
        metadata = save(stores, "drift_alarms", chunk, alarms.drop("chunk"))
        stores.save_chunk("suspected_causes", chunk.start, causes)
        metadata["suspected_causes"] = table_metadata(causes)
        return judged(stores, chunk, finding, WARN, metadata)

    return [chunk_statistics, univariate_drift, multivariate_drift, drift_alarms]


def shaped(frame: pl.DataFrame, kinds: dict) -> pl.DataFrame:
    """The columns of ``kinds``, null where the frame lacks them: one shape whether or not a table was computed."""
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in kinds.items()
    )


def _figures(
    stores: Stores, chunk: Chunk, profile: ChampionProfile | None, rows: pl.DataFrame
) -> pl.DataFrame:
    why = cannot_judge(stores, profile, rows)
    if profile is None or why:
        names = [f.name for f in stores.case.features]
        blank = {"feature": names, "kind": "feature", "segment": ALL, "method": METHOD, "reason": why}
        return shaped(pl.DataFrame(blank), FIGURES)
    if stores.case.policy.engine == "nannyml":
        found = profile.drift.univariate_drift(rows)
        return shaped(
            found.with_columns(
                kind=pl.lit("feature"),
                segment=pl.lit(ALL),
                rows=pl.lit(rows.height),
                reference_rows=pl.lit(profile.reference.height),
            ),
            FIGURES,
        )
    statistics = counted(stores.warehouse, profile.cells, chunk.key)
    return shaped(with_limits(drift_figures(profile.cells, statistics), profile.limits), FIGURES)


def _unjudged(stores: Stores, rows: pl.DataFrame, why: str) -> pl.DataFrame:
    """Alarm rows of a chunk that cannot be judged: each feature and tier with the reason."""
    watched = [*(f.name for f in stores.case.features), "probability", "prediction"]
    blank = {"status": Status.insufficient.value, "rows": rows.height, "rows_before": 0, "reason": why}
    told = [{"feature": name, "tier": tier} | blank for name in watched for tier in ("warn", "act")]
    return pl.DataFrame(told, schema=ALARM_SCHEMA)


def _state(stores: Stores, chunk: Chunk, profile: ChampionProfile) -> DriftState:
    """What is known of the features after the champion's chunks up to this one.

    Raises:
        NotCounted: this one is not among them.
    """
    statistics = counted_until(stores.warehouse, profile.cells, chunk.key)
    history = watched_history(profile.cells, statistics)
    return drift_state.folded(profile.watched, history, stores.case.drift_alarms)


def _causes(
    stores: Stores, profile: ChampionProfile, state: DriftState, alarms: pl.DataFrame
) -> pl.DataFrame:
    """Which drifted features explain how much of the change of the mean score and of the estimated ROC AUC."""
    features = {c.name for c in profile.cells.columns if c.kind == "feature"}
    moved = alarms.filter(
        pl.col("status") == Status.failed.value,
        pl.col("first_chunk").is_not_null(),
        pl.col("feature").is_in(list(features)),
    )
    since = dict(moved.sort("tier", descending=True).select("feature", "first_chunk").iter_rows())
    if not since:
        return pl.DataFrame(schema=attribution.ATTRIBUTION_SCHEMA)
    places = {f.cells.feature: f.cells for f in state.features}
    cells = watched_cells(profile.cells, profile.reference, list(since))
    cells = cells.select(places[name].named(cells[name]).alias(name) for name in since)
    score = profile.reference["probability"].to_numpy()
    metrics = {"mean_score": attribution.mean_score(score)}
    if profile.cells.calibration is not None:
        metrics["estimated_roc_auc"] = attribution.expected_auc(score, profile.cells.calibration(score))
    counts = drift_state.counts_since(state, since)
    return attribution.attribute_change(cells, counts, metrics, stores.case.policy.attribution)
