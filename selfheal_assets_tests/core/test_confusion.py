"""The four counts by hand, their rates as scikit-learn has them, intervals that cover and are no points."""

import numpy as np
import pytest
from sklearn import metrics as sk

from selfheal_assets.core.confusion import Confusion, confusion_of
from selfheal_assets.core.metrics import UndefinedMetric
from selfheal_assets.core.policies import Costs

COSTS = Costs(currency="EUR", missed_positive=100, refused_good=7, accepted_good=3, caught_positive=2)


def test_the_cells_are_counted_in_order():
    label = np.array([1, 1, 1, 0, 0, 0, 0, 1, 0, 0], dtype=np.int8)
    flagged = np.array([1, 1, 0, 1, 0, 0, 0, 1, 0, 0], dtype=bool)
    assert confusion_of(label, flagged) == Confusion(3, 1, 1, 5)
    assert confusion_of(label, flagged).cells.tolist() == [3, 1, 1, 5]
    assert confusion_of(label[:0], flagged[:0]) == Confusion(0, 0, 0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_rates_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    label, flagged = (rng.uniform(size=300) < 0.3).astype(np.int8), rng.uniform(size=300) < 0.4
    found = confusion_of(label, flagged)
    ours = [getattr(found, m)(0.95).value for m in ("precision", "recall", "accuracy", "f1", "specificity")]
    theirs = [
        f(label, flagged) for f in (sk.precision_score, sk.recall_score, sk.accuracy_score, sk.f1_score)
    ]
    assert ours == pytest.approx([*theirs, sk.recall_score(1 - label, ~flagged)])


def test_f1_interval_is_wilsons_of_f_star():
    # F* = 30/60; Wilson's 95 % interval of 30 in 60 is 0.3774 to 0.6226, and F1 = 2 F* / (1 + F*).
    found = Confusion(30, 20, 10, 940).f1(0.95)
    assert found.value == pytest.approx(2 * 30 / (2 * 30 + 20 + 10))
    assert (found.lower, found.upper) == pytest.approx((0.5480, 0.7674), abs=1e-4)


def test_f1_interval_covers_as_often_as_it_says():
    rng, truth = np.random.default_rng(3), np.array([0.06, 0.05, 0.04, 0.85])
    f1, trials = 2 * 0.06 / (2 * 0.06 + 0.05 + 0.04), 2000
    found = [Confusion(*map(int, rng.multinomial(600, truth))).f1(0.9) for _ in range(trials)]
    covered = sum(i.lower <= f1 <= i.upper for i in found) / trials
    assert 0.9 - 0.03 < covered < 0.9 + 0.03


@pytest.mark.parametrize(
    ("rate", "cells", "says"),
    [
        ("precision", (0, 0, 4, 6), "precision needs at least one flagged case"),
        ("recall", (0, 3, 0, 6), "recall needs at least one positive case"),
        ("specificity", (3, 0, 1, 0), "specificity needs at least one negative case"),
        ("accuracy", (0, 0, 0, 0), "accuracy needs at least one labelled case"),
        ("f1", (0, 0, 0, 9), "F1 needs at least one flagged or positive case"),
    ],
)
def test_a_rate_of_nothing_is_undefined_and_says_of_what(rate, cells, says):
    with pytest.raises(UndefinedMetric, match=says):
        getattr(Confusion(*cells), rate)(0.95)


def test_a_perfect_rate_is_not_certain():
    perfect = Confusion(20, 0, 0, 180)
    for rate in (perfect.precision, perfect.recall, perfect.f1):
        found = rate(0.95)
        assert found.value == found.upper == 1
        assert 0.8 < found.lower < 0.95


def test_value_per_case_by_hand():
    # 30 caught: +2 each; 20 refused: -7 each; 10 missed: -100 each; 40 accepted: +3 each.
    found = Confusion(30, 20, 10, 40).value_per_case(COSTS, 0.95, 2000, seed=1)
    assert found.value == pytest.approx((30 * 2 + 20 * -7 + 10 * -100 + 40 * 3) / 100)
    assert found.lower < found.value < found.upper
    assert found == Confusion(30, 20, 10, 40).value_per_case(COSTS, 0.95, 2000, seed=1)
    assert found != Confusion(30, 20, 10, 40).value_per_case(COSTS, 0.95, 2000, seed=2)


def test_value_per_case_covers_as_often_as_it_says():
    rng, truth = np.random.default_rng(4), np.array([0.05, 0.08, 0.03, 0.84])
    value, trials = float(truth @ COSTS.worth), 1000
    found = [
        Confusion(*map(int, rng.multinomial(500, truth))).value_per_case(COSTS, 0.9, 400, seed)
        for seed in range(trials)
    ]
    covered = sum(i.lower <= value <= i.upper for i in found) / trials
    assert 0.9 - 0.04 < covered < 0.9 + 0.04


def test_a_miss_that_has_not_happened_yet_is_not_taken_to_be_impossible():
    found = Confusion(0, 0, 0, 200).value_per_case(COSTS, 0.95, 2000, seed=0)
    assert (found.value, found.upper) == (3, 3)
    assert found.lower < 2


def test_no_cases_are_worth_nothing_that_can_be_told():
    with pytest.raises(UndefinedMetric, match="business value needs at least one labelled row"):
        Confusion(0, 0, 0, 0).value_per_case(COSTS, 0.95, 500, seed=0)
