"""Cells of one number: edges that serve every distance at once, and the rules by which they are chosen.

Edges of Jensen–Shannon, Hellinger, KS and Wasserstein are NannyML 0.13.1's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

FINE_CELLS: Final = (
    10_000  # NannyML's n_bins for KS and Wasserstein, and the reference rows from which it uses them
)
PSI_CELLS: Final = 10
HEAVY_SHARE: Final = (
    0.01  # a fine cell with more of the reference than this is split at a decile that lies in it
)


@dataclass(frozen=True)
class Grid:
    """Cells of a number, from the reference's least value to its greatest.

    Attributes:
        low: the reference's least value.
        high: its greatest.
        coarse: cells of equal width for Jensen–Shannon and Hellinger.
        fine: cells of equal width for KS and Wasserstein; 0 where values are compared instead.
        psi: lower edges, ascending, of all but the first of the cells that hold about a tenth of the reference each.
    """

    low: float
    high: float
    coarse: int
    fine: int = 0
    psi: tuple[float, ...] = ()

    @cached_property
    def coarse_edges(self) -> np.ndarray:
        """Shape (coarse + 1,)."""
        return np.linspace(self.low, self.high, self.coarse + 1)

    @cached_property
    def fine_edges(self) -> np.ndarray:
        """Shape (fine + 1,)."""
        return np.linspace(self.low, self.high, self.fine + 1)

    @cached_property
    def splits(self) -> tuple[float, ...]:
        """The edges for PSI that are no edge of a fine cell."""
        return tuple(float(e) for e in self.psi if not self.fine or e not in self.fine_edges)

    @cached_property
    def edges(self) -> np.ndarray:
        """Every edge: between two of them no other edge lies, so counts between them serve all three."""
        parts = [self.coarse_edges, self.psi, self.fine_edges if self.fine else ()]
        return np.unique(np.concatenate([np.asarray(p, dtype=np.float64) for p in parts]))

    def _containing(self, edges: Sequence[float] | np.ndarray) -> np.ndarray:
        return np.searchsorted(np.asarray(edges), self.edges[:-1], side="right") - 1

    @cached_property
    def first_of_fine(self) -> np.ndarray:
        """The first cell of each fine cell."""
        return np.searchsorted(self.edges, self.fine_edges[:-1])

    def cell_from(self, edge: np.ndarray, fine: np.ndarray) -> np.ndarray:
        """The cell whose lower edge is ``edge``, in the fine cell ``fine``."""
        cells = self.first_of_fine[fine]
        cut = edge > self.fine_edges[fine]
        cells[cut] = np.searchsorted(self.edges, edge[cut])
        return cells

    @cached_property
    def coarse_of(self) -> np.ndarray:
        """The coarse cell of each cell."""
        return self._containing(self.coarse_edges)

    @cached_property
    def fine_of(self) -> np.ndarray:
        """The fine cell of each cell."""
        return self._containing(self.fine_edges)

    @cached_property
    def psi_of(self) -> np.ndarray:
        """The cell for PSI of each cell."""
        return self._containing(self.psi) + 1 if self.psi else np.zeros(len(self.edges) - 1, dtype=int)


def coarse_cells(rows: int, low: float, high: float, skewness: float) -> int:
    """Number of cells by Doane's rule, as ``numpy.histogram_bin_edges(bins='doane')`` has it.

    Args:
        rows: finite values in the reference.
        low: the least of them.
        high: the greatest.
        skewness: mean of ((x − mean) / population standard deviation)³; NaN where they are all equal.

    Source: Doane, Aesthetic frequency classifications, The American Statistician 30(4), 1976.
    """
    if rows < 3 or low == high or not np.isfinite(skewness):
        return 1
    error = np.sqrt(6.0 * (rows - 2) / ((rows + 1.0) * (rows + 3)))
    width = (high - low) / (1.0 + np.log2(rows) + np.log2(1.0 + np.absolute(skewness) / error))
    return int(np.ceil((high - low) / width)) if width else 1


def is_divisible(low: float, high: float, cells: int) -> bool:
    """Whether float64 can tell that many edges between ``low`` and ``high`` apart."""
    return bool(np.all(np.diff(np.linspace(low, high, cells + 1)) > 0))


def decile_edges(edges: np.ndarray, counts: np.ndarray) -> tuple[tuple[float, ...], dict[int, list[float]]]:
    """Where to cut into tenths, as far as counts by cell can tell.

    Args:
        edges: of the cells, shape (cells + 1,).
        counts: the reference's rows by cell.

    Returns:
        The upper edges of the cells in which a decile lies; and, by cell, the deciles (0.1 … 0.9) that lie in a
        cell with more than ``HEAVY_SHARE`` of the rows: there the values themselves must say.
    """
    total, cumulated = counts.sum(), np.cumsum(counts)
    light, heavy = set(), {}
    for tenth in range(1, PSI_CELLS):
        cell = int(np.searchsorted(cumulated, tenth * total / PSI_CELLS))
        if counts[cell] > HEAVY_SHARE * total:
            heavy.setdefault(cell, []).append(tenth / PSI_CELLS)
        elif cell + 1 < len(counts):
            light.add(float(edges[cell + 1]))
    return tuple(sorted(light)), heavy
