"""The frozen reference: the grids in which chunks are counted, and the reference's own counts in them.

A profile is fitted once, when a reference is frozen, and belongs to the model version it judges. Its edges are
NannyML 0.13.1's, so its distances are NannyML's too. It holds no row of the reference, except for one of fewer
than ten thousand rows, whose distinct values it keeps as NannyML does.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal

from selfheal_assets.core import fingerprint
from selfheal_assets.core.calibration import IsotonicMap
from selfheal_assets.core.chunk_statistics import ALL, ChunkStatistics
from selfheal_assets.core.evaluation import band_names
from selfheal_assets.core.grid import Grid
from selfheal_assets.core.score_cells import ScoreCells
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
        pool = POOLED
        while pool in self.values:
            pool = f"({pool})"
        return [f"{self.name}={value}" for value in (*self.values, pool)]


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
class Profile:
    """Everything that a chunk is compared with.

    Attributes:
        columns: how each feature, the score and the prediction are counted.
        segments: how the population is cut.
        calibration: from score to probability; null where scores are not monitored.
        reference: the reference's own counts, as one chunk.
    """

    columns: tuple[FeatureProfile, ...]
    segments: tuple[SegmentProfile, ...] = ()
    calibration: IsotonicMap | None = None
    reference: ChunkStatistics = field(default_factory=ChunkStatistics.empty)

    @property
    def segment_labels(self) -> list[str]:
        """``all``, then every segment's values."""
        return [ALL, *(label for s in self.segments for label in s.labels)]

    @property
    def whole(self) -> "Profile":
        """The same columns and reference, to be counted in all rows together alone, and without scores."""
        return replace(self, segments=(), calibration=None)

    @cached_property
    def score_cells(self) -> ScoreCells | None:
        """In which the scores are counted."""
        return ScoreCells(self.calibration) if self.calibration else None

    @cached_property
    def fingerprint(self) -> str:
        """Names the grids: counts of profiles with equal fingerprints may be added."""
        return fingerprint.of_value(self._grids())

    def _grids(self) -> dict[str, Any]:
        return {
            "columns": [asdict(c) for c in self.columns],
            "segments": [asdict(s) for s in self.segments],
            "calibration": self.calibration.to_dict() if self.calibration else None,
        }

    def to_dict(self) -> dict[str, Any]:
        """As a mapping for JSON; the inverse of :meth:`from_dict`."""
        return self._grids() | {"reference": self.reference.to_dict()}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Profile":
        """Rebuild what :meth:`to_dict` wrote, by way of JSON or not."""

        columns = tuple(_column(c) for c in saved["columns"])
        segments = tuple(SegmentProfile(**_frozen(s)) for s in saved["segments"])
        stored = saved["calibration"]
        calibration = IsotonicMap.from_dict(stored) if stored else None
        return cls(columns, segments, calibration, ChunkStatistics.from_dict(saved["reference"]))


def _frozen(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, which JSON knows, as the tuples they were."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}


def _column(saved: Mapping[str, Any]) -> FeatureProfile:
    fields = _frozen(saved)
    fields["grid"] = Grid(**_frozen(fields["grid"])) if fields["grid"] else None
    return FeatureProfile(**fields)
