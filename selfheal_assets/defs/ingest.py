"""Ingest: what the service logged and which labels arrived, brought into the warehouse once."""

import dagster as dg

from selfheal_assets.core import schemas
from selfheal_assets.defs.resources import Context, StoresParam, chunk_of
from selfheal_assets.stores import label_ledger, label_status, log_ingestion

GROUP = "ingest"


def build_ingest_assets(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The assets that bring the log and the labels in, one partition per chunk."""

    @dg.asset(
        name="prediction_log",
        group_name=GROUP,
        kinds={"duckdb"},
        partitions_def=partitions,
        check_specs=[dg.AssetCheckSpec("schema_is_valid", asset="prediction_log", blocking=True)],
    )
    def ingest_predictions(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """Every answer of the prediction service, ingested from its log exactly once.

        A failure means that a logged row breaks the use case's schema: nothing after it can be trusted.
        """
        chunk, case = chunk_of(context, stores.case), stores.case
        done = log_ingestion.ingest(stores.warehouse, case, stores.settings.prediction_log)
        features = ", ".join(f'"{name}"' for name in case.feature_names)
        rows = stores.warehouse.query(
            f"""select {features} from prediction_log
                where role = 'champion' and event_time >= ? and event_time < ?""",
            [chunk.start, chunk.end],
        )
        check = _schema_check(rows, case.features, f"prediction_log of {chunk.label}")
        metadata = {
            "rows_in_chunk": rows.height,
            "rows_added": done.rows_added,
            "segments_read": done.segments,
            "torn_bytes_skipped": done.torn_bytes,
        }
        return dg.MaterializeResult(metadata=metadata, check_results=[check])

    @dg.asset(name="labels", group_name=GROUP, kinds={"duckdb"}, partitions_def=partitions)
    def ingest_labels(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """The label ledger: what became true when, and when we learned it; a correction is a new row.

        Rows that cannot be read are in ``labels/rejected`` with their reason.
        """
        chunk = chunk_of(context, stores.case)
        done = label_ledger.ingest(stores.warehouse, stores.settings.label_landing)
        label_status.publish(stores.warehouse, done, stores.settings.wall_clock())
        counted = stores.warehouse.query(
            """select count(*) as labels, coalesce(sum(label), 0) as positives from labels
               where recorded_at >= ? and recorded_at < ?""",
            [chunk.start, chunk.end],
        ).row(0, named=True)
        return dg.MaterializeResult(
            metadata={
                "recorded_in_chunk": int(counted["labels"]),
                "positives_in_chunk": int(counted["positives"]),
                "files": done.files,
                "rows_added": done.rows_added,
                "rows_rejected": done.rows_rejected,
                "files_rejected": done.files_rejected,
            }
        )

    return [ingest_predictions, ingest_labels]


def _schema_check(rows, features, what: str) -> dg.AssetCheckResult:
    try:
        schemas.validate_cases(rows, features, what)
    except schemas.InvalidRows as error:
        return dg.AssetCheckResult(check_name="schema_is_valid", passed=False, description=str(error))
    return dg.AssetCheckResult(
        check_name="schema_is_valid", passed=True, description=f"{rows.height} rows are valid"
    )
