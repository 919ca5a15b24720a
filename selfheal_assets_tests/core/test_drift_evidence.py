"""The two statistics of drift: against SciPy, against their definitions, and under no change."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chi2_contingency, dirichlet_multinomial

from selfheal_assets.core.drift_evidence import (
    TwoSample,
    act_limit,
    log_evidence,
    two_sample_test,
    warn_level,
)
from selfheal_assets.core.evidence_policy import DriftAlarms

BEFORE, SINCE = np.array([900.0, 700, 300, 100]), np.array([160.0, 120, 80, 40])


def test_the_test_is_pearsons():
    found = two_sample_test(BEFORE, SINCE, min_expected=5)
    expected = chi2_contingency(np.array([BEFORE, SINCE]), correction=False)
    assert isinstance(found, TwoSample)
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.degrees == 3


def test_small_cells_are_grouped_until_each_expects_enough():
    before, since = np.array([900.0, 5, 80, 0, 9, 6]), np.array([90.0, 0, 8, 1, 1, 0])
    found = two_sample_test(before, since, min_expected=2)
    # Both together: 990, 88, 10, 6, 5, 1; a group needs 2 / (100/1100) = 22 rows, so the last four make one.
    grouped = np.array([[900.0, 80, 20], [90.0, 8, 2]])
    assert isinstance(found, TwoSample)
    assert found.statistic == pytest.approx(chi2_contingency(grouped, correction=False).statistic)
    assert found.degrees == 2
    turned = two_sample_test(before[::-1], since[::-1], min_expected=2)
    assert isinstance(turned, TwoSample)
    assert turned.statistic == pytest.approx(found.statistic)


def test_what_is_left_over_joins_a_group_that_has_enough():
    # Nine cells of about 66 rows; a group needs 220: the first and three others, and the remaining five.
    before, since = np.full(9, 60.0), np.array([4.0, 8, 6, 6, 6, 6, 6, 6, 6])
    found = two_sample_test(before, since, min_expected=20)
    grouped = np.array([[240.0, 300], [22, 32]])
    assert isinstance(found, TwoSample)
    assert found.degrees == 1
    assert found.statistic == pytest.approx(chi2_contingency(grouped, correction=False).statistic)


def test_the_order_of_cells_does_not_matter():
    order = [2, 0, 3, 1]
    assert two_sample_test(BEFORE[order], SINCE[order], 5) == two_sample_test(BEFORE, SINCE, 5)
    policy = DriftAlarms()
    moved = log_evidence(BEFORE[None][:, order], (BEFORE + SINCE)[order], policy)
    assert moved == pytest.approx(log_evidence(BEFORE[None], BEFORE + SINCE, policy))


@pytest.mark.parametrize(
    ("before", "since", "said"),
    [
        ([10.0, 10], [0.0, 0], "no rows"),
        ([1000.0, 0], [10.0, 0], "one value only"),
        ([990.0, 10], [10.0, 0], "χ² needs about 505 rows"),
    ],
)
def test_why_there_is_no_test(before, since, said):
    found = two_sample_test(np.array(before), np.array(since), 5)
    assert isinstance(found, str)
    assert said in found


def test_levels_by_hand():
    policy = DriftAlarms(false_alarm_budget=0.05, chunks_per_year=200, warn_share=0.4)
    assert warn_level(policy, features=10) == pytest.approx((0.02 / (10 * 200 * 2)) ** 0.5)
    assert act_limit(policy, features=10) == pytest.approx(np.log(10 / 0.03))
    thrice = policy.model_copy(update={"warn_hits": 3, "warn_window": 4})
    assert warn_level(thrice, features=10) == pytest.approx((0.02 / (10 * 200 * 3)) ** (1 / 3))


def test_evidence_is_a_ratio_of_dirichlet_multinomials():
    policy = DriftAlarms(effect_sizes=(0.1, 0.3), chunks_per_year=50)
    start = BEFORE / 2
    starts = np.array([start, BEFORE])
    total = BEFORE + SINCE
    terms = []
    for before in starts:
        prior, since = before + 0.5, (total - before).astype(int)
        share, n = prior / prior.sum(), int(since.sum())
        changed = [dirichlet_multinomial.logpmf(since, 3 / w**2 * share, n) for w in (0.1, 0.3)]
        terms.append(np.mean(np.exp(np.array(changed) - dirichlet_multinomial.logpmf(since, prior, n))) / 50)
    assert log_evidence(starts, total, policy) == pytest.approx(np.log(sum(terms)))


def test_nothing_seen_is_no_evidence():
    policy = DriftAlarms(chunks_per_year=50)
    assert log_evidence(np.tile(BEFORE, (3, 1)), BEFORE, policy) == pytest.approx(np.log(3 / 50))


def test_evidence_is_worth_one_on_average_if_nothing_changed():
    rng = np.random.default_rng(5)
    policy = DriftAlarms(effect_sizes=(0.1, 0.3), chunks_per_year=1)
    reference = np.array([120.0, 60, 20])
    worth = []
    for _ in range(4000):
        shares = rng.dirichlet(reference + 0.5)
        since = rng.multinomial(60, shares)
        worth.append(np.exp(log_evidence(reference[None], reference + since, policy)))
    assert np.mean(worth) == pytest.approx(1, abs=4 * np.std(worth) / len(worth) ** 0.5)
    assert np.std(worth) > 0.1


def test_tests_of_successive_chunks_are_independent_though_they_share_a_small_reference():
    rng = np.random.default_rng(11)
    level, both, once = 0.2, 0, 0
    for _ in range(1500):
        pool, p_values = rng.multinomial(300, [0.25] * 4).astype(float), []
        for _ in range(2):
            chunk = rng.multinomial(900, [0.25] * 4)
            found = two_sample_test(pool, chunk, 5)
            assert isinstance(found, TwoSample)
            p_values.append(found.p_value <= level)
            pool += chunk
        once += sum(p_values) / 2
        both += all(a and b for a, b in pairwise(p_values))
    assert once / 1500 == pytest.approx(level, abs=0.03)
    # Against the reference alone the second chunk would be rejected with the first in 0.10 instead of 0.04.
    assert both / 1500 == pytest.approx(level**2, abs=0.015)
