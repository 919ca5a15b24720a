"""How much more often each reference row's like occurs in a chunk, and whether the reference covers the chunk at all.

Importance weights make the reference look like the chunk. They can do so only where the reference has rows like the
chunk's: whether they did is seen without labels, by comparing the weighted reference with the chunk, column by column
(the balance diagnostics of causal inference).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from selfheal_assets.core.evidence_policy import DensityRatio

Array = np.ndarray
GRID: Final = 100  # quantiles of the chunk at which distributions are compared
SCORE: Final = "score"


@dataclass(frozen=True)
class Inputs:
    """What a classifier tells chunk from reference by.

    Attributes:
        matrix: encoded features (``core.encoding``), NaN for missing, which infinities count as; float32, shape
            (rows, features).
        score: the model's raw scores; float64, shape (rows,).
        names: of the columns, for messages.
        categorical: whether a column holds codes of categories.
    """

    matrix: Array
    score: Array
    names: Sequence[str]
    categorical: Sequence[bool]

    def __len__(self) -> int:
        return len(self.score)

    def take(self, rows: Array) -> "Inputs":
        """These rows (positions or a mask)."""
        return Inputs(self.matrix[rows], self.score[rows], self.names, self.categorical)


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
    return float(weight.sum() ** 2 / max(float((weight**2).sum()), 1e-300))


def imbalance(reference: Inputs, chunk: Inputs, weight: Array) -> tuple[float, str]:
    """The largest difference that is left between weighted reference and chunk, and the column that shows it.

    Of a number (and of the score) the Kolmogorov–Smirnov distance at the chunk's percentiles, of a category the
    L-infinity distance of the shares; missing counts as a value. 0.04 is what a standardised mean difference of 0.1
    amounts to under normality (2Φ(0.05) − 1), the customary limit.

    Source of the limit: Austin, Statistics in Medicine 28(25), 2009.
    """
    share = weight / weight.sum()
    columns = zip(reference.matrix.T, chunk.matrix.T, reference.categorical, reference.names, strict=True)
    left = [(_left_over(a, b, share, kind), name) for a, b, kind, name in columns]
    return max([*left, (_left_over(reference.score, chunk.score, share, False), SCORE)])


def _left_over(reference: Array, chunk: Array, share: Array, categorical: bool) -> float:
    lowest = np.finfo(np.float32).min
    a, b = (np.where(np.isfinite(x), x, lowest) for x in (reference, chunk))
    if categorical:
        values, at = np.unique(np.concatenate([a, b]), return_inverse=True)
        expected = np.bincount(at[: len(a)], share, len(values))
        return float(np.abs(expected - np.bincount(at[len(a) :], minlength=len(values)) / len(b)).max())
    edges = np.unique(np.quantile(b, np.linspace(0, 1, GRID + 1), method="inverted_cdf"))
    expected = np.bincount(np.searchsorted(edges, a), share, len(edges) + 1)
    found = np.bincount(np.searchsorted(edges, b), minlength=len(edges) + 1) / len(b)
    return float(np.abs(np.cumsum(expected - found)).max())


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

    matrix = np.concatenate([_with_score(seen), _with_score(chunk)])
    target = np.concatenate([np.zeros(len(seen.score)), np.ones(len(chunk.score))])
    # Balanced: both classes weigh the same, whatever their sizes, and the tree sees a shift as such.
    balance = np.where(target == 1, len(seen.score) / len(chunk.score), 1.0)
    parameters = {
        "objective": "binary:logistic", "tree_method": "hist", "max_depth": policy.max_depth,
        "eta": policy.learning_rate, "min_child_weight": 20, "seed": seed, "nthread": 1, "max_bin": 64,
    }  # fmt: skip
    data = xgboost.QuantileDMatrix(matrix, target, weight=balance, nthread=1, max_bin=64)
    booster = xgboost.train(parameters, data, num_boost_round=policy.rounds)
    margin = booster.inplace_predict(_with_score(judged), predict_type="margin")
    return np.exp(np.clip(margin.astype(np.float64), -30, 30))


def _with_score(rows: Inputs) -> Array:
    """Features and score as float32; what is not finite is missing, as XGBoost refuses infinities."""
    matrix = np.column_stack([rows.matrix, rows.score]).astype(np.float32)
    return np.where(np.isfinite(matrix), matrix, np.float32(np.nan))
