"""Counts of what a champion answered, in the cells of its own reference: taken once, stored, read instead of rows.

How rows are counted is ``pushdown``'s, where counts are kept ``chunk_tables``'s business.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import duckdb
import polars as pl

from selfheal_assets.core.calibration import IDENTITY, CannotCalibrate, plain_map
from selfheal_assets.core.chunk_statistics import ChunkStatistics
from selfheal_assets.core.profile import Profile
from selfheal_assets.stores.chunk_tables import (
    create_chunk_tables,
    load_statistics,
    store_statistics,
    stored_chunks,
)
from selfheal_assets.stores.pushdown import statistics_of
from selfheal_assets.stores.reference_profile import fit_profile
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets.use_case import UseCase

COUNT_TABLES = ("chunk_statistics", "chunk_scores")
_REFERENCE = "scored_reference"


def fit_cells(warehouse: Warehouse, case: UseCase, reference: pl.DataFrame) -> Profile:
    """Freeze a champion's reference as counts.

    Args:
        warehouse: counts.
        case: features, segments and policy.
        reference: the features, ``probability``, ``prediction`` and ``label``.
    """
    try:
        calibration = plain_map(reference["probability"].to_numpy(), reference["label"].to_numpy())
    except CannotCalibrate:
        calibration = IDENTITY
    with _registered(warehouse, reference) as connection:
        return fit_profile(
            connection, _REFERENCE, case.features, case.segments, calibration, case.policy.drift_figures
        )


def reference_chunks(
    warehouse: Warehouse, profile: Profile, reference: pl.DataFrame, number: int
) -> ChunkStatistics:
    """The reference cut into ``number`` chunks of equal size, in its order; rows left over are left out."""
    size = max(reference.height // number, 1)
    rows = reference.head(size * number).with_columns(part=pl.int_range(pl.len()) // size)
    with _registered(warehouse, rows) as connection:
        return statistics_of(connection, _REFERENCE, profile, key="lpad(part::varchar, 6, '0')")


@contextmanager
def _registered(warehouse: Warehouse, rows: pl.DataFrame) -> Iterator[duckdb.DuckDBPyConnection]:
    with warehouse.read() as connection:
        connection.register(_REFERENCE, rows.to_arrow())
        try:
            yield connection
        finally:
            connection.unregister(_REFERENCE)


def count_chunk(
    warehouse: Warehouse, profile: Profile, version: int, start: datetime, end: datetime, name: str
) -> ChunkStatistics:
    """Count the champion's rows with event times in [start, end), and store the counts as the chunk ``name``.

    They take the place of all that was counted of the chunk: one version answered it, even if another was thought to
    have.
    """
    source = f"""(select * from prediction_log where role = 'champion' and model_version = {int(version)}
        and event_time >= timestamp '{start.isoformat(" ")}' and event_time < timestamp '{end.isoformat(" ")}')"""
    with warehouse.write() as connection:
        statistics = statistics_of(connection, source, profile, chunk=name)
        _forget(connection, name)
        store_statistics(connection, profile, statistics)
    return statistics


def forget_chunk(warehouse: Warehouse, name: str) -> None:
    """Nobody answered the chunk ``name``, even if it was counted once: what follows must not go on from that."""
    with warehouse.write() as connection:
        _forget(connection, name)


def _forget(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    create_chunk_tables(connection)
    for table in COUNT_TABLES:
        connection.execute(f"delete from {table} where chunk = ?", [name])


def counted(warehouse: Warehouse, profile: Profile, name: str) -> ChunkStatistics:
    """What is stored under this profile of the chunk ``name``.

    Raises:
        NotCounted: nothing is.
    """
    with warehouse.write() as connection:
        return load_statistics(connection, profile, [name])


def counted_until(warehouse: Warehouse, profile: Profile, name: str) -> ChunkStatistics:
    """What is stored under this profile of the features of whole chunks up to and with ``name``, in order.

    Without segments and scores, which nobody asks of a history. Chunks' names sort by time.

    Raises:
        NotCounted: nothing is stored of ``name``.
    """
    with warehouse.write() as connection:
        earlier = [n for n in stored_chunks(connection, profile) if n < name]
        return load_statistics(connection, profile, [*earlier, name], whole=True)


def count_rows_of(warehouse: Warehouse, profile: Profile, rows: pl.DataFrame, name: str) -> ChunkStatistics:
    """Count these rows (features, ``probability``, ``prediction``) as the chunk ``name``; nothing is stored."""
    with _registered(warehouse, rows) as connection:
        return statistics_of(connection, _REFERENCE, profile, chunk=name)
