"""Importance weights: the true ratio where it is known; balance where the reference covers the chunk, else none."""

import numpy as np
import pytest

from selfheal_assets.core.density_ratio import Inputs, density_ratio, effective_rows, imbalance
from selfheal_assets.core.evidence_policy import DensityRatio
from selfheal_assets_tests.core.generated import sigmoid

LOGISTIC, BOOSTED = DensityRatio(classifier="logistic"), DensityRatio()


def inputs(rows: int, seed: int, mean: float = 0.0, chance: float = 0.3, missing: float = 0.1) -> Inputs:
    """A number with mean ``mean``, a category that is 1 with ``chance``, and missing values in both."""
    rng = np.random.default_rng(seed)
    x = rng.normal(mean, 1.0, rows)
    kind = (rng.uniform(size=rows) < chance).astype(float)
    matrix = np.column_stack([x, kind]).astype(np.float32)
    matrix[rng.uniform(size=rows) < missing, 0] = np.nan
    matrix[rng.uniform(size=rows) < 0.02, 1] = np.nan
    return Inputs(matrix, sigmoid(x - 1), ["x", "kind"], [False, True])


@pytest.mark.parametrize("ratio", [LOGISTIC, BOOSTED])
def test_weights_follow_the_true_ratio(ratio):
    reference, chunk = inputs(8000, 1, missing=0.0), inputs(4000, 2, mean=0.7, missing=0.0)
    weight = density_ratio(reference, chunk, ratio, seed=0)
    true = np.exp(0.7 * reference.matrix[:, 0] - 0.7**2 / 2)
    middle = np.abs(reference.matrix[:, 0]) < 1.5
    assert np.corrcoef(np.log(weight[middle]), np.log(true[middle]))[0, 1] > 0.93
    assert weight.mean() == pytest.approx(1.0)
    assert (weight > 0).all()


@pytest.mark.parametrize("ratio", [LOGISTIC, BOOSTED])
def test_a_covered_shift_is_balanced_by_weighting(ratio):
    reference, chunk = inputs(8000, 1), inputs(4000, 2, mean=0.5, chance=0.6, missing=0.3)
    before, column = imbalance(reference, chunk, np.ones(8000))
    assert (before > 0.25, column) == (True, "kind")
    left, _ = imbalance(reference, chunk, density_ratio(reference, chunk, ratio, seed=0))
    assert left < 0.04


@pytest.mark.parametrize("ratio", [LOGISTIC, BOOSTED])
def test_what_the_reference_has_never_seen_stays_unbalanced(ratio):
    reference, chunk = inputs(8000, 1), inputs(4000, 2)
    strange = chunk.matrix.copy()
    strange[:2000, 1] = 7.0
    shifted = Inputs(strange, chunk.score, chunk.names, chunk.categorical)
    left, column = imbalance(reference, shifted, density_ratio(reference, shifted, ratio, seed=0))
    assert (left > 0.3, column) == (True, "kind")


def test_no_shift_leaves_nearly_all_rows_effective():
    reference, chunk = inputs(8000, 1), inputs(4000, 2)
    assert effective_rows(density_ratio(reference, chunk, BOOSTED, seed=0)) > 7000


def test_the_same_seed_gives_the_same_weights():
    reference, chunk = inputs(1000, 1), inputs(500, 2, mean=1.0)
    first, again, other = (density_ratio(reference, chunk, BOOSTED, seed=s) for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_row_weighs_more_than_the_largest():
    reference, chunk = inputs(4000, 1), inputs(2000, 2, mean=4.0)
    tight = density_ratio(reference, chunk, DensityRatio(largest=3.0), seed=0)
    loose = density_ratio(reference, chunk, DensityRatio(largest=100.0), seed=0)
    # Cut at three times the mean, then brought to mean 1 again: the largest are equal.
    assert (tight == tight.max()).sum() > 50
    assert effective_rows(tight) > 2 * effective_rows(loose)


@pytest.mark.parametrize("ratio", [LOGISTIC, BOOSTED])
def test_columns_that_tell_nothing_do_no_harm(ratio):
    rng = np.random.default_rng(1)
    constant, empty = np.full(600, 2.0), np.full(600, np.nan)
    matrix = np.column_stack([constant, empty, empty]).astype(np.float32)
    both = Inputs(matrix, rng.uniform(size=600), ["constant", "empty", "nothing"], [False, False, True])
    weight = density_ratio(both, both.take(np.arange(300)), ratio, seed=0)
    assert np.isfinite(weight).all()
    assert np.isfinite(imbalance(both, both, weight)[0])


def test_imbalance_by_hand():
    def rows(number: list[float], kind: list[float], score: list[float]) -> Inputs:
        return Inputs(
            np.column_stack([number, kind]).astype(np.float32), np.array(score), ["n", "k"], [False, True]
        )

    even = np.full(4, 0.5)
    reference = rows([1, 2, 3, 4], [0, 0, 1, 1], even)
    assert imbalance(reference, reference, np.ones(4))[0] == 0.0
    # The weighted reference has 70 % of its mass at n = 1, the chunk 25 %; k is 80 : 20 against 50 : 50.
    left, column = imbalance(reference, reference, np.array([7.0, 1.0, 1.0, 1.0]))
    assert (left, column) == (pytest.approx(0.45), "n")
    other = rows([1, 2, 3, 4], [0, np.nan, 1, 1], even)
    assert imbalance(reference, other, np.ones(4)) == (pytest.approx(0.25), "k")
    lower = rows([1, 2, 3, 4], [0, 0, 1, 1], [0.5, 0.5, 0.5, 0.1])
    assert imbalance(reference, lower, np.ones(4)) == (pytest.approx(0.25), "score")


def test_effective_rows_by_hand():
    assert effective_rows(np.array([1.0, 1.0, 1.0])) == pytest.approx(3)
    assert effective_rows(np.array([2.0, 1.0, 1.0])) == pytest.approx(16 / 6)
    assert effective_rows(np.array([5.0, 0.0])) == pytest.approx(1)
