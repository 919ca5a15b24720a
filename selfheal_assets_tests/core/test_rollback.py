"""A promotion is taken back on evidence or on technical failure, and only to something that works."""

import math
from datetime import datetime, timedelta

import numpy as np
import pytest

from selfheal_assets.core.policies import AlarmPolicy
from selfheal_assets.core.rollback import in_probation, judge_promotion, technical_failure
from selfheal_assets_tests.core.generated import sigmoid

POLICY = AlarmPolicy()


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.linspace(0, 1, 500), ""),
        (np.full(199, 0.3), ""),
        (np.full(200, 0.3), "all 200 scores are equal to 0.3"),
        (np.append(np.full(199, 0.3), 0.30001), ""),
        (np.array([0.1, math.nan, math.inf]), "2 of 3 scores are not finite"),
        (np.empty(0), ""),
    ],
)
def test_scores_that_no_working_model_gives(scores, expected):
    assert technical_failure(scores) == expected


def judge(champion, predecessor, positive, due=None, policy: AlarmPolicy = POLICY):
    champion, predecessor = np.asarray(champion, float), np.asarray(predecessor, float)
    due = np.ones(len(champion)) if due is None else np.asarray(due, float)
    return judge_promotion(champion, predecessor, np.asarray(positive), due, policy)


@pytest.mark.parametrize(("champion", "expected"), [(0.0399, True), (0.0401, False)])
def test_the_limit_is_one_over_alpha(champion, expected):
    # One positive: the likelihood ratio is 0.8 / p, the limit 1 / 0.05 = 20.
    found = judge([champion], [0.8], [1])
    assert found.roll_back is expected
    assert found.limit == pytest.approx(math.log(20))
    assert found.log_likelihood_ratio == pytest.approx(math.log(0.8 / champion))
    assert (found.rows, found.positives) == (1, 1)


def test_the_level_is_the_policys():
    assert not judge([0.0399], [0.8], [1], policy=AlarmPolicy(rollback_alpha=0.01)).roll_back


def test_cases_not_yet_due_say_nothing():
    found = judge([0.9] * 300, np.linspace(0.1, 0.2, 300), [0] * 300, due=[0.0] * 300)
    assert not technical_failure(np.linspace(0.1, 0.2, 300))
    assert (found.roll_back, found.log_likelihood_ratio) == (True, 0.0)  # all scores are equal: technical
    found = judge(np.linspace(0.8, 0.9, 300), np.linspace(0.1, 0.2, 300), [0] * 300, due=[0.0] * 300)
    assert (found.roll_back, found.log_likelihood_ratio) == (False, 0.0)


def test_no_cases_hold():
    found = judge([], [], [])
    assert (found.roll_back, found.rows, found.log_likelihood_ratio) == (False, 0, 0)


@pytest.mark.parametrize(("true_slope", "expected"), [(1.0, False), (-1.0, True)])
def test_the_evidence_decides(true_slope, expected):
    """The champion believes in a rising risk, the predecessor in a flat one; in truth it rises or falls."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=800)
    positive = (rng.uniform(size=800) < sigmoid(true_slope * x - 1)).astype(int)
    flat = sigmoid(0.01 * x - 1)
    assert judge(sigmoid(x - 1), flat, positive).roll_back is expected


def test_a_champion_that_fails_technically_goes_back_without_labels():
    found = judge([math.nan, 0.2], [0.1, 0.2], [0, 0], due=[0, 0])
    assert found.roll_back
    assert found.reason == "1 of 2 scores are not finite"


def test_nothing_goes_back_to_a_predecessor_that_fails():
    found = judge([0.1, 0.2], [math.nan, 0.2], [1, 1])
    assert not found.roll_back
    assert "no working predecessor" in found.reason
    assert math.isfinite(found.log_likelihood_ratio)


def test_probation_ends_on_its_day():
    promoted = datetime(2007, 1, 1)
    assert in_probation(promoted, promoted + timedelta(days=365) - timedelta(seconds=1), 365)
    assert not in_probation(promoted, promoted + timedelta(days=365), 365)
