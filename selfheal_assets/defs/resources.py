"""What assets are given: the stores of one installation, and the time a run stands at."""

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from selfheal_assets.core import tables
from selfheal_assets.core.monitoring import Finding, Status, finding_frame
from selfheal_assets.core.periods import chunk_end, chunk_label, chunk_start, in_utc, midnight
from selfheal_assets.core.stability import reference_cells
from selfheal_assets.defs.champion import ChampionProfile, profile_of
from selfheal_assets.defs.check_catalogue import next_step
from selfheal_assets.settings import Settings
from selfheal_assets.stores import decision_ledger, promotion
from selfheal_assets.stores.cases import freeze_reference
from selfheal_assets.stores.credit_cells import freeze_cells
from selfheal_assets.stores.model_registry import ModelRegistry
from selfheal_assets.stores.tables import create_tables
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets.use_case import UseCase

AS_OF_TAG, WINDOW_TAG, CHECKS_TAG = "selfheal/as_of", "selfheal/window", "selfheal/failed_checks"
REMEDY_TAG = (
    "selfheal/remedy"  # RETRAIN, or RECALIBRATE: the ranking is intact, a recalibrated champion is preferred
)
HELD_TAG = "selfheal/held"  # on a retraining whose training set was held: nothing was trained
DECIDED_TAG = "selfheal/decided"  # on a run that died after its decision was recorded
_CRON = {"quarter": "0 0 1 */3 *", "month": "0 0 1 * *", "week": "0 0 * * 1", "day": "0 0 * * *"}


@dataclass
class Stores:
    """The stores of one installation. A plain object; Dagster hands it to assets as a resource."""

    settings: Settings
    _profiles: dict[int, ChampionProfile] = field(default_factory=dict)

    @property
    def case(self) -> UseCase:
        """The use case."""
        return self.settings.case

    @cached_property
    def warehouse(self) -> Warehouse:
        """The warehouse, with its tables, its decisions published, and what they promise carried out."""
        s = self.settings
        warehouse = Warehouse(s.warehouse_path, s.published, s.lock_timeout_s)
        create_tables(warehouse, s.case)
        decision_ledger.catch_up(warehouse)
        promotion.recover(warehouse, self.registry)
        return warehouse

    @cached_property
    def registry(self) -> ModelRegistry:
        """The model registry."""
        return ModelRegistry(self.settings)

    def profile(self, version: int) -> ChampionProfile:
        """A version's profile; fitted once per process, as neither version nor reference ever changes."""
        if version not in self._profiles:
            bundle = self.registry.load(version)
            frozen = freeze_reference(self.warehouse, self.case, bundle.reference)
            profile = profile_of(version, bundle, frozen.frame, frozen.fingerprint, self.warehouse, self.case)
            freeze_cells(
                self.warehouse,
                version,
                reference_cells(profile.reference, bundle.features, self.case.policy.credit),
            )
            self._profiles[version] = profile
        return self._profiles[version]

    def save_table(self, table: str, frame: pl.DataFrame, where: dict[str, Any]) -> None:
        """Replace the rows of a declared table that match ``where``: the one place where figures are saved.

        Raises:
            InvalidTable: the frame is not as ``core.tables`` declares; nothing is saved.
        """
        self.warehouse.replace(table, tables.validated(table, frame), where)

    def save_chunk(self, table: str, chunk: datetime, frame: pl.DataFrame, **where: str | int) -> None:
        """Replace a chunk's rows of a declared table, those that also match ``where``, if it is given.

        Raises:
            InvalidTable: the frame is not as ``core.tables`` declares; nothing is saved.
        """
        rows = tables.validated(table, frame).select(
            pl.lit(chunk).cast(pl.Datetime("us")).alias("chunk"), pl.all()
        )
        self.warehouse.replace(table, rows, {"chunk": chunk, **where})

    def load_chunk(self, table: str, chunk: datetime) -> pl.DataFrame:
        """A chunk's rows of a monitoring table; empty where there are none."""
        if not self.warehouse.has(table):
            return pl.DataFrame()
        return self.warehouse.query(f"select * exclude (chunk) from {table} where chunk = ?", [chunk])

    def save_finding(self, chunk: datetime, finding: Finding) -> None:
        """Keep what a check found in a chunk."""
        self.save_chunk("findings", chunk, finding_frame([finding]), check=finding.check)

    def load_findings(self, chunk: datetime) -> list[Finding]:
        """What the chunk's checks found."""
        rows = self.load_chunk("findings", chunk)
        return [
            Finding(row["check"], Status(row["status"]), row["reason"], row["statistic"], row["limit"])
            for row in rows.iter_rows(named=True)
        ]


Context = dg.AssetExecutionContext
StoresParam = dg.ResourceParam[Stores]


def chunk_partitions(case: UseCase) -> dg.TimeWindowPartitionsDefinition:
    """One partition per monitoring chunk from the one that holds go-live on, named by its first day."""
    return dg.TimeWindowPartitionsDefinition(
        start=chunk_start(midnight(case.go_live), case.monitoring.chunk),
        end=midnight(case.monitoring.until) if case.monitoring.until else None,
        cron_schedule=_CRON[case.monitoring.chunk],
        fmt="%Y-%m-%d",
    )


@dataclass(frozen=True)
class Chunk:
    """The monitoring chunk of a run: [start, end), known as of its end."""

    start: datetime
    end: datetime
    label: str

    @property
    def key(self) -> str:
        """The partition key."""
        return f"{self.start:%Y-%m-%d}"


def chunk_of(context: dg.AssetExecutionContext, case: UseCase) -> Chunk:
    """The chunk that the run's partition names."""
    start = datetime.strptime(context.partition_key, "%Y-%m-%d")
    period = case.monitoring.chunk
    return Chunk(start, chunk_end(start, period), chunk_label(start, period))


def as_of_of(context: dg.AssetExecutionContext, stores: Stores) -> datetime:
    """The time a run stands at, naive UTC: its chunk's end, else its ``selfheal/as_of`` tag, else now."""
    if context.has_partition_key:
        return chunk_of(context, stores.case).end
    tagged = context.run.tags.get(AS_OF_TAG)
    if not tagged:
        return stores.settings.now()
    try:
        return in_utc(datetime.fromisoformat(tagged))
    except ValueError as error:
        raise dg.Failure(f"{AS_OF_TAG}: '{tagged}' is no date or time: give ISO 8601, in UTC") from error


def told_of(chunk: Chunk, status: Status) -> dict[str, dg.MetadataValue]:
    """Metadata by which the sensor finds what a check says of a window."""
    return {"status": dg.MetadataValue.text(status.value), "window": dg.MetadataValue.text(chunk.key)}


def report_path(settings: Settings, chunk: Chunk) -> Path:
    """The chunk's page, which ``drift_report`` writes after the checks."""
    return settings.reports / f"drift_{chunk.key}.html"


def leads_on(check: str, status: Status, chunk: Chunk, settings: Settings) -> dict[str, dg.MetadataValue]:
    """Where a check's evaluation leads: what to do next, and the chunk's page; nothing to do where it passed."""
    if status is Status.passed:
        return {"report": dg.MetadataValue.path(str(report_path(settings, chunk)))}
    return {
        "what_to_do": dg.MetadataValue.text(next_step(check, status is Status.failed)),
        "report": dg.MetadataValue.path(str(report_path(settings, chunk))),
    }


def check_result(
    finding: Finding, chunk: Chunk, severity: dg.AssetCheckSeverity, settings: Settings
) -> dg.AssetCheckResult:
    """A finding as Dagster's check result; unknown is not healthy, but only warns."""
    unknown = finding.status is Status.insufficient
    metadata = told_of(chunk, finding.status) | leads_on(finding.check, finding.status, chunk, settings)
    for name in ("statistic", "limit"):
        if (value := getattr(finding, name)) is not None:
            metadata[name] = dg.MetadataValue.float(value)
    return dg.AssetCheckResult(
        check_name=finding.check,
        passed=finding.status is Status.passed,
        severity=dg.AssetCheckSeverity.WARN if unknown else severity,
        description=with_step(finding.check, finding.reason, finding.status),
        metadata=metadata,
    )


def with_step(check: str, reason: str, status: Status) -> str:
    """A check's message: what was found, with its figures, and, unless it passed, what to do next."""
    if status is Status.passed:
        return reason
    return f"{reason.rstrip('.')}. What to do: {next_step(check, status is Status.failed)}."


def rows_in(table: str, rows: int) -> dict[str, Any]:
    """The rows that a materialization holds, as ``rows`` and as Dagster's own count; and the table they are in."""
    return {"rows": rows, "dagster/row_count": rows, "dagster/table_name": f"main.{table}"}


def table_metadata(frame: pl.DataFrame, rows: int = 50) -> dg.TableMetadataValue:
    """The first rows of a frame as a table in the UI."""
    shown = frame.head(rows).with_columns(
        pl.col(pl.Float64).round(4), pl.selectors.temporal().cast(pl.String)
    )
    columns = [dg.TableColumn(name, str(dtype)) for name, dtype in frame.schema.items()]
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({k: "" if v is None else v for k, v in row.items()})
            for row in shown.iter_rows(named=True)
        ],
        schema=dg.TableSchema(columns=columns),
    )
