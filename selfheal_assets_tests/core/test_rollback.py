"""A promotion is taken back on evidence or on technical failure, and only to something that works."""

import math
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.maturity import TimingCurve
from selfheal_assets.core.policies import RollbackPolicy
from selfheal_assets.core.rollback import (
    in_probation,
    judge_promotion,
    judged_ages,
    log_wealth,
    technical_failure,
)
from selfheal_assets_tests.core.generated import sigmoid

POLICY, HORIZON, PROBATION = RollbackPolicy(), 720.0, 365
CURVE = TimingCurve(np.linspace(1, HORIZON, 720), HORIZON)
"""Positives become known evenly over the horizon."""


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.linspace(0, 1, 500), ""),
        (np.full(199, 0.3), ""),
        (np.full(200, 0.3), "200 of 200 scores are equal to 0.3"),
        (np.append(np.full(198, 0.3), [0.1, 0.2]), ""),
        (np.append(np.full(199, 0.3), 0.1), "199 of 200 scores are equal to 0.3"),
        (np.full(200, 0.3) + np.linspace(0, 1e-8, 200), "200 of 200 scores are equal to 0.3"),
        (np.array([0.1, math.nan, math.inf]), "2 of 3 scores are not finite"),
        (np.empty(0), ""),
    ],
)
def test_scores_that_no_working_model_gives(scores, expected):
    assert technical_failure(scores, POLICY) == expected


def cases(champion, predecessor, positive_age_days, age_days=HORIZON, cohort=0) -> pl.DataFrame:
    rows = len(champion)
    return pl.DataFrame(
        {
            "cohort": np.broadcast_to(cohort, rows),
            "champion": np.asarray(champion, float),
            "predecessor": np.asarray(predecessor, float),
            "age_days": np.broadcast_to(np.asarray(age_days, float), rows),
            "positive_age_days": pl.Series(
                np.broadcast_to(np.asarray(positive_age_days, float), rows), nan_to_null=True
            ),
        }
    )


def judge(frame: pl.DataFrame, policy: RollbackPolicy = POLICY):
    return judge_promotion(frame, CURVE, policy, PROBATION)


# --- The bets ---------------------------------------------------------------------------------


def test_wealth_by_hand():
    policy = RollbackPolicy(bets=(0.2, 0.5))
    expected = math.log((1.2 * 0.9 + 1.5 * 0.75) / 2)
    assert log_wealth(np.array([1.0, -0.5]), policy) == pytest.approx(expected)
    assert log_wealth(np.array([-0.5, 1.0]), policy) == pytest.approx(expected), "whatever the order"
    assert log_wealth(np.empty(0), policy) == 0


def test_only_ages_that_a_probation_can_see_are_judged():
    policy = RollbackPolicy(ages_days=(60, 180, 400))
    assert judged_ages(policy, 1000, 365) == [60, 180]
    assert judged_ages(policy, 90, 365) == [60, 90]
    assert judged_ages(policy, 1000, 30) == []


def test_the_ranking_needs_no_age_and_no_curve():
    """Each positive stands at the top for the predecessor and at the bottom for the champion: it gains 9 / 10."""
    rank = np.linspace(0.1, 0.9, 10)
    twelve = pl.concat(
        [cases(rank, rank[::-1], np.where(rank < 0.15, 5.0, np.nan), 5.0, c) for c in range(12)]
    )
    found = judge(twelve)
    assert found.log_wealth == pytest.approx(log_wealth(np.full(12, 0.9), POLICY))
    assert found.limit == pytest.approx(math.log(2 / 0.05))
    assert (found.roll_back, found.rows, found.positives) == (True, 120, 12)
    assert "by the ranking of 12 positives" in found.reason
    assert not judge(twelve.rename({"champion": "predecessor", "predecessor": "champion"})).roll_back


def test_ranks_are_compared_within_a_cohort():
    """The later cohort is scored higher by the predecessor as a whole: that is no better ranking."""
    rank = np.linspace(0.1, 0.4, 50)
    known = np.where(np.arange(50) % 2, 5.0, np.nan)
    found = judge(pl.concat([cases(rank, rank, known, 5.0, 0), cases(rank, rank + 0.5, known, 5.0, 1)]))
    assert found.log_wealth == 0


def test_the_likelihood_sees_probabilities_that_are_wrong_in_the_right_order():
    p = np.linspace(0.05, 0.35, 1200)
    number = np.arange(1200)
    positive = np.where(number % 5 == 0, number * 37 % HORIZON, np.nan)  # spread evenly, as the curve says
    found = judge(cases(p * 2.5, p, positive))
    assert found.roll_back and "by the likelihood of 1200 cases" in found.reason
    assert found.limit == pytest.approx(math.log(2 * 2 / 0.05)), "two ages share what the ranking leaves"
    assert not judge(cases(p, p * 2.5, positive)).roll_back


def test_a_case_is_judged_by_what_was_known_at_the_age():
    """What became known after the age is no positive there, and a case that has not reached it does not count."""
    policy = RollbackPolicy(ages_days=(60,))
    p = np.full(300, 0.2) + np.linspace(0, 0.1, 300)
    early, late = judge(cases(p * 2, p, 59.0), policy), judge(cases(p * 2, p, 61.0), policy)
    assert "300 positive by then" in early.reason or early.log_wealth <= 0
    assert late.log_wealth > 0 and "0 positive by then" in late.reason
    young = judge(cases(p * 2, p, math.nan, 59.9), policy)
    assert (young.log_wealth, young.roll_back) == (0.0, False)


def test_no_case_speaks_for_more_than_the_largest_ratio():
    policy = RollbackPolicy(ages_days=(60,), bets=(0.5,), largest_ratio=4.0)
    found = judge(cases([0.001, 0.3], [0.9, 0.3], [10.0, math.nan]), policy)
    likelihood = math.log(1.5), math.log(1 / (0.05 * 0.5))
    ranking = math.log1p(0.5 * 0.5), math.log(2 / 0.05)
    best = max((likelihood, ranking), key=lambda t: t[0] - t[1])
    assert (found.log_wealth, found.limit) == pytest.approx(best)


def test_the_level_is_the_policys():
    rank = np.linspace(0.1, 0.9, 10)
    eight = pl.concat([cases(rank, rank[::-1], np.where(rank < 0.15, 5.0, np.nan), 5.0, c) for c in range(9)])
    assert judge(eight, RollbackPolicy(alpha=0.2)).roll_back
    assert not judge(eight, RollbackPolicy(alpha=0.0005)).roll_back


def test_no_cases_hold():
    found = judge(cases([], [], []))
    assert (found.roll_back, found.rows, found.log_wealth) == (False, 0, 0)


# --- A probation, looked at every month ----------------------------------------------------------


def probation(seed: int, kind: str) -> int | None:
    """Month at which a promotion is taken back; the cases of a year, their labels late by up to two.

    ``equal``: two models that are equally far from the truth, and both expect twice too many positives. ``bad``: the
    champion's scores are those of other cases.
    """
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=2400) - 1.5
    scores = [1.2 * truth + 0.8 + 0.6 * rng.normal(size=2400) for _ in range(2)]
    champion = rng.permutation(scores[0]) if kind == "bad" else scores[0]
    delay = np.where(rng.uniform(size=2400) < sigmoid(truth), rng.uniform(0, HORIZON, 2400), np.inf)
    opened = np.sort(rng.uniform(0, 360, 2400))
    for month in range(1, 13):
        seen = opened < month * 30
        age = month * 30 - opened[seen]
        known = np.where(delay[seen] <= age, delay[seen], np.nan)
        frame = cases(
            sigmoid(champion[seen]), sigmoid(scores[1][seen]), known, age, (opened[seen] // 30).astype(int)
        )
        if judge(frame).roll_back:
            return month
    return None


def test_equally_good_and_equally_miscalibrated_models_are_rarely_taken_back():
    """Twelve looks each at the same cases as they age. `make bench-rollback` has 1,000 of them, on real loans."""
    trials = 120
    taken_back = sum(probation(seed, "equal") is not None for seed in range(trials))
    assert taken_back <= 0.05 * trials


def test_a_bad_champion_is_taken_back_before_its_probation_ends():
    months = [probation(seed, "bad") for seed in range(30)]
    found = [m for m in months if m is not None]
    assert len(found) >= 25
    assert np.median(found) <= 8


# --- Technical failure ---------------------------------------------------------------------------


def test_a_champion_that_fails_technically_goes_back_without_labels():
    found = judge(cases([math.nan, 0.2], [0.1, 0.2], math.nan, 0.0))
    assert (found.roll_back, found.reason) == (True, "1 of 2 scores are not finite")


@pytest.mark.parametrize("champion", [0.1, math.nan])
def test_nothing_goes_back_to_a_predecessor_that_fails(champion):
    found = judge(cases([champion, 0.2], [math.nan, 0.2], 1.0))
    assert not found.roll_back
    assert found.reason == "there is no working predecessor to go back to: 1 of 2 scores are not finite"
    assert math.isfinite(found.log_wealth)


def test_cases_that_neither_model_tells_apart_are_at_fault_themselves():
    assert not judge(cases(np.full(300, 0.2), np.full(300, 0.1), math.nan, 10.0)).roll_back
    assert judge(cases(np.full(300, 0.2), np.linspace(0, 1, 300), math.nan, 10.0)).roll_back


def test_probation_ends_on_its_day():
    promoted = datetime(2007, 1, 1)
    assert in_probation(promoted, promoted + timedelta(days=365) - timedelta(seconds=1), 365)
    assert not in_probation(promoted, promoted + timedelta(days=365), 365)
