"""Estimate: how well the champion probably does in the chunk, before any label of it is known."""

import dagster as dg
import polars as pl

from selfheal_assets.core import monitoring
from selfheal_assets.core.calibration import IsotonicMap
from selfheal_assets.core.chunk_statistics import ALL
from selfheal_assets.core.estimation import ChunkRows, estimate_chunk
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.reference_rows import CBPE
from selfheal_assets.core.score_groups import ScoreGroups, groups_of_rows
from selfheal_assets.core.score_table import score_groups
from selfheal_assets.core.segment_estimates import SEGMENT_SCHEMA as SCHEMA
from selfheal_assets.core.segment_estimates import segment_estimates
from selfheal_assets.defs.champion import ChampionProfile
from selfheal_assets.defs.check_catalogue import check_spec
from selfheal_assets.defs.drift import shaped
from selfheal_assets.defs.monitor import GROUP, WARN, cannot_judge, judged, save, served
from selfheal_assets.defs.resources import Chunk, Context, Stores, StoresParam, chunk_of
from selfheal_assets.nannyml_bridge import ESTIMATED_METRICS
from selfheal_assets.stores.champion_counts import counted

CHECK = "estimated_performance_holds"
_UNIT = "0..1"


def build_estimate_assets(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The estimated performance, one partition per chunk."""

    @dg.asset(
        group_name=GROUP,
        kinds={"duckdb", "nannyml"},
        partitions_def=partitions,
        deps=["chunk_statistics"],
        check_specs=[check_spec(CHECK, "estimated_performance")],
    )
    def estimated_performance(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """Performance without labels, in all metrics and by segment, with its interval and own past error.

        Two estimators are fitted on the champion's reference, CBPE and one that weights the reference to look like
        the chunk; for each metric the one is shown whose error was smaller on reference cases redrawn to look like
        the chunk. Neither can see that the relation between features and outcome changed: a failure says 'look',
        and a pass certifies nothing. Read it beside partial_label_evidence and realized_performance.
        """
        chunk = chunk_of(context, stores.case)
        profile, rows = served(stores, chunk)
        why = cannot_judge(stores, profile, rows, by_labels=True)
        if profile is None or profile.reference_auc is None or why:
            frame = _unknown(rows.height, why)
            finding = monitoring.unknown(CHECK, why)
        else:
            frame = _estimates(stores, chunk, profile, rows)
            whole = frame.filter(pl.col("segment") == ALL)
            finding = monitoring.estimate_finding(whole, profile.reference_auc, stores.case.policy.alarms)
        return judged(stores, chunk, finding, WARN, save(stores, "estimated_performance", chunk, frame))

    return [estimated_performance]


def _estimates(stores: Stores, chunk: Chunk, profile: ChampionProfile, rows: pl.DataFrame) -> pl.DataFrame:
    policy = stores.case.policy
    if policy.engine == "nannyml":
        return _by_nannyml(profile, rows)
    statistics = counted(stores.warehouse, profile.cells, chunk.key)
    cells = profile.cells
    whole = estimate_chunk(
        profile.labelled,
        ChunkRows(profile.inputs(rows), rows["prediction"].to_numpy() == 1),
        policy.estimation,
        policy.costs,
        stores.case.training.seed,
        plain=cells.calibration,
        regroup=lambda m: score_groups(cells, statistics) if m == cells.calibration else _grouped(m, rows),
    )
    parts = segment_estimates(cells, statistics, policy.estimation, policy.costs, stores.case.training.seed)
    return pl.concat([shaped(whole.with_columns(segment=pl.lit(ALL)), SCHEMA), parts])


def _grouped(calibration: IsotonicMap, rows: pl.DataFrame) -> ScoreGroups:
    scored = rows.filter(pl.col("probability").is_finite())
    score = scored["probability"].to_numpy()
    return groups_of_rows(score, calibration(score), scored["prediction"].to_numpy() == 1)


def _by_nannyml(profile: ChampionProfile, rows: pl.DataFrame) -> pl.DataFrame:
    """NannyML's CBPE, with its own band of three sampling errors."""
    found = profile.performance.estimate(rows)
    known = pl.col("value").is_not_null()
    return shaped(
        found.with_columns(
            segment=pl.lit(ALL),
            rows=pl.lit(rows.height),
            unit=pl.lit(_UNIT),
            estimator=pl.lit(CBPE),
            value_cbpe=pl.col("value"),
            standard_error=(pl.col("upper") - pl.col("value")) / 3,
            status=pl.when(known)
            .then(pl.lit(Status.passed.value))
            .otherwise(pl.lit(Status.insufficient.value)),
        ),
        SCHEMA,
    )


def _unknown(rows: int, why: str) -> pl.DataFrame:
    blank = pl.DataFrame(
        {"metric": ESTIMATED_METRICS, "segment": ALL, "rows": rows, "trusted": False, "reason": why}
    )
    return shaped(blank.with_columns(status=pl.lit(Status.insufficient.value)), SCHEMA)
