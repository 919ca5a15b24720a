"""SQL that counts one column, or the scores, in a profile's cells: what ``stores.pushdown`` puts together.

A number's cell is found by arithmetic, ``floor((x − low) / width)``, which may miss by one where x lies within a
rounding error of an edge. So each cell's least and greatest value are asked for as well and held against the
edges: a certificate that costs little. Where it fails, the column is counted again with both edges compared row by
row. The counts are those of ``numpy.histogram`` either way.
"""

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
        whole = parts[0].group_by("k", *cells).agg(pl.col(sums).sum(), *spans)
        kept = [c for c in whole.columns if c in counted.columns]
        whole = whole.select(*kept, pl.lit(ALL).alias("segment"))
        return pl.concat([whole, *(p.select(whole.columns) for p in parts)])


def count_number(
    connection: duckdb.DuckDBPyConnection, source: str, column: FeatureProfile, slices: Slices
) -> pl.DataFrame:
    """Rows of a number by cell of its grid.

    Returns:
        ``k``, ``segment``; ``at``: a cell of ``Grid.edges``, −1 below the first, their number above the last, or
        one of the codes for missing and infinite (Int32); ``n``; ``low`` and ``high`` of these rows' values, and
        ``gap``: how far they lie outside the reference's range, summed up.

    Raises:
        RuntimeError: the database put a value into a cell that does not hold it; that is an error of this module.
    """
    for exact in (False, True):
        counted = connection.sql(_number_query(source, column, slices, exact)).pl()
        cells = _cells(counted, column)
        if cells is not None:
            placed = counted.with_columns(pl.Series("at", cells, dtype=pl.Int32)).drop("f", "c", "d")
            return slices.labelled(placed, ["at"], ["n", "gap"])
    raise RuntimeError(f"{column.name}: the database put values into cells that do not hold them")


def _number_query(source: str, column: FeatureProfile, slices: Slices, exact: bool) -> str:
    grid = column.grid
    low, high = (0.0, 0.0) if grid is None else (grid.low, grid.high)
    if grid is None or column.is_constant:
        beside = f"(x > {number(high)})::integer - (x < {number(low)})::integer" if grid else "0"
        fine, coarse, decile = _or_code(beside), "0", "0"
    else:
        fine, coarse = _cell(grid, grid.fine, exact), _cell(grid, grid.coarse, exact)
        fine = _or_code(fine) if exact else fine
        decile = " + ".join(f"(x >= {number(s)})::integer" for s in grid.splits) or "0"
    return f"""
        select {slices.columns}, f, c, d, count(*) n, min(x) low, max(x) high,
            sum(greatest({number(low)} - x, x - {number(high)})) gap
        from (select * exclude (x), x, {fine} f, {coarse} c, {decile} d
              from (select {slices.select}, {name(column.name)}::double x from {source}))
        group by {slices.group_by("f", "c", "d")}"""


def _cell(grid: Grid, cells: int, exact: bool) -> str:
    """The cell of ``x`` among ``cells`` equal ones: −1 below, ``cells`` above; null for null."""
    low, high, width = number(grid.low), number(grid.high), number((grid.high - grid.low) / cells)
    place = f"floor((x - {low}) / {width})"
    if not exact:
        return f"least(greatest({place}, -1e0), {cells - 1}e0)::integer + (x > {high})::integer"
    near = f"least(greatest({place}, 0e0), {cells - 1}e0)"
    down = f"(x < {near} * {width} + {low})::integer"
    up = f"({near} < {cells - 1} and x >= ({near} + 1e0) * {width} + {low})::integer"
    return (
        f"case when x < {low} then -1 when x > {high} then {cells} else {near}::integer - {down} + {up} end"
    )


def _or_code(cell: str) -> str:
    """``cell`` for finite values, the codes for NaN and infinities, null for null."""
    return f"""case when isfinite(x) then {cell} when isnan(x) then {MISSING} when isinf(x) then {INFINITE} end"""


def _cells(counted: pl.DataFrame, column: FeatureProfile) -> np.ndarray | None:
    """Each row's cell, or code; ``None`` if a value lies beside the cell it was counted in."""
    f = counted["f"].fill_null(MISSING).to_numpy().astype(np.int64)
    grid = column.grid
    if grid is None or column.is_constant:
        return f
    c, d = (counted[k].fill_null(0).to_numpy().astype(np.int64) for k in ("c", "d"))
    low, high = (counted[k].fill_null(0).to_numpy() for k in ("low", "high"))
    counts = f >= -1
    if not (_held(f, low, high, grid.fine_edges) | ~counts).all():
        return None
    if not (_held(c, low, high, grid.coarse_edges) | ~counts).all():
        return None
    inside = counts & (f >= 0) & (f < grid.fine)
    splits = np.concatenate([[-np.inf], grid.splits])
    edge = np.maximum.reduce([grid.fine_edges[f[inside]], grid.coarse_edges[c[inside]], splits[d[inside]]])
    cells = np.where(f == grid.fine, len(grid.edges) - 1, f)
    cells[inside] = np.searchsorted(grid.edges, edge, side="right") - 1
    return cells


def _held(cell: np.ndarray, low: np.ndarray, high: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Whether values from ``low`` to ``high`` lie in their cell; of upper edges, only the last belongs to one."""
    last = len(edges) - 2
    at = np.clip(cell, 0, last)
    within = (low >= edges[at]) & ((high < edges[at + 1]) | ((at == last) & (high <= edges[-1])))
    below = np.isfinite(low) & (high < edges[0])
    above = np.isfinite(high) & (low > edges[-1])
    return np.where(cell < 0, below, np.where(cell > last, above, within))


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
    columns = {"g": buckets.astype(np.int32), "start": (buckets + below).astype(np.int32)}
    frame = pl.DataFrame(columns | {f"x{i}": k for i, k in enumerate(knots)})
    connection.register("selfheal_incoming", frame.to_arrow())
    try:
        connection.execute(f"create or replace temp table {BUCKETS_TABLE} as from selfheal_incoming")
    finally:
        connection.unregister("selfheal_incoming")
    return most
