"""Stored statistics of chunks: tables ``chunk_statistics`` and ``chunk_scores``, within the caller's transaction.

A chunk costs its own rows once; afterwards it, and any span it belongs to, is answered from here. Counts of
different profiles do not add, so each row carries the fingerprint of its profile's cells.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import polars as pl

from selfheal_assets.core.chunk_statistics import ALL, FEATURE_SCHEMA, SCORE_SCHEMA, ChunkStatistics, merge
from selfheal_assets.core.profile import Profile

_TABLES = {"chunk_statistics": FEATURE_SCHEMA, "chunk_scores": SCORE_SCHEMA}


class NotCounted(LookupError):
    """Statistics of a chunk are asked for that nobody has stored under this profile; says which."""


def create_chunk_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Create what is missing."""
    connection.execute("; ".join(_create(table, schema) for table, schema in _TABLES.items()))


def _create(table: str, schema: Mapping[str, Any]) -> str:
    columns = ", ".join(f'"{c}" {sql_type(kind)}' for c, kind in schema.items())
    return f"create table if not exists {table} (profile varchar not null, {columns})"


def chunk_table_columns(table: str) -> dict[str, str]:
    """The columns of one of the two tables with their SQL types."""
    return {"profile": "varchar"} | {column: sql_type(kind) for column, kind in _TABLES[table].items()}


def sql_type(kind: Any) -> str:
    """The name of a Polars type in the warehouse."""
    if isinstance(kind, pl.List):
        return f"{sql_type(kind.inner)}[]"
    names = {pl.String: "varchar", pl.Int64: "bigint", pl.Int32: "integer", pl.Float64: "double"}
    return {**names, pl.Boolean: "boolean", pl.Datetime("us"): "timestamp"}[kind]


def store_statistics(
    connection: duckdb.DuckDBPyConnection, profile: Profile, statistics: ChunkStatistics
) -> None:
    """Replace what is stored of these chunks; the tables are made where they are missing."""
    create_chunk_tables(connection)
    frames = (statistics.features, statistics.scores)
    for (table, schema), frame in zip(_TABLES.items(), frames, strict=True):
        columns = ", ".join(f'"{c}"' for c in schema)
        chosen = ", ".join("?" * len(statistics.chunks)) or "null"
        connection.execute(
            f"delete from {table} where profile = ? and chunk in ({chosen})",
            [profile.fingerprint, *statistics.chunks],
        )
        connection.register("selfheal_incoming", frame.to_arrow())
        try:
            connection.execute(
                f"insert into {table} (profile, {columns}) select ?, {columns} from selfheal_incoming",
                [profile.fingerprint],
            )
        finally:
            connection.unregister("selfheal_incoming")


def stored_chunks(connection: duckdb.DuckDBPyConnection, profile: Profile) -> list[str]:
    """Names of the chunks that are stored under this profile, in order."""
    create_chunk_tables(connection)
    found = connection.execute(
        "select distinct chunk from chunk_statistics where profile = ? order by 1", [profile.fingerprint]
    ).fetchall()
    return [chunk for (chunk,) in found]


def load_statistics(
    connection: duckdb.DuckDBPyConnection, profile: Profile, chunks: Sequence[str], whole: bool = False
) -> ChunkStatistics:
    """Stored statistics of these chunks, side by side.

    Args:
        connection: to the warehouse.
        profile: under which they are stored.
        chunks: their names.
        whole: only the features of all rows, no segments and no scores.

    Raises:
        NotCounted: one of them is not stored; an empty chunk is, once it has been counted.
    """
    create_chunk_tables(connection)
    frames = []
    for table, schema in _TABLES.items():
        columns = ", ".join(f'"{c}"' for c in schema)
        chosen = ", ".join("?" * len(chunks)) or "null"
        query = f"select {columns} from {table} where profile = ? and chunk in ({chosen})"
        if whole:
            query += f" and segment = '{ALL}'" if schema is FEATURE_SCHEMA else " and false"
        found = (
            connection.sql(query, params=[profile.fingerprint, *chunks])
            .pl()
            .sort("chunk", maintain_order=True)
        )
        frames.append(found.select(pl.col(c).cast(kind) for c, kind in schema.items()))
    loaded = ChunkStatistics(*frames)
    if absent := sorted({*chunks} - {*loaded.chunks}):
        shown = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
        raise NotCounted(
            f"{len(absent)} of {len(chunks)} chunks are not counted under profile {profile.fingerprint}: {shown}; "
            "materialize chunk_statistics for them"
        )
    return loaded


def span_statistics(
    connection: duckdb.DuckDBPyConnection, profile: Profile, chunks: Sequence[str], name: str
) -> ChunkStatistics:
    """All rows of these chunks as one chunk called ``name``, by addition; no logged row is read.

    Raises:
        NotCounted: one of them is not stored.
    """
    return merge([load_statistics(connection, profile, chunks)], name)
