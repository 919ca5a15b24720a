"""One column's distances between the reference and a chunk, from what was counted of both.

The formulas are ``core.distances``'s; here the counts are brought into the cells that each of them is taken over.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from selfheal_assets.core import distances
from selfheal_assets.core.chunk_statistics import ChunkStatistics
from selfheal_assets.core.metrics import UndefinedMetric
from selfheal_assets.core.profile import FeatureProfile


@dataclass(frozen=True)
class Counted:
    """One column of one chunk and segment, as it was counted; ``at`` and ``counts`` have equal length."""

    rows: int
    missing: int
    infinite: int
    below_gap: float
    above_gap: float
    at: np.ndarray
    counts: np.ndarray

    @property
    def finite(self) -> int:
        """Rows with a value to compare."""
        return self.rows - self.missing - self.infinite


def by_column(statistics: ChunkStatistics) -> dict[tuple[str, str], Counted]:
    """One chunk's counts by feature and segment."""
    frame = statistics.features
    names = frame.select("feature", "segment").rows()
    sums = frame.select("rows", "missing", "infinite", "below_gap", "above_gap").rows()
    lists = [frame[many] for many in ("cells", "numbers", "texts", "counts")]
    found = {}
    for i, (key, totals) in enumerate(zip(names, sums, strict=True)):
        *at, counts = (many[i] for many in lists)
        cells = next((a.to_numpy() for a in at if a is not None), np.empty(0, dtype=np.int64))
        rows = counts.to_numpy().astype(np.float64) if counts is not None else np.empty(0)
        all_rows, missing, infinite, below_gap, above_gap = totals
        found[key] = Counted(all_rows, missing, infinite, below_gap, above_gap, cells, rows)
    return found


class ColumnDrift:
    """A column of a chunk beside the same column of the reference, in the same segment."""

    def __init__(self, column: FeatureProfile, reference: Counted, chunk: Counted) -> None:
        self.column, self.reference, self.chunk = column, reference, chunk

    @cached_property
    def by_value(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values (or categories) of both sides, ascending, and each side's rows of them."""
        values = np.unique(np.concatenate([self.reference.at, self.chunk.at]))
        sides = []
        for side in (self.reference, self.chunk):
            counts = np.zeros(len(values))
            counts[np.searchsorted(values, side.at)] = side.counts
            sides.append(counts)
        return values, *sides

    def _dense(self, side: Counted) -> tuple[np.ndarray, float, float]:
        """Rows by cell of the grid, those below it and those above."""
        assert self.column.grid is not None
        last = len(self.column.grid.edges) - 1
        counts = np.zeros(last + 2)
        counts[side.at.astype(np.int64) + 1] = side.counts
        return counts[1:-1], float(counts[0]), float(counts[-1])

    @cached_property
    def cells(self) -> tuple[np.ndarray, np.ndarray, float, float]:
        """The reference's and the chunk's rows by cell of the grid; the chunk's below and above."""
        return self._dense(self.reference)[0], *self._dense(self.chunk)

    @cached_property
    def coarse(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Both sides by NannyML's cells of Jensen–Shannon and Hellinger, and the chunk's rows elsewhere."""
        grid = self.column.grid
        if not self.column.numeric:
            known = np.array(self.column.categories)
            values, reference, chunk = self.by_value
            at = np.searchsorted(values, known)
            found = (at < len(values)) & (values[np.minimum(at, len(values) - 1)] == known)
            both = [
                np.where(found, side[np.minimum(at, len(values) - 1)], 0.0) for side in (reference, chunk)
            ]
        elif self.column.by_value:
            assert grid is not None
            values, reference, chunk = self.by_value
            edges = grid.coarse_edges
            cell = np.minimum(np.searchsorted(edges, values, side="right") - 1, grid.coarse - 1)
            held = (values >= edges[0]) & (values <= edges[-1])
            both = [np.bincount(cell[held], side[held], grid.coarse) for side in (reference, chunk)]
        else:
            assert grid is not None
            both = [np.bincount(grid.coarse_of, side, grid.coarse) for side in self.cells[:2]]
        # NannyML takes infinite values for rows of no cell.
        return both[0], both[1], self.chunk.finite + self.chunk.infinite - both[1].sum()

    @cached_property
    def psi_cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Both sides by the cells that hold a row: tenths of the reference, or categories with the new as one.

        A segment lacks many of the reference's categories; counted as cells, they would raise PSI's cut-off.
        """
        reference, chunk = self._covering_cells
        held = reference + chunk > 0
        return reference[held], chunk[held]

    @property
    def _covering_cells(self) -> tuple[np.ndarray, np.ndarray]:
        if not self.column.numeric:
            reference, chunk, elsewhere = self.coarse
            more = [0.0] if elsewhere else []
            return np.append(reference, more), np.append(chunk, [elsewhere] if elsewhere else [])
        grid = self.column.grid
        assert grid is not None
        size = len(grid.psi) + 1
        if self.column.by_value:
            values, reference, chunk = self.by_value
            cell = np.searchsorted(grid.psi, values, side="right")
            return np.bincount(cell, reference, size), np.bincount(cell, chunk, size)
        reference, chunk, below, above = self.cells
        both = [np.bincount(grid.psi_of, side, size) for side in (reference, chunk)]
        both[1][0] += below
        both[1][-1] += above
        return both[0], both[1]

    @property
    def outside(self) -> float:
        """The chunk's rows out of the reference's range; infinite ones too."""
        grid = self.column.grid
        assert grid is not None
        if self.column.by_value:
            beyond = (self.chunk.at < grid.low) | (self.chunk.at > grid.high)
        else:
            last = 1 if self.column.is_constant else len(grid.edges) - 1
            beyond = (self.chunk.at == -1) | (self.chunk.at == last)
        return float(self.chunk.counts[beyond].sum()) + self.chunk.infinite

    def jensen_shannon(self) -> float:
        """Over NannyML's cells."""
        return distances.jensen_shannon(*self.coarse)

    def hellinger(self) -> float:
        """Over NannyML's cells."""
        return distances.hellinger(*self.coarse)

    def l_infinity(self) -> float:
        """Over all categories of both sides."""
        return distances.l_infinity(*self.by_value[1:])

    @cached_property
    def _chi_square(self) -> tuple[float, float]:
        return distances.chi_square(*self.by_value[1:])

    def chi2(self) -> float:
        """Over all categories of both sides."""
        return self._chi_square[0]

    def chi2_p_value(self) -> float:
        """Of :meth:`chi2`."""
        return self._chi_square[1]

    def psi(self) -> float:
        """Over tenths of the reference, or categories."""
        if len(self.psi_cells[0]) < 2:
            raise UndefinedMetric(
                "all values of the reference and of the chunk lie in one cell: PSI needs two"
            )
        return distances.population_stability_index(*self.psi_cells)

    def _fine(self) -> tuple[np.ndarray, np.ndarray, float, float]:
        if self.chunk.infinite:
            raise UndefinedMetric(
                f"{self.chunk.infinite} infinite values in the chunk: mend them at the source"
            )
        assert self.column.grid is not None
        reference, chunk, below, above = self.cells
        fine, size = self.column.grid.fine_of, self.column.grid.fine
        return np.bincount(fine, reference, size), np.bincount(fine, chunk, size), below, above

    def kolmogorov_smirnov(self) -> float:
        """As NannyML: over 10,000 cells, or values where the reference has fewer rows."""
        if self.column.by_value:
            return distances.kolmogorov_smirnov_of_values(*self._finite_values())
        return distances.kolmogorov_smirnov(*self._fine())

    def wasserstein(self) -> float:
        """As NannyML: over 10,000 cells, or values where the reference has fewer rows."""
        if self.column.by_value:
            return distances.wasserstein_of_values(*self._finite_values())
        reference, chunk, below, above = self._fine()
        assert self.column.grid is not None
        width = float(self.column.grid.fine_edges[1] - self.column.grid.fine_edges[0])
        gaps = (below, self.chunk.below_gap), (above, self.chunk.above_gap)
        return distances.wasserstein(reference, chunk, width, *gaps)

    def _finite_values(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self.chunk.infinite:
            raise UndefinedMetric(
                f"{self.chunk.infinite} infinite values in the chunk: mend them at the source"
            )
        return self.by_value
