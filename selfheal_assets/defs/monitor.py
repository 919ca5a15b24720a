"""Monitor: what the monitoring assets share, and the figures of a chunk that need nothing but its predictions.

Each asset writes its chunk's rows to the table of its name. Checks state the healthy truth; unknown is not
healthy.
"""

import dagster as dg
import polars as pl

from selfheal_assets.core import monitoring
from selfheal_assets.core.intact import INTACT, intact_finding
from selfheal_assets.core.monitoring import Finding
from selfheal_assets.core.periods import shift_chunks
from selfheal_assets.defs.champion import ChampionProfile
from selfheal_assets.defs.resources import (
    Chunk,
    Context,
    Stores,
    StoresParam,
    check_result,
    chunk_of,
    table_metadata,
)
from selfheal_assets.stores import chunks
from selfheal_assets.stores.training_evidence import features_between

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
    reference = profile.reference.height if profile else None
    positives = profile.positives if profile and by_labels else None
    return monitoring.chunk_shortage(stores.case.policy.alarms, rows.height, reference, positives)


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
    """The figures that need neither label nor reference, one partition per chunk."""

    @dg.asset(
        group_name=GROUP,
        kinds={"duckdb", "polars"},
        partitions_def=partitions,
        deps=["prediction_log"],
        check_specs=[dg.AssetCheckSpec(INTACT, asset="proxy_metrics")],
    )
    def proxy_metrics(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """Volume, mean score, positive rate, score entropy, missing share: no label and no reference needed.

        A failed inputs_are_intact names a feature that broke: stuck, missing, recoded, in another unit. That calls
        for mended data (FIX_DATA), never for a retraining.
        """
        chunk = chunk_of(context, stores.case)
        _, rows = served(stores, chunk)
        frame = monitoring.proxy_metrics(rows, stores.case.features)
        check = check_result(_intact(stores, chunk, rows), chunk, WARN)
        return dg.MaterializeResult(
            metadata=save(stores, "proxy_metrics", chunk, frame), check_results=[check]
        )

    return [proxy_metrics]


def _intact(stores: Stores, chunk: Chunk, rows: pl.DataFrame) -> Finding:
    """Whether the chunk's features broke, against all cases of the ``lookback`` chunks before it."""
    case, policy = stores.case, stores.case.policy.soundness
    first = shift_chunks(chunk.start, case.monitoring.chunk, -case.monitoring.lookback)
    before = features_between(stores.warehouse, case, first, chunk.start)
    return intact_finding(before, rows, case.features, policy)
