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

from selfheal_assets.core.chunk_statistics import ALL
from selfheal_assets.core.evaluation import band_names
from selfheal_assets.core.grid import Grid
from selfheal_assets.core.profile import PREDICTION, SCORE, FeatureProfile, Profile
from selfheal_assets.core.score_cells import SCORE_BUCKETS, ScoreCells
from selfheal_assets.core.spec import Segment

BUCKETS_TABLE = "selfheal_score_buckets"
MISSING, INFINITE = -3, -2  # beside −1, below the range, and 0 …, the cells
_MARGIN = 1e-12  # keeps a logarithm finite, as in core.expected


def number(value: float) -> str:
    """A DOUBLE literal: a plain decimal would be a DECIMAL, and a bare minus could start a comment."""
    text = repr(float(value))
    return f"({text if 'e' in text else text + 'e0'})"


def name(column: str) -> str:
    """A quoted identifier."""
    return '"' + column.replace('"', '""') + '"'


def text(value: str) -> str:
    """A quoted string."""
    return "'" + value.replace("'", "''") + "'"


def segment_value(feature: str, cuts: Sequence[float] | None) -> str:
    """A row's segment value as ``core.evaluation.segment_of`` has it."""
    if not cuts:
        return f"coalesce({name(feature)}::varchar, 'missing')"
    x = f"{name(feature)}::double"
    bands = band_names(cuts)
    below = " ".join(f"when {x} < {number(c)} then {text(b)}" for c, b in zip(cuts, bands, strict=False))
    return f"case when {x} is null or isnan({x}) then 'missing' {below} else {text(bands[-1])} end"


def segment_counts(connection: duckdb.DuckDBPyConnection, source: str, segment: Segment) -> dict[str, int]:
    """Rows by value of a segment."""
    value = segment_value(segment.feature, segment.cuts)
    return dict(connection.sql(f"select {value}, count(*) from {source} group by 1").fetchall())


class Slices:
    """How a query's rows are divided: by chunk, and by each way to cut the population, within one scan.

    Args:
        profile: whose segments.
        key: SQL expression whose value is a row's chunk; ``None`` takes all rows as one chunk.
    """

    def __init__(self, profile: Profile, key: str | None) -> None:
        self._segments = profile.segments
        codes = []
        for i, s in enumerate(profile.segments):
            cases = " ".join(f"when {text(v)} then {n}" for n, v in enumerate(s.values))
            value = segment_value(s.feature, s.cuts)
            pool = len(s.values)
            codes.append(
                (f"(case {value} {cases} else {pool} end)" if cases else f"{pool}") + f"::utinyint s{i}"
            )
        self.select = ", ".join([f"{key if key is not None else 'null::integer'} k", *codes])

    def group_by(self, *cells: str) -> str:
        """The clause: one grouping set per way to cut."""
        if not self._segments:
            return ", ".join(["k", *cells])
        sets = (", ".join(["k", f"s{i}", *cells]) for i in range(len(self._segments)))
        return f"grouping sets ({', '.join(f'({s})' for s in sets)})"

    @property
    def columns(self) -> str:
        """What a query that groups selects."""
        return ", ".join(["k", *(f"s{i}" for i in range(len(self._segments)))])

    def labelled(self, counted: pl.DataFrame, cells: list[str], sums: list[str]) -> pl.DataFrame:
        """Counted rows with ``segment``; those of ``all`` are the first cut's, added up.

        ``low`` and ``high`` are spanned, ``sums`` are added.
        """
        if not self._segments:
            return counted.with_columns(pl.lit(ALL).alias("segment"))
        parts = []
        for i, s in enumerate(self._segments):
            codes = counted.filter(pl.col(f"s{i}").is_not_null())
            labels = pl.Series(s.labels)
            parts.append(codes.with_columns(segment=labels.gather(codes[f"s{i}"])))
        spans = [e for c, e in (("low", pl.col("low").min()), ("high", pl.col("high").max())) if c in counted]
        whole = parts[0].group_by("k", *cells, maintain_order=True).agg(pl.col(sums).sum(), *spans)
        kept = [c for c in whole.columns if c in counted.columns]
        whole = whole.select(*kept, pl.lit(ALL).alias("segment"))
        return pl.concat([whole, *(p.select(whole.columns) for p in parts)])


def count_rows(connection: duckdb.DuckDBPyConnection, source: str, slices: Slices) -> pl.DataFrame:
    """All rows, with or without a value: ``k``, ``segment``, ``n``."""
    rows = f"select {slices.select} from {source}"
    query = f"select {slices.columns}, count(*) n from ({rows}) group by {slices.group_by()}"
    counted = connection.sql(query).pl()
    return slices.labelled(counted, [], ["n"])


def count_number(
    connection: duckdb.DuckDBPyConnection, source: str, column: FeatureProfile, slices: Slices
) -> pl.DataFrame:
    """Rows of a number by cell of its grid; null is not counted.

    Returns:
        ``k``, ``segment``; ``at``: a cell of ``Grid.edges``, −1 below the first, their number above the last, or
        one of the codes for NaN and infinite (Int32); ``n``; ``low`` and ``high`` of these rows' values, and ``gap``:
        how far they lie outside the reference's range, summed up.

    Raises:
        RuntimeError: the database put a value into a cell that does not hold it; that is an error of this module.
    """
    for exact in (False, True):
        counted = connection.sql(_inside_query(source, column, slices, exact)).pl()
        cells = _cells(counted, column)
        if cells is not None:
            break
    else:
        raise RuntimeError(f"{column.name}: the database put values into cells that do not hold them")
    inside = counted.with_columns(pl.Series("at", cells, dtype=pl.Int32), pl.lit(0.0).alias("gap"))
    inside = _merged(inside.drop("f", "c", "d"))
    outside = connection.sql(_outside_query(source, column, slices)).pl()
    return slices.labelled(pl.concat([inside, outside.select(inside.columns)]), ["at"], ["n", "gap"])


def _merged(counted: pl.DataFrame) -> pl.DataFrame:
    """One row per cell, where the reference's greatest value was counted apart from its neighbours."""
    cells = [c for c in counted.columns if c not in ("n", "low", "high", "gap")]
    last = pl.col("at") == pl.col("at").max()
    sums = (
        counted.filter(last)
        .group_by(cells)
        .agg(pl.col("n", "gap").sum(), pl.col("low").min(), pl.col("high").max())
    )
    return pl.concat([counted.filter(~last), sums.select(counted.columns)])


def _range(column: FeatureProfile) -> tuple[str, str]:
    """The reference's range as literals; every finite number, where the reference has none."""
    if column.grid is None:
        return number(-sys.float_info.max), number(sys.float_info.max)
    return number(column.grid.low), number(column.grid.high)


def _inside_query(source: str, column: FeatureProfile, slices: Slices, exact: bool) -> str:
    low, high = _range(column)
    grid = column.grid
    cells, decile = ["0e0", "0e0"], "0"
    if grid is not None and not column.is_constant:
        cells = [_cell(grid, n, exact) for n in (grid.fine, grid.coarse)]
        decile = " + ".join(f"(x >= {number(s)})::integer" for s in grid.splits) or "0"
    return f"""
        select {slices.columns}, f, c, d, count(*) n, min(x) low, max(x) high
        from (select * exclude (x), x, {cells[0]} f, {cells[1]} c, {decile} d
              from (select {slices.select}, {name(column.name)}::double x from {source})
              where x between {low} and {high})
        group by {slices.group_by("f", "c", "d")}"""


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
    low, high = _range(column)
    above = 1 if column.grid is None or column.is_constant else len(column.grid.edges) - 1
    return f"""
        select {slices.columns}, "at", count(*) n, min(x) low, max(x) high, sum(greatest({low} - x, x - {high})) gap
        from (select *, case when isnan(x) then {MISSING} when isinf(x) then {INFINITE}
                  when x < {low} then -1 else {above} end::integer "at"
              from (select {slices.select}, {name(column.name)}::double x from {source})
              where x < {low} or x > {high})
        group by {slices.group_by('"at"')}"""


def _cells(counted: pl.DataFrame, column: FeatureProfile) -> np.ndarray | None:
    """Each row's cell; ``None`` if a value lies beside the cell it was counted in."""
    f, c, d = (counted[k].to_numpy().astype(np.int64) for k in ("f", "c", "d"))
    grid = column.grid
    if grid is None or column.is_constant:
        return f
    low, high = counted["low"].to_numpy(), counted["high"].to_numpy()
    # The greatest value of the reference closes the last cell; by arithmetic it may begin another.
    f, c = (np.where(low == grid.high, n - 1, cell) for n, cell in ((grid.fine, f), (grid.coarse, c)))
    if not _held(f, low, high, grid.fine_edges) or not _held(c, low, high, grid.coarse_edges):
        return None
    splits = np.concatenate([[-np.inf], grid.splits])
    edge = np.maximum.reduce([grid.fine_edges[f], grid.coarse_edges[c], splits[d]])
    return np.searchsorted(grid.edges, edge, side="right") - 1


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
    """Rows of a column by value: ``k``, ``segment``, ``at`` (f64 or String, null for missing), ``n``."""
    kind = "double" if column.numeric else "varchar"
    counted = connection.sql(
        f"""select {slices.columns}, "at", count(*) n
            from (select {slices.select}, {name(column.name)}::{kind} "at" from {source})
            group by {slices.group_by('"at"')}"""
    ).pl()
    return slices.labelled(counted, ["at"], ["n"])


def count_scores(
    connection: duckdb.DuckDBPyConnection, source: str, cells: ScoreCells, slices: Slices
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
    counted = connection.sql(
        f"""select {slices.columns}, cell, flagged, count(*) "rows", sum(s) score_sum, sum(s * s) score_square_sum,
                sum(ln(least(greatest(s, {number(_MARGIN)}), {number(1 - _MARGIN)}))) log_score_sum,
                sum(ln(least(greatest(1e0 - s, {number(_MARGIN)}), {number(1 - _MARGIN)}))) log_complement_sum
            from (select r.* exclude (s), s, start{above} as cell
                  from (select *, {bucket} g
                        from (select {slices.select}, {name(SCORE)}::double s,
                                  {name(PREDICTION)}::integer = 1 flagged from {source})
                        where isfinite(s) and flagged is not null) r
                  join {BUCKETS_TABLE} using (g))
            group by {slices.group_by("cell", "flagged")}"""
    ).pl()
    return slices.labelled(counted, ["cell", "flagged"], sums)


def _make_buckets(connection: duckdb.DuckDBPyConnection, cells: ScoreCells) -> int:
    """Table of the score's buckets: the first cell of each, and the knots in it as columns; returns how many."""
    bucket, below = cells.bucket_of_knots, cells.knots_below
    nth = np.arange(len(bucket)) - below[bucket]
    most = int(nth.max()) + 1
    knots = np.full((most, SCORE_BUCKETS), np.inf)
    knots[nth, bucket] = cells.knots
    buckets = np.arange(SCORE_BUCKETS)
    columns = {"g": buckets.astype(np.int32), "start": cells.first_cell.astype(np.int32)}
    frame = pl.DataFrame(columns | {f"x{i}": k for i, k in enumerate(knots)})
    connection.register("selfheal_incoming", frame.to_arrow())
    try:
        connection.execute(f"create or replace temp table {BUCKETS_TABLE} as from selfheal_incoming")
    finally:
        connection.unregister("selfheal_incoming")
    return most
