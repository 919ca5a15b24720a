"""A frozen reference from SQL: the edges of every grid, the segments, and the reference's own counts.

One of fewer than ten thousand rows is compared by value, as NannyML does; the values then leave the database.
"""

from collections.abc import Sequence
from dataclasses import replace

import duckdb
import numpy as np
import polars as pl

from selfheal_assets.core.calibration import IsotonicMap
from selfheal_assets.core.chunk_statistics import ALL, ChunkStatistics
from selfheal_assets.core.column_drift import Counted, by_column
from selfheal_assets.core.evidence_policy import DriftFigures
from selfheal_assets.core.grid import (
    FINE_CELLS,
    PSI_CELLS,
    Grid,
    coarse_cells,
    decile_edges,
    is_divisible,
)
from selfheal_assets.core.profile import (
    PREDICTION,
    SCORE,
    FeatureProfile,
    Profile,
    SegmentProfile,
    segment_profile,
)
from selfheal_assets.core.spec import Feature, FeatureType, Segment
from selfheal_assets.stores.pushdown import statistics_of
from selfheal_assets.stores.slices import name, number, segment_counts

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
        source: the reference's rows, as ``stores.pushdown`` describes it.
        features: which columns to profile.
        segments: how to cut the population.
        calibration: of the scores; ``None`` leaves score, prediction and performance out.
        policy: which segments are large enough; the defaults if omitted.

    Raises:
        ValueError: the source has no row.
    """
    policy = policy or DriftFigures()
    if not connection.sql(f"select 1 from {source} limit 1").fetchall():
        raise ValueError(
            "the reference has no rows: check the period of the reference, or the source's filter"
        )
    wanted = [FeatureProfile(f.name, "feature", f.type is not FeatureType.category) for f in features]
    if calibration is not None:
        wanted += [FeatureProfile(SCORE, "score"), FeatureProfile(PREDICTION, "prediction", numeric=False)]
    numbers = _number_columns(connection, source, [c for c in wanted if c.numeric])
    columns = tuple(numbers.get(c.name) or _category_column(connection, source, c) for c in wanted)
    cut = tuple(
        segment_profile(
            s, segment_counts(connection, source, s), policy.min_segment_rows, policy.max_segment_values
        )
        for s in segments
    )
    draft = Profile(columns, cut, calibration)
    counted = statistics_of(connection, source, draft, chunk=REFERENCE)
    rows = by_column(counted)
    columns = tuple(_with_deciles(connection, source, c, rows[c.name, ALL]) for c in columns)
    return Profile(columns, cut, calibration, _counted_again(connection, source, columns, cut, counted))


def _counted_again(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    columns: Sequence[FeatureProfile],
    segments: tuple[SegmentProfile, ...],
    counted: ChunkStatistics,
) -> ChunkStatistics:
    """The reference's counts, once more where a decile has cut a cell in two."""
    cut = tuple(c for c in columns if c.grid and c.grid.fine and c.grid.splits)
    if not cut:
        return counted
    again = statistics_of(connection, source, Profile(cut, segments), chunk=REFERENCE)
    kept = counted.features.filter(~pl.col("feature").is_in([c.name for c in cut]))
    return ChunkStatistics(pl.concat([kept, again.features]), counted.scores)


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
    connection: duckdb.DuckDBPyConnection, source: str, wanted: Sequence[FeatureProfile]
) -> dict[str, FeatureProfile]:
    """Numbers with their grids, but for the deciles: one scan for ranges, one for skewness."""
    if not wanted:
        return {}
    names = [c.name for c in wanted]
    found, keep = _ranges(connection, source, names)
    skewness = _skewness(connection, source, names, [f[4] for f in found], keep)
    columns = {}
    for column, (n, infinite, low, high, _), skew in zip(wanted, found, skewness, strict=True):
        grid, reason = _grid(n, infinite, low, high, skew)
        by_value = grid is not None and not grid.fine
        columns[column.name] = replace(column, grid=grid, by_value=by_value, reason=reason)
    return columns


_FINITE = "filter (where isfinite({x}))"


def _ranges(
    connection: duckdb.DuckDBPyConnection, source: str, columns: Sequence[str]
) -> tuple[list[tuple[int, int, float, float, float]], str]:
    """Of each column, the finite values' number, how many are infinite, least, greatest and mean.

    Also the filter that aggregates of these columns take: none, if every value is finite. Filtering is dear, so it is
    left out at first and done only where a column turns out to need it.
    """
    plain = "count({x}), 0, min({x}), max({x}), avg({x})"
    kept = "count({x}) {f}, count({x}) filter (where isinf({x})), min({x}) {f}, max({x}) {f}, avg({x}) {f}"
    for template, keep in ((plain, ""), (kept, _FINITE)):
        parts = []
        for c in columns:
            x = f"{name(c)}::double"
            parts.append(template.format(x=x, f=keep.format(x=x)))
        flat = connection.sql(f"select {', '.join(parts)} from {source}").fetchall()[0]
        found = [tuple(flat[i : i + 5]) for i in range(0, len(flat), 5)]
        if all(low is None or (np.isfinite(low) and np.isfinite(high)) for _, _, low, high, _ in found):
            break
    return found, keep


def _skewness(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    columns: Sequence[str],
    means: Sequence[float | None],
    keep: str,
) -> list[float]:
    """Third central moment over the cube of the population's standard deviation; NaN without a finite value."""
    powers = []
    for column, mean in zip(columns, means, strict=True):
        x = f"{name(column)}::double"
        d, kept = f"({x} - {number(mean or 0.0)})", keep.format(x=x)
        powers.append(f"avg({d} * {d}) {kept}, avg({d} * {d} * {d}) {kept}")
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
    connection: duckdb.DuckDBPyConnection, source: str, column: FeatureProfile, counted: Counted
) -> FeatureProfile:
    """The column with the edges of PSI's cells: each holds about a tenth of the reference."""
    if column.grid is None or column.reason:
        return column
    if column.by_value:
        total = np.cumsum(counted.counts)
        tenths = np.searchsorted(total, np.arange(1, PSI_CELLS) * total[-1] / PSI_CELLS)
        psi = {float(counted.at[i]) for i in tenths if i > 0}
    else:
        counts = np.zeros(len(column.grid.edges) - 1)
        counts[counted.at] = counted.counts
        light, heavy = decile_edges(column.grid.edges, counts)
        shares = sorted(share for inside in heavy.values() for share in inside)
        psi = {*light, *(_quantiles(connection, source, column.name, shares) if shares else ())}
        psi.discard(column.grid.low)
    return replace(column, grid=replace(column.grid, psi=tuple(sorted(psi))))


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
    connection: duckdb.DuckDBPyConnection, source: str, column: FeatureProfile
) -> FeatureProfile:
    value = name(column.name)
    found = connection.sql(
        f"select distinct v::varchar from (select distinct {value} v from {source} where {value} is not null)"
    ).fetchall()
    reason = None if found else "the reference holds no value: all are missing"
    return replace(column, categories=tuple(sorted(v for (v,) in found)), reason=reason)
