"""Outcomes: what the labels say of the champion, those so far and those of matured cohorts.

Each chunk adds its counts to the champion's books, so that a test may be looked at after every chunk: its chance of
ever raising a false alarm in a year is the policy's (``harm``). Books are kept by version in tables of their own.
"""

import dagster as dg
import numpy as np
import polars as pl

from selfheal_assets.core import harm, maturity, monitoring, realized
from selfheal_assets.core.monitoring import Finding
from selfheal_assets.core.partial_counts import (
    COHORT_SCHEMA,
    COUNT_SCHEMA,
    cohort_rows,
    hazard_counts,
    newest_counts,
)
from selfheal_assets.core.partial_labels import PartialAlarm, partial_alarm
from selfheal_assets.core.periods import shift_chunks
from selfheal_assets.core.realized_check import (
    LOSS_SCHEMA,
    HeldOut,
    matured_cohort,
    realized_check,
    unjudged,
    with_losses,
)
from selfheal_assets.defs.champion import ChampionProfile
from selfheal_assets.defs.check_catalogue import check_spec
from selfheal_assets.defs.drift import shaped
from selfheal_assets.defs.monitor import ERROR, GROUP, LABELLED, cannot_judge, judged, save, served
from selfheal_assets.defs.resources import Chunk, Context, Stores, StoresParam, chunk_of
from selfheal_assets.stores import chunks

PARTIAL, REALIZED = "calibration_holds", "realized_performance_holds"


def build_outcome_assets(partitions: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The assets about outcomes, one partition per chunk."""

    @dg.asset(
        group_name=GROUP,
        kinds={"duckdb", "polars"},
        partitions_def=partitions,
        deps=[LABELLED, "reference_data"],
        check_specs=[check_spec(PARTIAL, "partial_label_evidence")],
    )
    def partial_label_evidence(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """Expected against observed positives so far, cohort by cohort, long before the labels mature.

        The champion scores the recent cohorts; a case with probability p aged a should be positive so far with
        probability p·F(a), with F the timing curve of the matured cases.
        """
        chunk = chunk_of(context, stores.case)
        profile, rows = served(stores, chunk)
        frame, alarm, why = pl.DataFrame(), None, cannot_judge(stores, profile, rows, by_labels=True)
        if profile is None:
            _unbook(stores, "hazard_counts", chunk)
        else:
            frame, alarm = _partial(stores, chunk, profile)
        if frame.is_empty():
            empty = why or f"{LABELLED} holds no case: build the dbt models"
            frame = pl.DataFrame({"cohort": [None], "reason": [empty]})
        finding, row = _partial_finding(stores, alarm, why or frame["reason"][0])
        stores.save_chunk("harm_alarms", chunk.start, row, evidence="partial")
        metadata = save(stores, "partial_label_evidence", chunk, shaped(frame, COHORT_SCHEMA))
        return judged(stores, chunk, finding, ERROR, metadata)

    @dg.asset(
        group_name=GROUP,
        kinds={"duckdb", "polars"},
        partitions_def=partitions,
        deps=[LABELLED, "reference_data"],
        check_specs=[check_spec(REALIZED, "realized_performance")],
    )
    def realized_performance(context: Context, stores: StoresParam) -> dg.MaterializeResult:
        """All metrics on the newest matured cohort, by segment: as it was served then, and as today's champion does.

        The check judges today's champion, by tests that may be looked at after every chunk.
        """
        chunk = chunk_of(context, stores.case)
        profile, _ = served(stores, chunk)
        frame, finding = _realized(stores, chunk, profile)
        metadata = save(stores, "realized_performance", chunk, frame)
        return judged(stores, chunk, finding, ERROR, metadata)

    return [partial_label_evidence, realized_performance]


def _partial(
    stores: Stores, chunk: Chunk, profile: ChampionProfile
) -> tuple[pl.DataFrame, PartialAlarm | None]:
    """Cohorts for people to read, and what all counts in the champion's books say.

    The books begin ``lookback`` chunks before its first, but after its reference: on those cases it was chosen.
    """
    monitored, policy = stores.case.monitoring, stores.case.harm_alarms
    looked_back = shift_chunks(chunk.start, monitored.chunk, 1 - monitored.lookback)
    since = max(looked_back, profile.bundle.reference.end)
    rows = chunks.labelled_predictions(stores.warehouse, since, chunk.end)
    if rows.is_empty():
        return pl.DataFrame(), None
    scored = maturity.aged_cases(rows, profile.bundle.score(rows))
    reference, curve = profile.hazards, profile.timing
    counts = newest_counts(
        _booked(stores, "hazard_counts", chunk, profile), hazard_counts(scored, curve, policy)
    )
    _book(stores, "hazard_counts", chunk, profile, counts)
    return cohort_rows(scored, curve, profile.positives, policy), partial_alarm(counts, reference, policy)


def _partial_finding(stores: Stores, alarm: PartialAlarm | None, why: str) -> tuple[Finding, pl.DataFrame]:
    """The finding and its row of ``harm_alarms``; unknown where ``why`` says so."""
    policy = stores.case.harm_alarms
    if alarm is None or why:
        return monitoring.unknown(PARTIAL, why), harm.unjudged_row("partial", policy.partial_alpha, why)
    return harm.partial_harm_finding(alarm), harm.partial_row(alarm, policy)


_BOOKS = {
    "hazard_counts": COUNT_SCHEMA,
    "realized_losses": LOSS_SCHEMA,
}


def _booked(stores: Stores, table: str, chunk: Chunk, profile: ChampionProfile) -> pl.DataFrame:
    """The version's books as they stood after the chunk before this one."""
    columns = _BOOKS[table]
    if not stores.warehouse.has(table):
        return pl.DataFrame(schema=columns)
    found = stores.warehouse.query(
        f"""select * from {table} where version = ? and chunk =
            (select max(chunk) from {table} where version = ? and chunk < ?)""",
        [profile.version, profile.version, chunk.start],
    )
    return found.select(pl.col(c).cast(t) for c, t in columns.items())


def _book(stores: Stores, table: str, chunk: Chunk, profile: ChampionProfile, books: pl.DataFrame) -> None:
    """Keep them in place of all the chunk had: one version answered it, even if another was thought to have."""
    stores.save_chunk(table, chunk.start, books.with_columns(version=pl.lit(profile.version, pl.Int64)))


def _unbook(stores: Stores, table: str, chunk: Chunk) -> None:
    """The chunk says nothing, of any version, even if it once did."""
    stores.save_chunk(table, chunk.start, pl.DataFrame(schema={"version": pl.Int64} | _BOOKS[table]))


def _realized(stores: Stores, chunk: Chunk, profile: ChampionProfile | None) -> tuple[pl.DataFrame, Finding]:
    """Realized metrics of the cohort that became mature in this chunk, and the champion's finding."""
    case, policy = stores.case, stores.case.policy
    start, end = matured_cohort(chunk.start, case.monitoring.chunk, case.label)
    rows = chunks.labelled_predictions(stores.warehouse, start, end)
    rows = rows.filter(pl.col("is_mature") & pl.col("label").is_not_null())

    def figures(scored: pl.DataFrame, scored_by: str) -> pl.DataFrame:
        made = realized.realized_by_segment(
            scored, case.segments, policy.alarms, policy.costs, case.training.seed, policy.realized
        )
        return made.with_columns(scored_by=pl.lit(scored_by))

    parts = [figures(rows.with_columns(flagged=pl.col("prediction") == 1), "served")]
    if profile is None:
        finding, row = unjudged(case.harm_alarms, "no predictions in this chunk")
        _unbook(stores, "realized_losses", chunk)
        stores.save_chunk("harm_alarms", chunk.start, row, evidence="realized")
    else:
        p = profile.bundle.score(rows)
        flagged = pl.Series("flagged", p >= profile.bundle.threshold)
        parts.append(figures(rows.with_columns(flagged, probability=pl.Series(p)), "champion"))
        finding = _realized_finding(stores, chunk, profile, rows["label"].to_numpy().astype(np.int8), p)
    return pl.concat(parts).with_columns(cohort=pl.lit(start).cast(pl.Datetime("us"))), finding


def _realized_finding(
    stores: Stores, chunk: Chunk, profile: ChampionProfile, label: np.ndarray, probability: np.ndarray
) -> Finding:
    """The champion's finding; its books of realized losses are kept with this chunk's."""
    case, reference = stores.case, profile.reference
    books = with_losses(_booked(stores, "realized_losses", chunk, profile), chunk.start, label, probability)
    _book(stores, "realized_losses", chunk, profile, books)
    held_out = HeldOut(
        reference["label"].to_numpy(), reference["probability"].to_numpy(), profile.reference_auc
    )
    finding, row = realized_check(label, probability, books, held_out, case.policy.alarms, case.harm_alarms)
    stores.save_chunk("harm_alarms", chunk.start, row, evidence="realized")
    return finding
