"""From raw scores to calibrated probabilities: the isotonic map, plain and importance-weighted.

The plain map learns P(positive | score) on the reference, and holds for a chunk as long as that relation does. Where
the inputs have shifted it need not: cases of one score may now be others than they were. The weighted map counts each
reference row as often as its like occurs in the chunk (the ratio of the two densities, told by a classifier that
learns to tell chunk from reference) and so follows a shift of the inputs. Neither sees a change of
P(positive | inputs) itself, which is told by labels alone.

A map is a table of knots, so it can be stored, compared, and evaluated where the rows lie.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from selfheal_assets.core.spec import DensityRatio

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
    order = np.argsort(
        score, kind="stable"
    )  # scikit-learn sorts by two keys, which is slow but for sorted scores
    weight = weight if weight is None else weight[order]
    fitted = IsotonicRegression(out_of_bounds="clip").fit(score[order], label[order], sample_weight=weight)
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
    from sklearn.isotonic import isotonic_regression

    # Scores are sorted once, for all splits: of a million rows, that is most of the work.
    values, at = np.unique(score, return_inverse=True)
    every = np.bincount(at, minlength=len(values))
    positive = np.bincount(at, label, minlength=len(values))
    if not 0 < positive.sum() < len(label) or _roc_auc(positive, every - positive) > 0.999:
        return False
    held_out, mapped = [], []
    for test in stratified_tenths(label):
        rows = every - np.bincount(at[test], minlength=len(values))
        hits = positive - np.bincount(at[test], label[test], minlength=len(values))
        seen = rows > 0
        fitted = isotonic_regression(hits[seen] / rows[seen], sample_weight=rows[seen])
        held_out.append(test)
        mapped.append(np.interp(score[test], values[seen], fitted))
    rows = np.concatenate(held_out)
    raw = _calibration_error(label[rows], score[rows])
    return raw > _calibration_error(label[rows], np.concatenate(mapped))


def _roc_auc(positive: Array, negative: Array) -> float:
    """ROC AUC from the rows of both classes by ascending score."""
    below = np.cumsum(negative) - negative
    return float(positive @ (below + negative / 2) / (positive.sum() * negative.sum()))


def stratified_tenths(label: Array) -> Iterator[Array]:
    """Rows that each of ``ECE_SPLITS`` random splits holds out: a tenth, with the classes' shares.

    Those of scikit-learn's ``StratifiedShuffleSplit(test_size=0.1, random_state=42)``, which takes ten times as long,
    for it collects each row's number in a list.
    """
    from sklearn.utils.extmath import _approximate_mode

    counts = np.bincount(label.astype(np.int64), minlength=2)
    members = [np.flatnonzero(label == c) for c in (0, 1)]
    rng = np.random.RandomState(42)
    held_out = int(np.ceil(len(label) / 10))
    for _ in range(ECE_SPLITS):
        kept = _approximate_mode(counts, len(label) - held_out, rng)
        _approximate_mode(counts - kept, held_out, rng)
        shuffled = [rows[rng.permutation(len(rows))] for rows in members]
        rng.permutation(
            len(label) - held_out
        )  # the order of the rows to fit on, which decides the one held out
        yield rng.permutation(np.concatenate([rows[n:] for rows, n in zip(shuffled, kept, strict=True)]))


def _calibration_error(label: Array, probability: Array) -> float:
    """ECE over bins of ``rows // 10`` rows in score order; the last takes the remainder."""
    order = probability.argsort()
    label, probability, rows = label[order], probability[order], len(order)
    bins = ECE_BINS if rows > 2 * ECE_BINS else rows // 2
    edges = np.arange(0, rows + 1, rows // bins)
    edges[-1] = rows
    parts = [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return sum((p.stop - p.start) / rows * abs(probability[p].mean() - label[p].mean()) for p in parts)


def plain_map(score: Array, label: Array) -> IsotonicMap:
    """CBPE's map as NannyML fits it: isotonic where that helps, else the score itself.

    Raises:
        CannotCalibrate: one class only, or a score that is not finite.
    """
    _require_both_classes(score, label)
    return fit_isotonic(score, label) if needs_calibration(score, label) else IDENTITY


@dataclass(frozen=True)
class Inputs:
    """What a classifier tells chunk from reference by.

    Attributes:
        matrix: encoded features (``core.encoding``), NaN for missing; float32, shape (rows, features).
        score: the model's raw scores; float64, shape (rows,).
        categorical: whether a column holds codes of categories; as many as there are columns.
    """

    matrix: Array
    score: Array
    categorical: Sequence[bool]

    def take(self, rows: Array) -> "Inputs":
        """These rows (positions or a mask)."""
        return Inputs(self.matrix[rows], self.score[rows], self.categorical)


def density_ratio(reference: Inputs, chunk: Inputs, policy: DensityRatio, seed: int) -> Array:
    """How much more often each reference row's like occurs in the chunk; mean 1, shape (reference rows,).

    A classifier with probability c that a row is the chunk's gives the ratio c/(1 − c), times the ratio of the row
    counts. Each reference row is judged by a classifier that has not seen it (``policy.folds``), for a flexible one
    would tell the very rows apart. Ratios above ``policy.largest`` are cut there: a few rows must not decide.

    Source: Bickel, Brückner and Scheffer, JMLR 10, 2009; Sugiyama et al., Density Ratio Estimation, 2012.
    """
    fit = {"logistic": _logistic_odds, "boosted": _boosted_odds}[policy.classifier]
    rng = np.random.default_rng(seed)
    rows = reference.matrix.shape[0]
    fold = rng.permutation(rows) % policy.folds
    weight = np.empty(rows)
    for k in range(policy.folds):
        seen, unseen = reference.take(fold != k), reference.take(fold == k)
        weight[fold == k] = fit(seen, chunk, unseen, policy, seed)
    weight = np.minimum(weight / weight.mean(), policy.largest)
    return weight / weight.mean()


def effective_rows(weight: Array) -> float:
    """Kish's effective sample size: as many equally weighted rows would tell as much."""
    return float(weight.sum() ** 2 / (weight**2).sum())


def _logistic_odds(seen: Inputs, chunk: Inputs, judged: Inputs, policy: DensityRatio, seed: int) -> Array:
    """Odds of belonging to the chunk by logistic regression; see :class:`DensityRatio`."""
    from sklearn.linear_model import LogisticRegression

    plan = _Design.of(seen, chunk)
    target = np.concatenate([np.zeros(len(seen.score)), np.ones(len(chunk.score))])
    fitted = LogisticRegression(C=1.0, max_iter=200, tol=1e-3).fit(
        np.concatenate([plan(seen), plan(chunk)]), target
    )
    return np.exp(np.clip(fitted.decision_function(plan(judged)), -30, 30))


@dataclass(frozen=True)
class _Design:
    """The columns of the logistic regression: numbers standardised with their squares, categories one by one."""

    middle: Array
    scale: Array
    categorical: Array
    codes: tuple[Array, ...]

    @classmethod
    def of(cls, seen: Inputs, chunk: Inputs) -> "_Design":
        both = cls._columns(seen, chunk)
        categorical = np.append(np.asarray(seen.categorical, dtype=bool), False)
        numbers = both[:, ~categorical]
        known = np.isfinite(numbers)
        count = np.maximum(known.sum(axis=0), 1)
        middle = np.where(known, numbers, 0).sum(axis=0) / count
        spread = np.sqrt((np.where(known, numbers - middle, 0) ** 2).sum(axis=0) / count)
        codes = []
        for column in both[:, categorical].T:
            values, times = np.unique(column[np.isfinite(column)], return_counts=True)
            codes.append(values[times >= 0.005 * len(column)])
        return cls(middle, np.where(spread > 0, spread, 1), categorical, tuple(codes))

    @staticmethod
    def _columns(*parts: Inputs) -> Array:
        """Features and the score's log odds, as float64."""
        odds = [np.log(s / (1 - s)) for s in (np.clip(p.score, 1e-6, 1 - 1e-6) for p in parts)]
        return np.concatenate(
            [np.column_stack([p.matrix.astype(np.float64), o]) for p, o in zip(parts, odds, strict=True)]
        )

    def __call__(self, rows: Inputs) -> Array:
        columns = self._columns(rows)
        numbers = (columns[:, ~self.categorical] - self.middle) / self.scale
        missing = ~np.isfinite(numbers)
        numbers = np.clip(np.where(missing, 0, numbers), -4, 4)
        one_hot = [
            column[:, None] == codes
            for column, codes in zip(columns[:, self.categorical].T, self.codes, strict=True)
        ]
        missing_category = ~np.isfinite(columns[:, self.categorical])
        return np.column_stack([numbers, numbers**2, missing, missing_category, *one_hot]).astype(np.float32)


def _boosted_odds(seen: Inputs, chunk: Inputs, judged: Inputs, policy: DensityRatio, seed: int) -> Array:
    """Odds of belonging to the chunk by boosted trees; see :class:`DensityRatio`."""
    import xgboost

    matrix = np.concatenate([np.column_stack([p.matrix, p.score]) for p in (seen, chunk)]).astype(np.float32)
    target = np.concatenate([np.zeros(len(seen.score)), np.ones(len(chunk.score))])
    # Balanced: both classes weigh the same, whatever their sizes, and the tree sees a shift as such.
    balance = np.where(target == 1, len(seen.score) / len(chunk.score), 1.0)
    parameters = {
        "objective": "binary:logistic", "tree_method": "hist", "max_depth": policy.max_depth,
        "eta": policy.learning_rate, "min_child_weight": 20, "seed": seed, "nthread": 1, "max_bin": 64,
    }  # fmt: skip
    data = xgboost.QuantileDMatrix(matrix, target, weight=balance, nthread=1, max_bin=64)
    booster = xgboost.train(parameters, data, num_boost_round=policy.rounds)
    margin = booster.inplace_predict(
        np.column_stack([judged.matrix, judged.score]).astype(np.float32), predict_type="margin"
    )
    return np.exp(np.clip(margin.astype(np.float64), -30, 30))
