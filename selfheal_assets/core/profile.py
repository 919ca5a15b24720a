"""The frozen reference: the grids in which chunks are counted, and the reference's own counts in them.

A profile is fitted once, when a reference is frozen, and belongs to the model version it judges. Its edges are
NannyML 0.13.1's, so its distances are NannyML's too. It holds no row of the reference, except for one of fewer
than ``FINE_CELLS`` rows, whose distinct values it keeps as NannyML does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np

from selfheal_assets.core import fingerprint
from selfheal_assets.core.chunk_statistics import ALL, ChunkStatistics
from selfheal_assets.core.evaluation import band_names
from selfheal_assets.core.spec import Segment

Kind = Literal["feature", "score", "prediction"]
SCORE: Final = "probability"
PREDICTION: Final = "prediction"
FINE_CELLS: Final = (
    10_000  # NannyML's n_bins for KS and Wasserstein, and the reference rows from which it uses them
)
PSI_CELLS: Final = 10
HEAVY_SHARE: Final = (
    0.01  # a fine cell with more of the reference than this is split at a decile that lies in it
)
SCORE_BUCKETS: Final = 16_384  # a power of two: multiplying by it is exact
POOLED: Final = "(pooled)"


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


@dataclass(frozen=True)
class FeatureProfile:
    """How one column is counted.

    ``grid`` is null for categories, and for numbers of which the reference tells nothing; ``categories`` is the
    sorted values of the reference; ``by_value`` says that values are compared, not cells; ``reason`` says why the
    column's distances cannot be computed at all.
    """

    name: str
    kind: Kind = "feature"
    numeric: bool = True
    grid: Grid | None = None
    by_value: bool = False
    categories: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def is_constant(self) -> bool:
        """A number that does not vary in the reference."""
        return self.grid is not None and self.grid.low == self.grid.high


@dataclass(frozen=True)
class SegmentProfile:
    """One way to cut the population: each row is in one of ``values``, or in the pool of all others.

    ``reason`` says which values are pooled and why; null where none is.
    """

    name: str
    feature: str
    cuts: tuple[float, ...] | None
    values: tuple[str, ...]
    reason: str | None = None

    @property
    def labels(self) -> list[str]:
        """``name=value`` of each value, and of the pool as the last."""
        return [f"{self.name}={value}" for value in (*self.values, POOLED)]


def segment_profile(
    segment: Segment, counted: Mapping[str, int], min_rows: int, max_values: int
) -> SegmentProfile:
    """Which of a segment's values are large enough to be told apart.

    Args:
        segment: as the use case declares it.
        counted: the reference's rows by value, as ``core.evaluation.segment_of`` names it.
        min_rows: values with fewer are pooled.
        max_values: of the others, this many of the largest are kept.
    """
    ranked = sorted(counted, key=lambda v: (-counted[v], v))
    kept = [v for v in ranked if counted[v] >= min_rows][:max_values]
    order = [*(band_names(segment.cuts) if segment.cuts else sorted(kept)), "missing"]
    values = tuple(dict.fromkeys(v for v in order if v in kept))
    pooled = [v for v in ranked if v not in values]
    few = [v for v in pooled if counted[v] < min_rows]
    causes = [f"{len(few)} with fewer than {min_rows} rows in the reference"] if few else []
    if many := len(pooled) - len(few):
        causes.append(f"{many} beyond the {max_values} largest")
    named = ", ".join(pooled[:10]) + (", …" if len(pooled) > 10 else "")
    reason = f"pools {len(pooled)} values ({'; '.join(causes)}): {named}" if pooled else None
    return SegmentProfile(segment.name, segment.feature, segment.cuts, values, reason)


@dataclass(frozen=True)
class ScoreMap:
    """The calibrated probability of a score, piecewise linear between knots and constant beyond them.

    Isotonic regression has this form. The default is the identity: scores that need no calibration.
    """

    scores: tuple[float, ...] = (0.0, 1.0)
    probabilities: tuple[float, ...] = (0.0, 1.0)

    @cached_property
    def knots(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores and probabilities as arrays."""
        return np.array(self.scores, dtype=np.float64), np.array(self.probabilities, dtype=np.float64)

    @cached_property
    def bucket_of_knots(self) -> np.ndarray:
        """The bucket of ``SCORE_BUCKETS`` equal ones between 0 and 1 in which each knot lies."""
        return np.clip(np.floor(self.knots[0] * SCORE_BUCKETS), 0, SCORE_BUCKETS - 1).astype(np.int64)

    def pieces_of_cells(self) -> np.ndarray:
        """For each cell of the score, how many knots lie below it: the piece of the map that holds there.

        Cells are cut by the buckets' edges and by the knots. Bucket and number of knots below both ascend with the
        score, so their sum names the cell.
        """
        below = np.searchsorted(self.bucket_of_knots, np.arange(SCORE_BUCKETS), side="left")
        after = np.searchsorted(self.bucket_of_knots, np.arange(SCORE_BUCKETS), side="right")
        pieces = np.empty(SCORE_BUCKETS + len(self.scores), dtype=np.int64)
        for bucket in np.flatnonzero(after > below):
            span = np.arange(below[bucket], after[bucket] + 1)
            pieces[bucket + span] = span
        plain = np.flatnonzero(after == below)
        pieces[plain + below[plain]] = below[plain]
        return pieces

    def mean_probability(self, cells: np.ndarray, rows: np.ndarray, score_sum: np.ndarray) -> np.ndarray:
        """Mean calibrated probability of the rows of each cell: exact, as the map is linear within a cell."""
        x, y = self.knots
        piece = self.pieces_of_cells()[cells]
        right = np.clip(piece, 1, len(x) - 1)
        run, rise = x[right] - x[right - 1], y[right] - y[right - 1]
        slope = np.divide(rise, run, out=np.zeros_like(run), where=run > 0)
        inside = y[right - 1] + slope * (score_sum / rows - x[right - 1])
        flat = np.where(rise == 0, y[right], np.clip(inside, y[right - 1], y[right]))
        return np.where(piece == 0, y[0], np.where(piece == len(x), y[-1], flat))


@dataclass(frozen=True)
class Profile:
    """Everything that a chunk is compared with.

    Attributes:
        columns: how each feature, the score and the prediction are counted.
        segments: how the population is cut.
        score_map: from score to calibrated probability; null where the model's scores are not monitored.
        reference: the reference's own counts, as one chunk.
    """

    columns: tuple[FeatureProfile, ...]
    segments: tuple[SegmentProfile, ...] = ()
    score_map: ScoreMap | None = None
    reference: ChunkStatistics = field(default_factory=ChunkStatistics.empty)

    @property
    def segment_labels(self) -> list[str]:
        """``all``, then every segment's values."""
        return [ALL, *(label for s in self.segments for label in s.labels)]

    @cached_property
    def fingerprint(self) -> str:
        """Names the grids: counts of profiles with equal fingerprints may be added."""
        frame = {k: v for k, v in self.to_dict().items() if k != "reference"}
        return fingerprint.of_value(frame)

    def to_dict(self) -> dict[str, Any]:
        """As a mapping for JSON; the inverse of :meth:`from_dict`."""
        return {
            "columns": [asdict(c) for c in self.columns],
            "segments": [asdict(s) for s in self.segments],
            "score_map": asdict(self.score_map) if self.score_map else None,
            "reference": self.reference.to_dict(),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Profile":
        """Rebuild what :meth:`to_dict` wrote, by way of JSON or not."""

        def frozen(value: Any) -> Any:
            return tuple(value) if isinstance(value, list | tuple) else value

        columns = []
        for column in saved["columns"]:
            fields = {k: frozen(v) for k, v in column.items()}
            grid = fields["grid"] and Grid(**{k: frozen(v) for k, v in fields["grid"].items()})
            columns.append(FeatureProfile(**(fields | {"grid": grid})))
        segments = (SegmentProfile(**{k: frozen(v) for k, v in s.items()}) for s in saved["segments"])
        score_map = saved["score_map"] and ScoreMap(**{k: frozen(v) for k, v in saved["score_map"].items()})
        reference = ChunkStatistics.from_dict(saved["reference"])
        return cls(tuple(columns), tuple(segments), score_map or None, reference)
