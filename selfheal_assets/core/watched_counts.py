"""From the push-down engine's statistics of chunks to the counts that the drift alarms watch.

A number is watched on the cells of PSI, about tenths of its reference, open at both ends; a category on its values.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl

from selfheal_assets.core.cell_counts import MISSING, OWN, UNSEEN, apart
from selfheal_assets.core.chunk_statistics import ALL, ChunkStatistics
from selfheal_assets.core.column_drift import Counted, by_column
from selfheal_assets.core.profile import FeatureProfile, Profile

HISTORY_SCHEMA = {"chunk": pl.String, "feature": pl.String, "cell": pl.String, "rows": pl.Int64}
REFERENCE_SCHEMA = {"feature": pl.String, "cell": pl.String, "rows": pl.Int64, "position": pl.Float64}


def watched_reference(profile: Profile) -> pl.DataFrame:
    """The reference's counts of every column (features, score, prediction), as ``drift_state.begin`` takes them.

    ``position`` of a number's cell is its middle, the reference's least and greatest value being its outer edges.
    """
    rows: list[tuple[Any, ...]] = []
    for _, column, found in _columns(profile, profile.reference):
        counts = dict.fromkeys(_places(column), 0) | _by_cell(column, found)
        rows += [(column.name, cell, n, _places(column).get(cell)) for cell, n in counts.items()]
    return pl.DataFrame(rows, schema=REFERENCE_SCHEMA, orient="row")


def watched_history(profile: Profile, statistics: ChunkStatistics) -> pl.DataFrame:
    """Counts of chunks, as ``drift_state.folded`` takes them: chunks in the order of the statistics."""
    rows = [
        (chunk, column.name, cell, n)
        for chunk, column, found in _columns(profile, statistics)
        for cell, n in _by_cell(column, found).items()
    ]
    return pl.DataFrame(rows, schema=HISTORY_SCHEMA, orient="row")


def watched_cells(profile: Profile, rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """The cell of each row in each of these columns, as :func:`watched_history` names them."""
    columns = {c.name: c for c in profile.columns}
    return pl.DataFrame(
        {n: _cell_of_rows(columns[n], rows[n]) for n in names}, schema=dict.fromkeys(names, pl.String)
    )


def _cell_of_rows(column: FeatureProfile, values: pl.Series) -> pl.Series:
    if not column.numeric:
        text = values.cast(pl.String)
        named = {value: apart(value, OWN) for value in text.drop_nulls().unique()}
        return text.replace(named).fill_null(MISSING)
    number = values.cast(pl.Float64).fill_nan(None)
    grid = column.grid
    if grid is None:
        return pl.select(
            pl.when(number.is_null()).then(pl.lit(MISSING)).otherwise(pl.lit(UNSEEN))
        ).to_series()
    place = np.searchsorted(grid.psi, number.fill_null(0.0).to_numpy(), side="right")
    known = pl.Series([_tenth(int(p)) for p in place], dtype=pl.String)
    other = (number != grid.low) if column.is_constant else number.is_infinite()
    told = pl.when(number.is_null()).then(pl.lit(MISSING)).when(other).then(pl.lit(UNSEEN)).otherwise(known)
    return pl.select(told).to_series()


def _columns(profile: Profile, statistics: ChunkStatistics) -> Iterator[tuple[str, FeatureProfile, Counted]]:
    columns = {c.name: c for c in profile.columns}
    for chunk in statistics.chunks:
        for (name, segment), found in by_column(statistics.of(chunk)).items():
            if segment == ALL and name in columns:
                yield chunk, columns[name], found


def _places(column: FeatureProfile) -> dict[str, float]:
    """Middle of each cell of a number; empty for categories and for a number without values in the reference."""
    grid = column.grid
    if grid is None:
        return {}
    edges = np.array([grid.low, *grid.psi, grid.high])
    return {_tenth(g): float(m) for g, m in enumerate((edges[1:] + edges[:-1]) / 2)}


def _tenth(group: int) -> str:
    return f"cell {group + 1:02d}"


def _by_cell(column: FeatureProfile, found: Counted) -> dict[str, int]:
    """Rows by cell; infinities, and any number where the reference had none or one other, are unseen."""
    counts = {MISSING: found.missing, UNSEEN: found.infinite}
    for at, n in zip(found.at, found.counts, strict=True):
        cell = _cell(column, at)
        counts[cell] = counts.get(cell, 0) + int(n)
    return counts


def _cell(column: FeatureProfile, at: Any) -> str:
    if not column.numeric:
        return apart(str(at), OWN)
    grid = column.grid
    if grid is None:
        return UNSEEN
    if column.is_constant:
        return _tenth(0) if at == (grid.low if column.by_value else 0) else UNSEEN
    if column.by_value:
        return _tenth(int(np.searchsorted(grid.psi, at, side="right")))
    within = min(max(int(at), 0), len(grid.edges) - 2)  # beyond the reference's range: the outermost cells
    return _tenth(int(grid.psi_of[within]))
