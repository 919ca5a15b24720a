"""Counts of a small source, of rows fetched once: what ``cell_counts`` asks of a large one in SQL.

A query that groups has its price, and some ten thousand rows of one chunk lie in nearly as many cells, so that
counting there costs several times what fetching the rows does. The cells, and so the counts, are the same.
"""

from collections.abc import Mapping

import duckdb
import numpy as np
import polars as pl

from selfheal_assets.core.profile import PREDICTION, SCORE, FeatureProfile, Profile
from selfheal_assets.core.score_cells import ScoreCells
from selfheal_assets.core.score_groups import LOG_MARGIN
from selfheal_assets.stores.cell_counts import ABOVE, BELOW, INFINITE, WITHIN, ends, placed
from selfheal_assets.stores.slices import Slices, name

_PARTS = 256  # values of a segment at most, as its code is a byte


class FetchedRows:
    """The rows of a small source, and how each is sliced.

    Args:
        connection: to the database that holds the rows.
        source: the rows; the caller has seen to it that they are few.
        profile: whose columns and cells.
        slices: how to divide the rows.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, source: str, profile: Profile, slices: Slices
    ) -> None:
        self._slices = slices
        self._place = {c.name: f"x{i}" for i, c in enumerate(profile.columns)}
        chosen = [
            f"{name(c.name)}::{'double' if c.numeric else 'varchar'} {self._place[c.name]}"
            for c in profile.columns
        ]
        if profile.score_cells:
            chosen += [f"{name(SCORE)}::double score", f"{name(PREDICTION)}::integer = 1 flagged"]
        self._rows = connection.sql(f"select {', '.join([slices.select, *chosen])} from {source}").pl()
        self._chunk = np.zeros(self._rows.height, dtype=np.int64)
        if self._slices.is_keyed:
            chunks = self._rows["k"].cast(pl.String)
            known = pl.Enum(chunks.drop_nulls().unique())
            self._chunk = chunks.cast(known).to_physical().cast(pl.Int64).fill_null(-1).to_numpy() + 1

    def rows(self) -> pl.DataFrame:
        """See ``cell_counts.count_rows``."""
        return self._slices.labelled(self._counted(), [], ["n"])

    def number(self, column: FeatureProfile) -> pl.DataFrame:
        """See ``cell_counts.count_number``."""
        kept, x = self._known(column)
        order = np.argsort(x)  # in order, cells are found several times as fast
        kept, x, grid, (low, high) = kept[order], x[order], column.grid, ends(column)
        at, gap, last = np.zeros(len(x), dtype=np.int64), np.zeros(len(x)), 1
        if grid is not None and not column.is_constant:
            last = len(grid.edges) - 1
            at = np.minimum(np.searchsorted(grid.edges, x, side="right") - 1, last - 1)
        finite, below = np.searchsorted(x, -np.inf, side="right"), np.searchsorted(x, low)
        above, infinite = np.searchsorted(x, high, side="right"), np.searchsorted(x, np.inf)
        at[:below], gap[finite:below] = -1, low - x[finite:below]
        at[above:], gap[above:infinite] = last, x[above:infinite] - high
        at[:finite] = at[infinite:] = last + 1
        at, counted = self._grouped(kept, at + 1, "n", {"gap": gap}, x)
        at -= 1
        place = np.select([at == -1, at == last, at > last], [BELOW, ABOVE, INFINITE], WITHIN)
        cells = [pl.Series("place", place, pl.Int32), pl.Series("at", at, pl.Int32)]
        return self._slices.labelled(counted.hstack(cells), ["place", "at"], ["n", "gap"])

    def values(self, column: FeatureProfile) -> pl.DataFrame:
        """See ``cell_counts.count_values``."""
        at = pl.col(self._place[column.name]).alias("at")
        return placed(self._counted(at), column, self._slices)

    def scores(self, cells: ScoreCells) -> pl.DataFrame:
        """See ``cell_counts.count_scores``."""
        score, flagged = self._rows["score"], self._rows["flagged"]
        kept = np.flatnonzero(score.is_finite().fill_null(False) & flagged.is_not_null())
        s, positive = score.to_numpy()[kept], flagged.fill_null(False).to_numpy()[kept]
        sums = {
            "score_sum": s,
            "score_square_sum": s * s,
            "log_score_sum": np.log(np.maximum(s, LOG_MARGIN)),
            "log_complement_sum": np.log(np.maximum(1 - s, LOG_MARGIN)),
        }
        at, counted = self._grouped(kept, 2 * cells.of(s) + positive, "rows", sums)
        where = [pl.Series("cell", at // 2, pl.Int32), pl.Series("flagged", at % 2 == 1)]
        return self._slices.labelled(counted.hstack(where), ["cell", "flagged"], ["rows", *sums])

    def _counted(self, *at: pl.Expr) -> pl.DataFrame:
        """Rows ``n`` by slice, and by ``at`` if given."""
        parts = []
        for cut in self._slices.cuts:
            by = [pl.col("k"), *([pl.col(cut)] if cut else []), *at]
            parts.append(self._rows.group_by(by).agg(pl.len().cast(pl.Int64).alias("n")))
        return pl.concat(parts, how="diagonal") if len(parts) > 1 else parts[0]

    def _known(self, column: FeatureProfile) -> tuple[np.ndarray, np.ndarray]:
        """Which rows have a value of a number that is not NaN, and these values."""
        x = self._rows[self._place[column.name]].to_numpy()
        kept = np.flatnonzero(~np.isnan(x))
        return kept, x[kept]

    def _grouped(
        self,
        kept: np.ndarray,
        codes: np.ndarray,
        rows: str,
        sums: Mapping[str, np.ndarray],
        ascending: np.ndarray | None = None,
    ) -> tuple[np.ndarray, pl.DataFrame]:
        """The kept rows by slice and by a code of theirs.

        Returns:
            The code of each row of the second: slice, number of ``rows``, ``sums``; ``low`` and ``high`` of what is
            given as ``ascending``.
        """
        found, parts = [], []
        for cut in self._slices.cuts:
            part = self._chunk[kept] * _PARTS + self._rows[cut].to_numpy()[kept] if cut else self._chunk[kept]
            size = int(codes.max(initial=0)) + 1
            key = part * size + codes
            order = slice(None)
            if (key[1:] < key[:-1]).any():
                order = np.argsort(key, kind="stable")
                key = key[order]
            starts = np.flatnonzero(np.append(np.ones(min(len(key), 1), dtype=bool), key[1:] != key[:-1]))
            ends = np.append(starts[1:], len(key))[: len(starts)]
            counted = {rows: ends - starts}
            if ascending is not None:
                inside = ascending[order]
                counted |= {"low": inside[starts], "high": inside[ends - 1]}
            counted |= {c: np.add.reduceat(v[order], starts) for c, v in sums.items()}
            parts.append(self._sliced(kept[order][starts], cut).hstack(pl.DataFrame(counted)))
            found.append(key[starts] % size)
        return np.concatenate(found), pl.concat(parts)

    def _sliced(self, rows: np.ndarray, cut: str | None) -> pl.DataFrame:
        """How these rows are sliced by one cut; by the others they are not."""
        columns = []
        for n in self._slices.names:
            whole = self._rows[n]
            known = n == cut or (n == "k" and self._slices.is_keyed)
            nothing = pl.Series(n, [None], dtype=whole.dtype)
            columns.append(whole.gather(rows) if known else nothing.new_from_index(0, len(rows)))
        return pl.DataFrame(columns)
