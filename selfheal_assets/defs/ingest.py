"""Ingest: what the service logged and which labels arrived, brought into the warehouse once."""

import time
from pathlib import Path

import dagster as dg
import polars as pl

from selfheal_assets.core import schemas
from selfheal_assets.core.failing_rows import failing_rows
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.periods import midnight
from selfheal_assets.defs.check_catalogue import check_spec
from selfheal_assets.defs.resources import (
    Chunk,
    Context,
    Stores,
    StoresParam,
    chunk_of,
    leads_on,
    table_metadata,
    told_of,
    with_step,
)
from selfheal_assets.stores import dead_letters, label_ledger, label_status, log_ingestion

GROUP = "ingest"


def build_ingest_assets(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The assets that bring the log and the labels in, one partition per chunk."""

    @dg.asset(
        name="prediction_log",
        group_name=GROUP,
        kinds={"duckdb"},
        partitions_def=partitions,
        check_specs=[
            check_spec("schema_is_valid", "prediction_log", blocking=True),
            check_spec("event_times_are_plausible", "prediction_log"),
        ],
    )
    def ingest_predictions(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """Every answer of the prediction service, ingested from its log exactly once."""
        chunk, case = chunk_of(context, stores.case), stores.case
        done = log_ingestion.ingest(stores.warehouse, case, stores.settings.prediction_log)
        features = ", ".join(f'"{name}"' for name in case.feature_names)
        rows = stores.warehouse.query(
            f"""select prediction_id, entity_id, event_time, {features} from prediction_log
                where role = 'champion' and event_time >= ? and event_time < ?
                order by event_time, prediction_id""",
            [chunk.start, chunk.end],
        )
        metadata = {
            "rows_in_chunk": rows.height,
            "dagster/row_count": rows.height,
            "entities_answered_again": rows.height - rows["entity_id"].n_unique(),
            "rows_added": done.rows_added,
            "segments_read": done.segments,
            "torn_bytes_skipped": done.torn_bytes,
            "dead_letters_removed": _pruned(stores, stores.settings.prediction_log),
        }
        checks = [
            _schema_check(stores, rows, chunk),
            _clock_check(stores, chunk),
        ]
        return dg.MaterializeResult(metadata=metadata, check_results=checks)

    @dg.asset(
        name="labels",
        group_name=GROUP,
        kinds={"duckdb"},
        partitions_def=partitions,
        check_specs=[
            check_spec("label_times_are_plausible", "labels"),
            check_spec("label_ids_agree", "labels"),
        ],
    )
    def ingest_labels(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """The label ledger: what became true when, and when we learned it; a correction is a new row."""
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
                "dagster/row_count": int(counted["labels"]),
                "positives_in_chunk": int(counted["positives"]),
                "files": done.files,
                "rows_added": done.rows_added,
                "rows_rejected": done.rows_rejected,
                "files_rejected": done.files_rejected,
                "dead_letters_removed": _pruned(stores, stores.settings.label_landing),
            },
            check_results=[_label_clock_check(stores, chunk), _label_ids_check(stores, chunk)],
        )

    return [ingest_predictions, ingest_labels]


def _pruned(stores: Stores, folder: Path) -> int:
    """Dead letters that were kept as long as the installation wants, removed; returns how many files."""
    return dead_letters.prune(folder / "rejected", stores.settings.dead_letter_days, time.time())


def _schema_check(stores: Stores, rows: pl.DataFrame, chunk: Chunk) -> dg.AssetCheckResult:
    name, features = "schema_is_valid", stores.case.features
    try:
        schemas.validate_cases(rows, features, f"prediction_log of {chunk.label}")
    except schemas.InvalidRows as error:
        sample = failing_rows(rows, error, features)
        metadata = told_of(chunk, Status.failed) | leads_on(name, Status.failed, chunk, stores.settings)
        metadata |= {
            "failing_rows": dg.MetadataValue.int(len({p.row for p in error.problems})),
            "sample": table_metadata(sample),
        }
        return dg.AssetCheckResult(
            check_name=name,
            passed=False,
            description=with_step(name, str(error), Status.failed),
            metadata=metadata,
        )
    return dg.AssetCheckResult(
        check_name=name,
        passed=True,
        description=f"{rows.height} rows are valid",
        metadata=told_of(chunk, Status.passed) | leads_on(name, Status.passed, chunk, stores.settings),
    )


def _clock_check(stores: Stores, chunk: Chunk) -> dg.AssetCheckResult:
    """Champions' rows with an event time before go-live, or later than now: a clock or a time zone is wrong."""
    live, now = midnight(stores.case.go_live), max(stores.settings.now(), chunk.end)
    wrong = stores.warehouse.query(
        """select prediction_id, event_time, predicted_at,
               case when event_time < ? then 'before go_live' else 'in the future' end as event_time_is
           from prediction_log where role = 'champion' and (event_time < ? or event_time >= ?)
           order by predicted_at desc, prediction_id""",
        [live, live, now],
    )
    said = f"before go_live {live:%Y-%m-%d} or after {now:%Y-%m-%d %H:%M}"
    return _plausible(
        stores,
        chunk,
        "event_times_are_plausible",
        wrong,
        f"{wrong.height} logged rows happened {said}, so no chunk judges them",
        f"no logged row happened {said}",
    )


def _label_clock_check(stores: Stores, chunk: Chunk) -> dg.AssetCheckResult:
    """Labels known at the chunk's end that were recorded before their case happened, and those of the future.

    The former count, with age 0; the latter wait.
    """
    now = max(stores.settings.wall_clock(), chunk.end)
    wrong = stores.warehouse.query(
        """select p.prediction_id, p.event_time, l.recorded_at, l.source, 'before its case' as recorded_at_is
           from labels_as_of(cast(? as timestamp)) l join prediction_log p using (entity_id)
           where p.role = 'champion' and l.recorded_at < p.event_time
           union all by name
           select prediction_id, recorded_at, source, 'in the future' as recorded_at_is
           from labels where recorded_at >= ?
           order by recorded_at desc, prediction_id""",
        [chunk.end, now],
    )
    ahead = wrong.filter(recorded_at_is="in the future").height
    early = wrong.height - ahead
    said = {
        f"{early} labels were recorded before their case happened; they count as known at once (age 0)": early,
        f"{ahead} labels were recorded after now, {now:%Y-%m-%d %H:%M}; they count from then on": ahead,
    }
    return _plausible(
        stores,
        chunk,
        "label_times_are_plausible",
        wrong,
        "; ".join(text for text, rows in said.items() if rows),
        "no label was recorded before its case happened, or in the future",
    )


def _label_ids_check(stores: Stores, chunk: Chunk) -> dg.AssetCheckResult:
    """Labels known at the chunk's end whose answer was not one of their case."""
    wrong = stores.warehouse.query(
        """select l.prediction_id, l.entity_id, p.entity_id as logged_entity_id, l.recorded_at, l.source
           from labels l join prediction_log p using (prediction_id)
           where p.role = 'champion' and l.entity_id <> p.entity_id and l.recorded_at < ?
           order by l.recorded_at desc, l.prediction_id""",
        [chunk.end],
    )
    return _plausible(
        stores,
        chunk,
        "label_ids_agree",
        wrong,
        f"{wrong.height} labels name a case and an answer of another case; they count for their entity_id",
        "no label names a case and an answer of another case",
    )


def _plausible(
    stores: Stores, chunk: Chunk, check: str, wrong: pl.DataFrame, bad: str, good: str
) -> dg.AssetCheckResult:
    """A check that warns, with a sample of what it found.

    It warns of a single row; only where there are more than ``soundness.max_implausible_share`` of them is the
    evidence not to be trusted, which is the ``status`` that the sensor reads.
    """
    passed = wrong.is_empty()
    logged = stores.warehouse.query("select count(*) as n from prediction_log where role = 'champion'")["n"][
        0
    ]
    doubtful = wrong.height > stores.case.policy.soundness.max_implausible_share * logged
    return dg.AssetCheckResult(
        check_name=check,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=good if passed else with_step(check, bad, Status.failed),
        metadata=told_of(chunk, Status.failed if doubtful else Status.passed)
        | leads_on(check, Status.passed if passed else Status.failed, chunk, stores.settings)
        | {"rows": wrong.height}
        | ({} if passed else {"sample": table_metadata(wrong, schemas.SHOWN)}),
    )
