"""The push-down engine: statistics of chunks from SQL, where the rows lie.

A *source* is what may stand after FROM: a table, a view, or a query in brackets. Its columns are the features by
their names and, where scores are monitored, ``probability`` and ``prediction`` (0/1). Each column is read once, for
all chunks and all segments together, a number's least and greatest value aside. No row leaves the database but those
of a small source, for which that is cheaper (``row_counts``). What comes of either is counts
(``core.chunk_statistics``), whose size does not depend on the number of rows.
"""

import duckdb
import polars as pl

from selfheal_assets.core.chunk_statistics import (
    ALL,
    FEATURE_SCHEMA,
    SCORE_SCHEMA,
    SCORE_SUMS,
    ChunkStatistics,
)
from selfheal_assets.core.profile import SCORE, FeatureProfile, Profile
from selfheal_assets.core.score_cells import ScoreCells
from selfheal_assets.stores.cell_counts import (
    ABOVE,
    BELOW,
    INFINITE,
    count_number,
    count_rows,
    count_scores,
    count_values,
    extremes,
    has_outside,
    is_by_cell,
)
from selfheal_assets.stores.row_counts import FetchedRows
from selfheal_assets.stores.slices import Slices


def statistics_of(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    profile: Profile,
    key: str | None = None,
    chunk: str = "chunk",
) -> ChunkStatistics:
    """Statistics of one chunk, or of many at once.

    Args:
        connection: to the database that holds the rows.
        source: the rows (see the module).
        profile: whose cells to count in.
        key: SQL expression that names a row's chunk, for instance ``date_trunc('month', event_time)::date``; all
            rows are one chunk if omitted.
        chunk: that chunk's name.
    """
    slices = Slices(profile, key)
    size = connection.sql(f"select count(*) from {source}").fetchall()[0][0]
    count = (FetchedRows if size <= _FEW else _PushedDown)(connection, source, profile, slices)
    columns, scores = _of_columns(profile, count), _of_scores(profile, count)
    features = _named(columns, key, chunk)
    if key is None:
        features = _with_empty(features, profile, chunk)
    return ChunkStatistics(
        features.select(pl.col(c).cast(kind) for c, kind in FEATURE_SCHEMA.items()),
        _named(scores, key, chunk).select(pl.col(c).cast(kind) for c, kind in SCORE_SCHEMA.items()),
    )


_SCHEMA = {"k": pl.String} | {c: kind for c, kind in FEATURE_SCHEMA.items() if c != "chunk"}


def _named(frame: pl.DataFrame, key: str | None, chunk: str) -> pl.DataFrame:
    return frame.with_columns(pl.lit(chunk).alias("chunk") if key is None else pl.col("k").alias("chunk"))


def _with_empty(features: pl.DataFrame, profile: Profile, chunk: str) -> pl.DataFrame:
    """A row of nothing for each column of a chunk without rows, so that it is known to be empty."""
    names = pl.Series("feature", [c.name for c in profile.columns], dtype=pl.String)
    nothing = names.to_frame().select(pl.lit(chunk).alias("chunk"), "feature", pl.lit(ALL).alias("segment"))
    filled = nothing.join(features, on=["chunk", "feature", "segment"], how="anti").with_columns(
        pl.lit(0).alias(c) for c in ("rows", "missing", "infinite", "below_gap", "above_gap")
    )
    return pl.concat([features, filled], how="diagonal_relaxed")


_FEW = 150_000  # rows of a source that are fetched and counted here; of more, SQL is cheaper
_BATCH = 300_000  # rows of counts: columns are listed together up to here, as each operation has its price


class _PushedDown:
    """A large source's counts, column by column: less memory, and fewer cells than rows."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, source: str, profile: Profile, slices: Slices
    ) -> None:
        self._at = connection, source
        self._slices = slices
        numbers = [c for c in profile.columns if is_by_cell(c) or c.name == SCORE]
        self._extremes = extremes(connection, source, numbers)

    def rows(self) -> pl.DataFrame:
        return count_rows(*self._at, self._slices)

    def number(self, column: FeatureProfile) -> pl.DataFrame:
        return count_number(*self._at, column, self._slices, has_outside(column, self._extremes))

    def values(self, column: FeatureProfile) -> pl.DataFrame:
        return count_values(*self._at, column, self._slices)

    def scores(self, cells: ScoreCells) -> pl.DataFrame:
        return count_scores(*self._at, cells, self._slices, self._extremes)


def _of_columns(profile: Profile, count: FetchedRows | _PushedDown) -> pl.DataFrame:
    """Rows of ``ChunkStatistics.features``, with ``k`` in place of ``chunk``."""
    totals = count.rows().rename({"n": "rows"}).sort("k", "segment")
    feature_type = pl.Enum([c.name for c in profile.columns])
    waiting: dict[str, list[pl.DataFrame]] = {"cells": [], "numbers": [], "texts": []}
    listed = []
    for column in profile.columns:
        counted = count.number(column) if is_by_cell(column) else count.values(column)
        many = "cells" if is_by_cell(column) else "numbers" if column.numeric else "texts"
        feature = pl.Series("feature", [column.name], dtype=feature_type).new_from_index(0, counted.height)
        waiting[many].append(pl.DataFrame([*(counted[c] for c in _COUNTED), feature]))
        if sum(frame.height for frame in waiting[many]) > _BATCH:
            listed.append(_listed(pl.concat(waiting[many]), many))
            waiting[many] = []
    listed += [_listed(pl.concat(frames), many) for many, frames in waiting.items() if frames]
    names = pl.DataFrame({"feature": feature_type.categories}, schema={"feature": feature_type})
    rows = names.join(totals, how="cross")
    both = rows.join(
        pl.concat(listed, how="diagonal"), on=_BY, how="left", nulls_equal=True, maintain_order="left"
    )
    both = both.with_columns(pl.col("infinite", "below_gap", "above_gap").fill_null(0))
    finite = pl.col("counts").list.sum().fill_null(0)
    both = both.with_columns(missing=pl.col("rows") - pl.col("infinite") - finite)
    blank = [pl.lit(None, kind).alias(c) for c, kind in _SCHEMA.items() if c not in both.columns]
    return both.with_columns(blank).select(pl.col(c).cast(kind) for c, kind in _SCHEMA.items())


_BY = ["k", "feature", "segment"]
_COUNTED = ["k", "segment", "place", "at", "n", "low", "high", "gap"]


def _listed(counted: pl.DataFrame, many: str) -> pl.DataFrame:
    """Counts of columns as lists called ``many`` and ``counts``, with the sums beside them."""
    n, place, gap = pl.col("n"), pl.col("place"), pl.col("gap")
    finite = place <= ABOVE
    return (
        counted.sort("at")
        .group_by(_BY)
        .agg(
            pl.col("low").filter(finite).min(),
            pl.col("high").filter(finite).max(),
            n.filter(place == INFINITE).sum().alias("infinite"),
            gap.filter(place == BELOW).sum().alias("below_gap"),
            gap.filter(place == ABOVE).sum().alias("above_gap"),
            pl.col("at").filter(finite).alias(many),
            n.filter(finite).alias("counts"),
        )
        .with_columns(
            pl.when(pl.col("counts").list.len() > 0).then(pl.col(c)).alias(c) for c in (many, "counts")
        )
    )


def _of_scores(profile: Profile, count: FetchedRows | _PushedDown) -> pl.DataFrame:
    """Rows of ``ChunkStatistics.scores``, with ``k`` in place of ``chunk``."""
    by, lists = ["k", "segment"], ["cells", "flagged", *SCORE_SUMS]
    if profile.score_cells is None:
        return pl.DataFrame(schema={"k": pl.String} | {c: t for c, t in SCORE_SCHEMA.items() if c != "chunk"})
    counted = count.scores(profile.score_cells).rename({"cell": "cells"})
    return counted.sort(*by, "cells", "flagged").group_by(by, maintain_order=True).agg(lists)
