"""From raw scores to calibrated probabilities: the isotonic map, plain and importance-weighted.

The plain map learns P(positive | score) on the reference, and holds for a chunk as long as that relation does. Where
the inputs have shifted it need not: cases of one score may now be others than they were. The weighted map counts
each reference row as often as its like occurs in the chunk (``core.density_ratio``) and so follows a shift of the
inputs. Neither sees a change of P(positive | inputs) itself, which is told by labels alone.

A map is a table of knots, so it can be stored, compared, and evaluated where the rows lie.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

import numpy as np

Array = np.ndarray
ECE_BINS: Final = 10
ECE_SPLITS: Final = 10


class CannotCalibrate(ValueError):
    """The reference does not suffice to learn a map; says what is missing."""


@dataclass(frozen=True)
class IsotonicMap:
    """A rising piecewise-linear function: ``probability[i]`` at ``score[i]``, flat outside the knots.

    Both tuples ascend (the probabilities not strictly) and have the same length, at least 1.
    """

    score: tuple[float, ...]
    probability: tuple[float, ...]

    def __call__(self, score: Array) -> Array:
        """Calibrated probabilities (float64) of raw scores."""
        return np.interp(score, self.score, self.probability)

    def to_dict(self) -> dict[str, Any]:
        """A mapping that JSON can hold without loss; the inverse of :meth:`from_dict`."""
        return {"score": list(self.score), "probability": list(self.probability)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """The map that :meth:`to_dict` wrote."""
        return cls(tuple(stored["score"]), tuple(stored["probability"]))


IDENTITY: Final = IsotonicMap((0.0, 1.0), (0.0, 1.0))
"""Takes the score for a probability."""


def fit_isotonic(score: Array, label: Array, weight: Array | None = None) -> IsotonicMap:
    """Isotonic regression of 0/1 labels on scores, clipped outside: scikit-learn's, to the last bit.

    Source: Zadrozny and Elkan, KDD 2002; pool-adjacent-violators as in scikit-learn.

    Raises:
        CannotCalibrate: one class only, or a score that is not finite.
    """
    from sklearn.isotonic import IsotonicRegression

    _require_both_classes(score, label)
    if weight is not None:
        fitted = IsotonicRegression(out_of_bounds="clip").fit(score, label, sample_weight=weight)
        return IsotonicMap(tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))
    return _fit_grouped(_Grouped.of(score, label))


@dataclass(frozen=True)
class _Grouped:
    """Rows by score: sorted once, for every map that is fitted on them. Whole numbers, so grouping rounds nothing.

    Four bytes each: what the splits cost is moving them.
    """

    values: Array
    at: Array
    rows: Array
    positives: Array

    @classmethod
    def of(cls, score: Array, label: Array) -> Self:
        values, at = np.unique(score, return_inverse=True)
        rows, positives = (np.bincount(at, weight).astype(np.int32) for weight in (None, label))
        return cls(values, at.astype(np.int32), rows, positives)

    def without(self, at: Array, label: Array) -> tuple[Array, Array]:
        """Rows and positives by value but for the rows whose values are ``at``."""
        rows, positives = self.rows.copy(), self.positives.copy()
        np.subtract.at(rows, at, 1)
        np.subtract.at(positives, at[label == 1], 1)
        return rows, positives


def _rising(positives: Array, rows: Array) -> Array:
    """The rising rates nearest to those observed, by pool-adjacent-violators: what scikit-learn calls as well."""
    from scipy.optimize import isotonic_regression

    return isotonic_regression(positives / rows, weights=rows).x


def _fit_grouped(grouped: _Grouped) -> IsotonicMap:
    rising = _rising(grouped.positives, grouped.rows)
    moves = np.concatenate([[True], np.diff(rising) != 0, [True]])
    knots = moves[:-1] | moves[1:]  # the ends of each flat stretch
    return IsotonicMap(tuple(grouped.values[knots].tolist()), tuple(rising[knots].tolist()))


def _require_both_classes(score: Array, label: Array) -> None:
    positives = int(np.sum(label))
    if min(positives, len(label) - positives) < 2:
        raise CannotCalibrate(
            f"calibration needs at least two rows of each class: the reference has {positives} positives among "
            f"{len(label)} labelled rows"
        )
    if lost := int(np.sum(~np.isfinite(score))):
        raise CannotCalibrate(f"{lost} of {len(score)} reference scores are not finite")


def needs_calibration(score: Array, label: Array) -> bool:
    """Whether an isotonic map improves on the score itself on rows it was not fitted on.

    Ten random splits hold out a tenth each; over all held-out rows the expected calibration error (ten bins of equal
    size) of the mapped scores must be below that of the raw ones. Never for a model that separates the classes
    (ROC AUC above 0.999).

    Source: NannyML 0.13.1, ``calibration.needs_calibration``, splits included: the answers are equal.
    """
    return _needs_calibration(_Grouped.of(score, label), score, label)


def _needs_calibration(grouped: _Grouped, score: Array, label: Array) -> bool:
    if not 0 < grouped.positives.sum() < len(label) or _roc_auc(grouped) > 0.999:
        return False
    held_out, mapped = [], []
    for test in stratified_tenths(label):
        at = grouped.at[test]
        rows, positives = grouped.without(at, label[test])
        kept = rows > 0
        fitted = _rising(positives[kept], rows[kept])
        seen_so_far, unseen = np.cumsum(kept, dtype=np.int32), np.flatnonzero(~kept[at])
        answer = fitted[np.maximum(seen_so_far[at] - 1, 0)]
        answer[unseen] = _between(grouped.values, seen_so_far, fitted, at[unseen])
        held_out.append(test)
        mapped.append(answer)
    rows = np.concatenate(held_out)
    raw = _calibration_error(label[rows], score[rows])
    return raw > _calibration_error(label[rows], np.concatenate(mapped))


def _between(values: Array, seen_so_far: Array, fitted: Array, at: Array) -> Array:
    """What ``np.interp`` says at ``values[at]``, which were not seen, of ``fitted`` at those that were.

    Args:
        values: all of them, ascending.
        seen_so_far: how many of the values up to each were seen.
        fitted: one for each value that was seen, rising.
        at: places of values that were not seen.
    """
    below = seen_so_far[at] - 1
    left, right = np.maximum(below, 0), np.minimum(below + 1, len(fitted) - 1)
    answer = fitted[left]
    # Nearly all lie on flat stretches: only where it rises does the place matter.
    rises = np.flatnonzero(fitted[right] != answer)
    low, high = (values[np.searchsorted(seen_so_far, side[rises] + 1)] for side in (left, right))
    slope = (fitted[right[rises]] - answer[rises]) / (high - low)
    answer[rises] += slope * (values[at[rises]] - low)
    return answer


def _roc_auc(grouped: _Grouped) -> float:
    """ROC AUC of the scores themselves."""
    positive, negative = grouped.positives, grouped.rows - grouped.positives
    below = np.cumsum(negative, dtype=np.float64) - negative
    return float(positive @ (below + negative / 2) / (positive.sum() * negative.sum()))


def stratified_tenths(label: Array) -> Iterator[Array]:
    """Rows that each of ``ECE_SPLITS`` random splits holds out: a tenth, with the classes' shares.

    Those of scikit-learn's ``StratifiedShuffleSplit(test_size=0.1, random_state=42)``, which takes ten times as long,
    for it collects each row's number in a list.
    """
    from sklearn.utils.extmath import _approximate_mode

    counts = np.bincount(label.astype(np.int64), minlength=2)
    small = (
        np.int32 if len(label) < 2**31 else np.int64
    )  # what is shuffled does not change how; less memory is faster
    members = [np.flatnonzero(label == c).astype(small) for c in (0, 1)]
    rng = np.random.RandomState(42)
    held_out = int(np.ceil(len(label) / 10))
    for _ in range(ECE_SPLITS):
        kept = _approximate_mode(counts, len(label) - held_out, rng)
        _approximate_mode(counts - kept, held_out, rng)
        shuffled = [rows.copy() for rows in members]
        for rows in shuffled:
            rng.shuffle(rows)
        rng.shuffle(
            np.empty(len(label) - held_out, np.int8)
        )  # the rows to fit on, whose order is of no use here
        test = np.concatenate([rows[n:] for rows, n in zip(shuffled, kept, strict=True)])
        rng.shuffle(test)
        yield test


def _calibration_error(label: Array, probability: Array) -> float:
    """ECE over bins of ``rows // 10`` rows in score order; the last takes the remainder."""
    order = probability.argsort()
    label, probability, rows = label[order], probability[order], len(order)
    bins = ECE_BINS if rows > 2 * ECE_BINS else rows // 2
    edges = np.arange(0, rows + 1, rows // bins)
    edges[-1] = rows
    parts = [slice(a, b) for a, b in pairwise(edges)]
    return sum((p.stop - p.start) / rows * abs(probability[p].mean() - label[p].mean()) for p in parts)


def plain_map(score: Array, label: Array) -> IsotonicMap:
    """CBPE's map as NannyML fits it: isotonic where that helps, else the score itself.

    Raises:
        CannotCalibrate: one class only, or a score that is not finite.
    """
    _require_both_classes(score, label)
    grouped = _Grouped.of(score, label)
    return _fit_grouped(grouped) if _needs_calibration(grouped, score, label) else IDENTITY
