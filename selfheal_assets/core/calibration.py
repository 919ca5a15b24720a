"""From raw scores to calibrated probabilities: the isotonic map, plain and importance-weighted.

The plain map learns P(positive | score) on the reference, and holds for a chunk as long as that relation does. Where
the inputs have shifted it need not: cases of one score may now be others than they were. The weighted map counts
each reference row as often as its like occurs in the chunk (``core.density_ratio``) and so follows a shift of the
inputs. Neither sees a change of P(positive | inputs) itself, which is told by labels alone.

A map is a table of knots, so it can be stored, compared, and evaluated where the rows lie.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

import numpy as np

from selfheal_assets.core import metrics

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
    fitted = IsotonicRegression(out_of_bounds="clip").fit(score, label, sample_weight=weight)
    return IsotonicMap(tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))


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
    from sklearn.model_selection import StratifiedShuffleSplit

    if len(np.unique(label)) == 1 or metrics.roc_auc(label, score) > 0.999:
        return False
    splits = StratifiedShuffleSplit(n_splits=ECE_SPLITS, test_size=0.1, random_state=42)
    held_out, mapped = [], []
    for fit, test in splits.split(score, label):
        held_out.append(test)
        mapped.append(fit_isotonic(score[fit], label[fit])(score[test]))
    rows = np.concatenate(held_out)
    raw = _calibration_error(label[rows], score[rows])
    return raw > _calibration_error(label[rows], np.concatenate(mapped))


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
    return fit_isotonic(score, label) if needs_calibration(score, label) else IDENTITY
