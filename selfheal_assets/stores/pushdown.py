"""The push-down engine: profiles and chunk statistics from SQL, where the rows lie.

A *source* is what may stand after FROM: a table, a view, or a query in brackets. Its columns are the features by
their names and, where scores are monitored, ``probability`` and ``prediction`` (0/1). Each column of the source is
read once, for all chunks and all segments together, and no row leaves the database. What leaves is counts
(``core.chunk_statistics``), whose size does not depend on the number of rows.
"""

from collections.abc import Sequence

import duckdb
import numpy as np
import polars as pl

from selfheal_assets.core.calibration import IsotonicMap
from selfheal_assets.core.chunk_statistics import (
    ALL,
    FEATURE_SCHEMA,
    SCORE_SCHEMA,
    SCORE_SUMS,
    ChunkStatistics,
)
from selfheal_assets.core.grid import FINE_CELLS, Grid, coarse_cells, decile_edges, is_divisible
from selfheal_assets.core.profile import (
    PREDICTION,
    SCORE,
    FeatureProfile,
    Kind,
    Profile,
    segment_profile,
)
from selfheal_assets.core.spec import DriftFigures, Feature, FeatureType, Segment
from selfheal_assets.stores.cell_counts import (
    ABOVE,
    BELOW,
    INFINITE,
    WITHIN,
    Slices,
    count_number,
    count_rows,
    count_scores,
    count_values,
    name,
    number,
    outside_columns,
    segment_counts,
)

REFERENCE = "reference"


def fit_profile(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    features: Sequence[Feature],
    segments: Sequence[Segment] = (),
    calibration: IsotonicMap | None = None,
    policy: DriftFigures | None = None,
) -> Profile:
    """Freeze a reference.

    Args:
        connection: to the database that holds it.
        source: the reference's rows (see the module).
        features: which columns to profile.
        segments: how to cut the population.
        calibration: of the scores; ``None`` leaves score, prediction and performance out.
        policy: which segments are large enough; the defaults if omitted.

    Raises:
        ValueError: the source has no row.
    """
    policy = policy or DriftFigures()
    wanted: list[tuple[str, Kind, bool]] = []
    wanted += [(f.name, "feature", f.type is not FeatureType.category) for f in features]
    if calibration is not None:
        wanted += [(SCORE, "score", True), (PREDICTION, "prediction", False)]
    numbers = _number_columns(connection, source, [(n, kind) for n, kind, numeric in wanted if numeric])
    columns = tuple(
        numbers[n] if numeric else _category_column(connection, source, n, kind)
        for n, kind, numeric in wanted
    )
    cut = tuple(
        segment_profile(
            s, segment_counts(connection, source, s), policy.min_segment_rows, policy.max_segment_values
        )
        for s in segments
    )
    profile = Profile(columns, cut, calibration)
    reference = statistics_of(connection, source, profile, chunk=REFERENCE)
    return Profile(columns, cut, calibration, reference)


def scored_labels(
    connection: duckdb.DuckDBPyConnection, source: str, label: str
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and 0/1 labels of a reference, in its order: what ``core.calibration.plain_map`` learns from.

    Left out: rows without a label or a finite score. Sixteen bytes a row leave the database.
    """
    score, positive = f"{name(SCORE)}::double", f"{name(label)}::tinyint"
    found = connection.sql(
        f"select {score} s, {positive} y from {source} where isfinite({score}) and {positive} is not null"
    ).fetchnumpy()
    return np.asarray(found["s"]), np.asarray(found["y"])


def _number_columns(
    connection: duckdb.DuckDBPyConnection, source: str, wanted: Sequence[tuple[str, Kind]]
) -> dict[str, FeatureProfile]:
    """Grids of numbers: one scan for the ranges, one for the skewness, one count a column for the deciles."""
    if not wanted:
        return {}
    names = [c for c, _ in wanted]
    found = _ranges(connection, source, names)
    skewness = _skewness(connection, source, names, [f[4] for f in found])
    columns = {}
    for (column, kind), (n, infinite, low, high, _), skew in zip(wanted, found, skewness, strict=True):
        grid, reason = _grid(n, infinite, low, high, skew)
        made = FeatureProfile(column, kind, True, grid, bool(grid and not grid.fine), (), reason)
        columns[column] = _with_deciles(connection, source, made) if grid and reason is None else made
    return columns


def _ranges(
    connection: duckdb.DuckDBPyConnection, source: str, columns: Sequence[str]
) -> list[tuple[int, int, float, float, float]]:
    """Of each column, the finite values' number, how many are infinite, least, greatest and mean.

    Filtering is dear, so it is left out at first and done only where a column turns out to need it.
    """
    plain = "count({x}), 0, min({x}), max({x}), avg({x})"
    kept = "count({x}) {f}, count({x}) filter (where isinf({x})), min({x}) {f}, max({x}) {f}, avg({x}) {f}"
    for template in (plain, kept):
        parts = []
        for c in columns:
            x = f"{name(c)}::double"
            parts.append(template.format(x=x, f=f"filter (where isfinite({x}))"))
        rows, *flat = connection.sql(f"select count(*), {', '.join(parts)} from {source}").fetchall()[0]
        if not rows:
            raise ValueError(
                "the reference has no rows: check the period of the reference, or the source's filter"
            )
        found = [tuple(flat[i : i + 5]) for i in range(0, len(flat), 5)]
        if all(low is None or (np.isfinite(low) and np.isfinite(high)) for _, _, low, high, _ in found):
            break
    return found


def _skewness(
    connection: duckdb.DuckDBPyConnection, source: str, columns: Sequence[str], means: Sequence[float | None]
) -> list[float]:
    """Third central moment over the cube of the population's standard deviation; NaN without a finite value."""
    powers = []
    for column, mean in zip(columns, means, strict=True):
        x = f"{name(column)}::double"
        d = f"({x} - {number(mean or 0.0)})"
        keep = f"filter (where isfinite({x}))"
        powers.append(f"avg({d} * {d}) {keep}, avg({d} * {d} * {d}) {keep}")
    flat = connection.sql(f"select {', '.join(powers)} from {source}").fetchall()[0]
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return [third / second**1.5 if second else float("nan") for second, third in pairs]


def _grid(n: int, infinite: int, low: float, high: float, skewness: float) -> tuple[Grid | None, str | None]:
    if not n:
        return None, "the reference holds no value: all are missing or infinite"
    if infinite:
        return Grid(low, high, 1, FINE_CELLS), f"the reference holds {infinite} infinite values"
    if low == high:
        return Grid(low, high, 1, FINE_CELLS), f"constant in the reference: {low:g}; see outside_range_share"
    fine = FINE_CELLS if n >= FINE_CELLS else 0
    if fine and not is_divisible(low, high, fine):
        return None, f"the reference's range, {low!r} to {high!r}, is too narrow for {fine} cells"
    return Grid(low, high, coarse_cells(n, low, high, skewness), fine), None


def _with_deciles(
    connection: duckdb.DuckDBPyConnection, source: str, column: FeatureProfile
) -> FeatureProfile:
    """The column with the edges of PSI's cells: each holds about a tenth of the reference."""
    assert column.grid is not None
    whole = Slices(Profile((column,)), None)
    if column.by_value:
        counted = count_values(connection, source, column, whole).filter(pl.col("place") == WITHIN).sort("at")
        values, rows = counted["at"].to_numpy(), counted["n"].to_numpy()
        tenths = np.searchsorted(np.cumsum(rows), np.arange(1, 10) * rows.sum() / 10)
        psi = {float(values[i]) for i in tenths if i > 0}
    else:
        counted = count_number(connection, source, column, whole, outside=False)
        counts = np.zeros(len(column.grid.edges) - 1, dtype=np.int64)
        counts[counted["at"].to_numpy()] = counted["n"].to_numpy()
        light, heavy = decile_edges(column.grid.edges, counts)
        psi = {*light}
        for shares in heavy.values():
            psi |= set(_quantiles(connection, source, column.name, shares))
        psi.discard(column.grid.low)
    grid = Grid(column.grid.low, column.grid.high, column.grid.coarse, column.grid.fine, tuple(sorted(psi)))
    return FeatureProfile(column.name, column.kind, True, grid, column.by_value)


def _quantiles(
    connection: duckdb.DuckDBPyConnection, source: str, column: str, shares: list[float]
) -> list[float]:
    """Values of the reference at these shares of its rows."""
    x = f"{name(column)}::double"
    (found,) = connection.sql(
        f"select quantile_disc({x}, {shares}) from {source} where isfinite({x})"
    ).fetchall()
    return [float(v) for v in found[0]]


def _category_column(
    connection: duckdb.DuckDBPyConnection, source: str, column: str, kind: Kind
) -> FeatureProfile:
    value = f"{name(column)}::varchar"
    found = connection.sql(f"select distinct {value} from {source} where {value} is not null").fetchall()
    values = tuple(sorted(v for (v,) in found))
    reason = None if values else "the reference holds no value: all are missing"
    return FeatureProfile(column, kind, False, categories=values, reason=reason)


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
    columns = _of_columns(connection, source, profile, slices)
    scores = _of_scores(connection, source, profile, slices)
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


_BATCH = 300_000  # rows of counts: columns are listed together up to here, as each operation has its price


def _of_columns(
    connection: duckdb.DuckDBPyConnection, source: str, profile: Profile, slices: Slices
) -> pl.DataFrame:
    """Rows of ``ChunkStatistics.features``, with ``k`` in place of ``chunk``."""
    by_cell = [c for c in profile.columns if c.numeric and not c.by_value]
    outside = outside_columns(connection, source, by_cell)
    waiting: dict[str, list[pl.DataFrame]] = {"cells": [], "numbers": [], "texts": []}
    listed = []
    for column in profile.columns:
        if column in by_cell:
            counted = count_number(connection, source, column, slices, column.name in outside)
        else:
            counted = count_values(connection, source, column, slices)
        many = "cells" if column in by_cell else "numbers" if column.numeric else "texts"
        waiting[many].append(counted.select(_COUNTED).with_columns(feature=pl.lit(column.name)))
        if sum(frame.height for frame in waiting[many]) > _BATCH:
            listed.append(_listed(pl.concat(waiting[many]), many))
            waiting[many] = []
    listed += [_listed(pl.concat(frames), many) for many, frames in waiting.items() if frames]
    names = pl.DataFrame({"feature": [c.name for c in profile.columns]}, schema={"feature": pl.String})
    totals = count_rows(connection, source, slices).rename({"n": "rows"}).sort("k", "segment")
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
    """Counts of columns as lists called ``many`` and ``counts``, with the sums beside them; ``_BY`` is unique."""
    n, place, gap = pl.col("n"), pl.col("place"), pl.col("gap")
    finite = place <= ABOVE
    return (
        counted.sort(*_BY, "at")
        .group_by(_BY, maintain_order=True)
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


def _of_scores(
    connection: duckdb.DuckDBPyConnection, source: str, profile: Profile, slices: Slices
) -> pl.DataFrame:
    """Rows of ``ChunkStatistics.scores``, with ``k`` in place of ``chunk``."""
    by, lists = ["k", "segment"], ["cells", "flagged", *SCORE_SUMS]
    if profile.score_cells is None:
        return pl.DataFrame(schema={"k": pl.String} | {c: t for c, t in SCORE_SCHEMA.items() if c != "chunk"})
    counted = count_scores(connection, source, profile.score_cells, slices).rename({"cell": "cells"})
    return counted.sort(*by, "cells", "flagged").group_by(by, maintain_order=True).agg(lists)
