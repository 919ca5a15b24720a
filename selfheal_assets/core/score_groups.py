"""Rows grouped by their calibrated probability, in score order: the sums from which every expected metric comes.

An isotonic map is constant on long stretches of the score, so a hundred million rows are a few hundred groups.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

Array = np.ndarray
LOG_MARGIN: Final = 1e-12  # as in core.metrics.log_loss: keeps a logarithm finite


@dataclass(frozen=True)
class ScoreGroups:
    """Rows by calibrated probability: arrays of equal length, in ascending order of the raw score.

    Attributes:
        probability: calibrated, the group's common value; float64, 0..1.
        rows: how many; float64.
        flagged: whether they are predicted positive; bool.
        score_sum: sum of their raw scores; float64.
        score_square_sum: sum of the squares of their raw scores; float64.
        rank: groups of equal rank are ties in score order (they differ in ``flagged``); int64, ascending.
        log_score_sum: sum of ln(score), each score kept ``LOG_MARGIN`` away from 0 and 1; float64. Only the log
            loss needs it, and says so where it is ``None``.
        log_complement_sum: the same of ln(1 − score).
    """

    probability: Array
    rows: Array
    flagged: Array
    score_sum: Array
    score_square_sum: Array
    rank: Array
    log_score_sum: Array | None = None
    log_complement_sum: Array | None = None

    @property
    def total(self) -> float:
        """Number of rows."""
        return float(self.rows.sum())

    @property
    def positives(self) -> float:
        """Expected number of positives."""
        return float(self.probability @ self.rows)

    def classes(self) -> tuple[Array, Array]:
        """Expected positives and negatives of each group."""
        return self.probability * self.rows, (1 - self.probability) * self.rows


def groups_of_rows(score: Array, calibrated: Array, flagged: Array) -> ScoreGroups:
    """Groups of single rows.

    Args:
        score: the model's raw scores, finite; shape (rows,).
        calibrated: the calibrated probability of each, a function of the score; shape (rows,).
        flagged: bool, predicted positive; shape (rows,).

    Raises:
        ValueError: a value is not finite, or two rows of one score have two probabilities.
    """
    score, calibrated = np.asarray(score, dtype=np.float64), np.asarray(calibrated, dtype=np.float64)
    flagged = np.asarray(flagged, dtype=bool)
    if lost := int(np.sum(~(np.isfinite(score) & np.isfinite(calibrated)))):
        raise ValueError(f"{lost} of {len(score)} scores are not finite: leave these rows out, and say so")
    if outside := int(np.sum((calibrated < 0) | (calibrated > 1))):
        raise ValueError(f"{outside} of {len(score)} calibrated probabilities lie outside 0..1")
    order = np.argsort(score, kind="stable")
    score, calibrated, flagged = score[order], calibrated[order], flagged[order]
    moves = np.diff(calibrated) != 0
    if np.any(moves & (np.diff(score) == 0)):
        raise ValueError(
            "two rows of one score have two calibrated probabilities: calibrate by the score alone"
        )
    run = np.concatenate([[0], np.cumsum(moves)])[: len(score)]
    cell, member = np.unique(run * 2 + flagged, return_inverse=True)
    safe = np.clip(score, LOG_MARGIN, 1 - LOG_MARGIN)
    by_run = calibrated[np.flatnonzero(np.concatenate([[True], moves])[: len(score)])]

    def total(values: Array) -> Array:
        return np.bincount(member, values, minlength=len(cell))

    return ScoreGroups(
        probability=by_run[cell // 2],
        rows=total(np.ones(len(score))),
        flagged=cell % 2 == 1,
        score_sum=total(score),
        score_square_sum=total(score**2),
        rank=cell // 2,
        log_score_sum=total(np.log(safe)),
        log_complement_sum=total(np.log1p(-safe)),
    )


def groups_of_labels(score: Array, label: Array, flagged: Array) -> ScoreGroups:
    """Groups of labelled rows: certain probabilities, with which every expected metric is the realized one.

    Rows of one score are ties, whatever their labels. Average precision takes tied rows one by one, each with the
    share of positives among the ties.

    Args:
        score: the model's raw scores, finite; shape (rows,).
        label: 0/1; shape (rows,).
        flagged: bool, predicted positive; shape (rows,).
    """
    values, rank = np.unique(np.asarray(score, dtype=np.float64), return_inverse=True)
    cell, rows = np.unique(rank * 4 + np.asarray(flagged) * 2 + np.asarray(label), return_counts=True)
    rank, score = cell // 4, values[cell // 4]
    safe = np.clip(score, LOG_MARGIN, 1 - LOG_MARGIN)
    return ScoreGroups(
        probability=(cell % 2).astype(np.float64),
        rows=rows.astype(np.float64),
        flagged=cell % 4 >= 2,
        score_sum=rows * score,
        score_square_sum=rows * score**2,
        rank=rank,
        log_score_sum=rows * np.log(safe),
        log_complement_sum=rows * np.log1p(-safe),
    )


def by_rank(groups: ScoreGroups, *columns: Array) -> list[Array]:
    """Sums of each column over groups that are ties in score order; highest score first."""
    if not len(groups.rank):
        return [np.empty(0) for _ in columns]
    starts = np.flatnonzero(np.concatenate([[True], np.diff(groups.rank) != 0]))
    return [np.add.reduceat(column, starts)[::-1] for column in columns]
