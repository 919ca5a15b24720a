"""Cells of the score: so few that a hundred million scores are some hundred sums, and fine enough to lose nothing.

Isotonic regression is flat almost everywhere. Rows of one flat stretch share a calibrated probability, so the stretch
is one cell, whatever its width. Where the map rises, cells are narrow and the probability is linear within each.
"""

from functools import cached_property
from typing import Final

import numpy as np

from selfheal_assets.core.calibration import IsotonicMap

SCORE_BUCKETS: Final = 16_384


class ScoreCells:
    """The cells between the knots of a calibration; where it rises, cut by the edges of equal buckets as well.

    A score's cell is the number of knots and of such edges below it, so cells ascend with the score.

    Args:
        calibration: from score to probability.
    """

    def __init__(self, calibration: IsotonicMap) -> None:
        self.knots = np.array(calibration.score, dtype=np.float64)
        self.probability = np.array(calibration.probability, dtype=np.float64)
        span = float(self.knots[-1] - self.knots[0])
        self.low = float(self.knots[0])
        self.per_unit = SCORE_BUCKETS / span if span > 0 else 1.0

    @cached_property
    def bucket_of_knots(self) -> np.ndarray:
        """The bucket in which each knot lies.

        Rounding does no harm, as long as rows are put into buckets by the same operations: each of them is monotone,
        so a lower score never comes into a higher bucket.
        """
        bucket = np.floor((self.knots - self.low) * self.per_unit)
        return np.clip(bucket, 0, SCORE_BUCKETS - 1).astype(np.int64)

    @cached_property
    def knots_below(self) -> np.ndarray:
        """How many knots lie in lower buckets, by bucket."""
        return np.searchsorted(self.bucket_of_knots, np.arange(SCORE_BUCKETS), side="left")

    @cached_property
    def _nth_in_bucket(self) -> np.ndarray:
        """How many knots lie below each in its own bucket."""
        return np.arange(len(self.knots)) - self.knots_below[self.bucket_of_knots]

    @cached_property
    def rises(self) -> np.ndarray:
        """Whether the calibration rises on the piece that has 0, 1 … knots below it; shape (knots + 1,)."""
        return np.concatenate([[False], np.diff(self.probability) != 0, [False]])

    @cached_property
    def first_cell(self) -> np.ndarray:
        """The first cell of each bucket: its lowest scores', before any knot in it."""
        return self.knots_below + np.cumsum(self.rises[self.knots_below])

    @cached_property
    def knots_in_bucket(self) -> np.ndarray:
        """The knots in each bucket, ascending, infinite where it has fewer; shape (most, ``SCORE_BUCKETS``)."""
        knots = np.full((int(self._nth_in_bucket.max()) + 1, SCORE_BUCKETS), np.inf)
        knots[self._nth_in_bucket, self.bucket_of_knots] = self.knots
        return knots

    def of(self, scores: np.ndarray) -> np.ndarray:
        """The cell of each finite score (int64, of its shape)."""
        bucket = np.clip(np.floor((scores - self.low) * self.per_unit), 0, SCORE_BUCKETS - 1).astype(np.int64)
        return self.first_cell[bucket] + (scores > self.knots_in_bucket[:, bucket]).sum(axis=0)

    @cached_property
    def piece(self) -> np.ndarray:
        """For each cell, how many knots lie below it: the piece of the calibration that holds there."""
        begins = self.first_cell[self.bucket_of_knots] + self._nth_in_bucket + 1  # the cell behind each knot
        return np.searchsorted(begins, np.arange(max(begins[-1], self.first_cell[-1]) + 1), side="right")

    def mean_probability(self, cells: np.ndarray, rows: np.ndarray, score_sum: np.ndarray) -> np.ndarray:
        """Mean calibrated probability of the rows of each cell: exact, as the map is linear within a cell.

        Args:
            cells: shape (cells,).
            rows: in each; positive.
            score_sum: of the raw scores in each.
        """
        x, y, piece = self.knots, self.probability, self.piece[cells]
        if len(x) == 1:
            return np.full(len(cells), y[0])
        right = np.clip(piece, 1, len(x) - 1)
        left = right - 1
        rise, run = y[right] - y[left], x[right] - x[left]
        inside = y[left] + rise / run * (score_sum / rows - x[left])
        inside = np.where(rise == 0, y[right], np.clip(inside, y[left], y[right]))
        return np.where(piece == 0, y[0], np.where(piece == len(x), y[-1], inside))
