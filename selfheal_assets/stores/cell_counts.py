"""SQL that counts one column, or the scores, in a profile's cells: what ``stores.pushdown`` puts together.

A number's cell is found by arithmetic, ``floor((x − low) / width)``, which may miss by one where x lies within a
rounding error of an edge. So each cell's least and greatest value are asked for as well and held against the
edges: a certificate that costs little. Where it fails, the column is counted again with both edges compared row by
row. The counts are those of ``numpy.histogram`` either way.
"""

import sys
from collections.abc import Sequence

import duckdb
import numpy as np
import polars as pl

from selfheal_assets.core.grid import Grid
from selfheal_assets.core.profile import PREDICTION, SCORE, FeatureProfile, Profile
from selfheal_assets.core.score_cells import SCORE_BUCKETS, ScoreCells
from selfheal_assets.core.score_groups import LOG_MARGIN
from selfheal_assets.stores.slices import Slices, name, number

BUCKETS_TABLE = "selfheal_score_buckets"
_LOOK = 50_000
BELOW, WITHIN, ABOVE, MISSING, INFINITE = range(-1, 4)  # where a value lies


def count_rows(connection: duckdb.DuckDBPyConnection, source: str, slices: Slices) -> pl.DataFrame:
    """All rows, with or without a value: ``k``, ``segment``, ``n``."""
    rows = f"select {slices.select} from {source}"
    query = f"select {slices.columns}, count(*) n from ({rows}) group by {slices.group_by()}"
    counted = connection.sql(query).pl()
    return slices.labelled(counted, [], ["n"])


Extremes = dict[str, tuple[float | None, float | None]]


def extremes(
    connection: duckdb.DuckDBPyConnection, source: str, columns: Sequence[FeatureProfile]
) -> Extremes:
    """Least and greatest value of each number, NaN being the greatest: one scan spares most a second one."""
    if not columns:
        return {}
    ends = ", ".join(f"min({name(c.name)}::double), max({name(c.name)}::double)" for c in columns)
    found = connection.sql(f"select {ends} from {source}").fetchall()[0]
    return {c.name: pair for c, pair in zip(columns, zip(found[::2], found[1::2], strict=True), strict=True)}


def has_outside(column: FeatureProfile, found: Extremes) -> bool:
    """Whether a number has a value outside the reference's range, or NaN."""
    (low, high), (least, most) = ends(column), found[column.name]
    return least is not None and most is not None and not low <= least <= most <= high


_CELL_KEYS = ("together",)
_CELL_SUMS = "count(*) n, min(x) low, max(x) high"


def is_by_cell(column: FeatureProfile) -> bool:
    """Whether a column is counted in the cells of a grid; by value otherwise."""
    return column.numeric and not column.by_value


def count_number(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    column: FeatureProfile,
    slices: Slices,
    outside: bool,
) -> pl.DataFrame:
    """Rows of a number by cell of its grid; null is not counted.

    Args:
        connection: to the database.
        source: the rows.
        column: the number.
        slices: how to divide the rows.
        outside: whether there are values outside the reference's range, or NaN: :func:`has_outside`.

    Returns:
        ``k``, ``segment``; ``place``, one of this module's codes; ``at``, a cell of ``Grid.edges``, −1 below the
        first and their number above the last (Int32); ``n``; ``low`` and ``high`` of these rows' values, and
        ``gap``: how far they lie outside the reference's range, summed up.

    Raises:
        RuntimeError: the database put a value into a cell that does not hold it; that is an error of this module.
    """
    for exact in (False, True) if not _errs(connection, source, column) else (True,):
        inside = connection.sql(_inside_query(source, column, slices, exact)).pl()
        if (cells := _cells(inside, column)) is not None:
            break
    else:
        raise RuntimeError(f"{column.name}: the database put values into cells that do not hold them")
    within = [
        pl.Series("at", cells, dtype=pl.Int32),
        pl.Series("place", np.full(len(cells), WITHIN), dtype=pl.Int32),
        pl.Series("gap", np.zeros(len(cells))),
    ]
    kept = [*slices.names, "n", "low", "high"]
    parts = [pl.DataFrame([*(inside[c] for c in kept), *within])]
    if column.grid is not None and (inside["low"].to_numpy() == column.grid.high).any():
        parts = [_merged(parts[0], [*slices.names, "place", "at"])]
    if outside:
        parts.append(connection.sql(_outside_query(source, column, slices)).pl().select(parts[0].columns))
    return slices.labelled(pl.concat(parts), ["place", "at"], ["n", "gap"])


def _errs(connection: duckdb.DuckDBPyConnection, source: str, column: FeatureProfile) -> bool:
    """Whether arithmetic errs among the first rows: whole numbers, for instance, lie on edges again and again."""
    first = f"(select {name(column.name)} from {source} limit {_LOOK})"
    query = _inside_query(first, column, Slices(Profile(()), None))
    return _cells(connection.sql(query).pl(), column) is None


def _merged(counted: pl.DataFrame, cells: list[str]) -> pl.DataFrame:
    """One row per cell, where arithmetic has counted the reference's greatest value apart from its neighbours."""
    sums = [pl.col("n", "gap").sum(), pl.col("low").min(), pl.col("high").max()]
    return counted.group_by(cells).agg(sums).select(counted.columns)


def ends(column: FeatureProfile) -> tuple[float, float]:
    """The reference's range; every finite number, where the reference has none."""
    if column.grid is None:
        return -sys.float_info.max, sys.float_info.max
    return column.grid.low, column.grid.high


def _inside_query(source: str, column: FeatureProfile, slices: Slices, exact: bool = False) -> str:
    rows = _cell_rows(source, column, slices, exact)
    return f"""select {slices.columns}, {", ".join(_CELL_KEYS)}, {_CELL_SUMS} from ({rows})
        group by {slices.group_by(*_CELL_KEYS)}"""


def _cell_rows(source: str, column: FeatureProfile, slices: Slices, exact: bool = False) -> str:
    """Rows within the range, with their cell of the fine and of the coarse edges, and how many splits lie below.

    The three are one number, ``together``, which :func:`_apart` takes apart: two keys less to group by take a fifth
    less time. As whole numbers below 2⁵³ they lose nothing as a DOUBLE.
    """
    low, high = (number(end) for end in ends(column))
    grid, together = column.grid, "0e0"
    if grid is not None and not column.is_constant:
        fine, coarse = (_cell(grid, n, exact) for n in (grid.fine, grid.coarse))
        below = "".join(f" + (x >= {number(s)})::double" for s in grid.splits)
        together = (
            f"(({fine}) * {number(grid.coarse + 1)} + {coarse}) * {number(len(grid.splits) + 1)}{below}"
        )
    return f"""
        select {slices.columns}, x, {together} together
        from (select {slices.select}, {name(column.name)}::double x from {source})
        where x between {low} and {high}"""


def _apart(together: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fine cell, coarse cell and splits below, of the number that :func:`_cell_rows` makes of them."""
    rest, below = np.divmod(together.astype(np.int64), len(grid.splits) + 1)
    fine, coarse = np.divmod(rest, grid.coarse + 1)
    return fine, coarse, below


def _cell(grid: Grid, cells: int, exact: bool) -> str:
    """The cell of ``x``, within the range, among ``cells`` equal ones, as a DOUBLE."""
    low, width = number(grid.low), number((grid.high - grid.low) / cells)
    place = f"floor((x - {low}) / {width})"
    if not exact:
        return place
    near = f"least(greatest({place}, 0e0), {cells - 1}e0)"
    down = f"(x < {near} * {width} + {low})::integer"
    up = f"({near} < {cells - 1} and x >= ({near} + 1e0) * {width} + {low})::integer"
    return f"{near} - {down} + {up}"


def _outside_query(source: str, column: FeatureProfile, slices: Slices) -> str:
    low, high = (number(end) for end in ends(column))
    above = 1 if column.grid is None or column.is_constant else len(column.grid.edges) - 1
    return f"""
        select {slices.columns}, place, case place when {BELOW} then -1 else {above} end::integer "at",
            count(*) n, min(x) low, max(x) high, sum(greatest({low} - x, x - {high})) gap
        from (select *, case when isnan(x) then {MISSING} when isinf(x) then {INFINITE}
                  when x < {low} then {BELOW} else {ABOVE} end::integer place
              from (select {slices.select}, {name(column.name)}::double x from {source})
              where x < {low} or x > {high})
        group by {slices.group_by("place")}"""


def _cells(counted: pl.DataFrame, column: FeatureProfile) -> np.ndarray | None:
    """Each row's cell; ``None`` if a value lies beside the cell it was counted in."""
    grid = column.grid
    if grid is None or column.is_constant:
        return np.zeros(counted.height, dtype=np.int64)
    f, c, d = _apart(counted["together"].to_numpy(), grid)
    low, high = counted["low"].to_numpy(), counted["high"].to_numpy()
    # The greatest value of the reference closes the last cell; by arithmetic it may begin another.
    f, c = (np.where(low == grid.high, n - 1, cell) for n, cell in ((grid.fine, f), (grid.coarse, c)))
    if not _held(f, low, high, grid.fine_edges) or not _held(c, low, high, grid.coarse_edges):
        return None
    splits = np.concatenate([[-np.inf], grid.splits])
    edge = np.maximum.reduce([grid.fine_edges[f], grid.coarse_edges[c], splits[d]])
    return grid.cell_from(edge, f)


def _held(cell: np.ndarray, low: np.ndarray, high: np.ndarray, edges: np.ndarray) -> bool:
    """Whether values from ``low`` to ``high`` lie in their cells; of upper edges, only the last belongs to one."""
    last = len(edges) - 2
    if not len(cell):
        return True
    if cell.min() < 0 or cell.max() > last:
        return False
    upper = np.where(cell == last, np.inf, edges[1:][cell])
    return bool(np.all((low >= edges[cell]) & (high < upper)))


def count_values(
    connection: duckdb.DuckDBPyConnection, source: str, column: FeatureProfile, slices: Slices
) -> pl.DataFrame:
    """Rows of a column by value, null included; columns as of :func:`count_number`, ``at`` being f64 or String."""
    return placed(connection.sql(_values_query(source, column, slices)).pl(), column, slices)


def placed(counted: pl.DataFrame, column: FeatureProfile, slices: Slices) -> pl.DataFrame:
    """Rows ``n`` by value ``at`` and slice, with where each value lies, as :func:`count_values` returns them."""
    at, n, grid = pl.col("at"), pl.col("n"), column.grid
    if not column.numeric or grid is None:
        place = pl.when(at.is_null()).then(MISSING).otherwise(WITHIN)
        blank = pl.lit(None, pl.Float64)
        known = counted.with_columns(place=place, low=blank, high=blank, gap=blank)
    else:
        place = pl.when(at.is_null() | at.is_nan()).then(MISSING).when(at.is_infinite()).then(INFINITE)
        place = place.when(at < grid.low).then(BELOW).when(at > grid.high).then(ABOVE).otherwise(WITHIN)
        gap = pl.max_horizontal(grid.low - at, at - grid.high) * n
        known = counted.with_columns(place=place, low=at, high=at, gap=gap)
    return slices.labelled(known, ["place", "at"], ["n", "gap"])


def _values_query(source: str, column: FeatureProfile, slices: Slices) -> str:
    kind = "double" if column.numeric else "varchar"  # converted once a value, not once a row
    return f"""select {slices.columns}, v::{kind} "at", count(*) n
        from (select {slices.select}, {name(column.name)} v from {source})
        group by {slices.group_by("v")}"""


def count_scores(
    connection: duckdb.DuckDBPyConnection, source: str, cells: ScoreCells, slices: Slices, found: Extremes
) -> pl.DataFrame:
    """Rows by cell of the score: ``k``, ``segment``, ``cell``, ``flagged``, ``rows`` and the sums.

    Left out: scores that are missing or not finite, and rows without a prediction. The columns ``probability`` and
    ``prediction`` count those.
    """
    most = _make_buckets(connection, cells)
    low, per_unit = number(cells.low), number(cells.per_unit)
    bucket = f"least(greatest(floor((s - {low}) * {per_unit}), 0e0), {SCORE_BUCKETS - 1}e0)::integer"
    above = "".join(f" + (s > x{i})::integer" for i in range(most))
    sums = ["rows", "score_sum", "score_square_sum", "log_score_sum", "log_complement_sum"]
    logarithms = _logarithms(*found[SCORE])
    counted = connection.sql(
        f"""select {slices.columns}, together // 2 as cell, together % 2 = 1 as flagged,
                count(*) "rows", sum(s) score_sum, sum(s * s) score_square_sum,
                sum({logarithms[0]}) log_score_sum, sum({logarithms[1]}) log_complement_sum
            from (select r.* exclude (s, flagged), s, 2 * (start{above}) + flagged::integer as together
                  from (select *, {bucket} g
                        from (select {slices.select}, {name(SCORE)}::double s,
                                  {name(PREDICTION)}::integer = 1 flagged from {source})
                        where isfinite(s) and flagged is not null) r
                  join {BUCKETS_TABLE} using (g))
            group by {slices.group_by("together")}"""
    ).pl()
    return slices.labelled(counted, ["cell", "flagged"], sums)


def _logarithms(least: float | None, most: float | None) -> tuple[str, str]:
    """Logarithms of a score and its complement as SQL, kept from zero only where a score comes near: that is dear."""
    if least is not None and most is not None and least >= LOG_MARGIN and most <= 1 - LOG_MARGIN:
        return "ln(s)", "ln(1e0 - s)"
    margin = number(LOG_MARGIN)
    return f"ln(greatest(s, {margin}))", f"ln(greatest(1e0 - s, {margin}))"


def _make_buckets(connection: duckdb.DuckDBPyConnection, cells: ScoreCells) -> int:
    """Table of the score's buckets: the first cell of each, and the knots in it as columns; returns how many."""
    knots, buckets = cells.knots_in_bucket, np.arange(SCORE_BUCKETS)
    columns = {"g": buckets.astype(np.int32), "start": cells.first_cell.astype(np.int32)}
    frame = pl.DataFrame(columns | {f"x{i}": k for i, k in enumerate(knots)})
    connection.register("selfheal_incoming", frame.to_arrow())
    try:
        connection.execute(f"create or replace temp table {BUCKETS_TABLE} as from selfheal_incoming")
    finally:
        connection.unregister("selfheal_incoming")
    return len(knots)
