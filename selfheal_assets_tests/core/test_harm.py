"""Findings and rows of harm: what fails, what cannot tell, and what each row says."""

import math
from datetime import datetime

import numpy as np
import pytest
from scipy.stats import norm

from selfheal_assets.core.betting import bet_on, error_counts
from selfheal_assets.core.evidence_policy import HarmAlarms
from selfheal_assets.core.harm import (
    ALARM_SCHEMA,
    joint_finding,
    partial_harm_finding,
    partial_row,
    ranking_finding,
    realized_harm_finding,
    realized_row,
)
from selfheal_assets.core.metrics import roc_auc, roc_auc_error
from selfheal_assets.core.monitoring import Finding, Status, unknown
from selfheal_assets.core.partial_labels import partial_alarm
from selfheal_assets_tests.core.test_partial_labels import counts_of

POLICY = HarmAlarms(age_bands=1)
REFERENCE = error_counts(10_000, 700)
CHUNKS = [datetime(2020, month, 1) for month in (1, 2, 3)]


def realized(*errors: int, rows: int = 500, reference=REFERENCE, policy: HarmAlarms = POLICY):
    return bet_on(reference, [error_counts(rows, e) for e in errors], policy)


def test_realized_harm_fails_and_health_passes():
    bad, good = realized_harm_finding(realized(35, 70, 80)), realized_harm_finding(realized(35, 30, 36))
    assert (bad.check, bad.status) == ("realized_performance_holds", Status.failed)
    assert bad.statistic is not None and bad.limit is not None and bad.statistic >= bad.limit
    assert bad.limit == pytest.approx(math.log(40))
    assert good.status is Status.passed
    assert "error rate" in bad.reason


@pytest.mark.parametrize(
    ("bet", "why"),
    [
        (realized(), "0 labelled rows so far; min_rows asks for 200"),
        (realized(1, rows=1), "1 labelled rows so far"),
        (realized(35, reference=error_counts(50, 3)), "50 labelled rows in the reference"),
        (realized(35, policy=HarmAlarms(partial_share=1.0)), "no budget to realized losses"),
    ],
)
def test_realized_losses_that_cannot_tell(bet, why):
    finding = realized_harm_finding(bet)
    assert finding.status is Status.insufficient
    assert why in finding.reason
    row = realized_row(bet, CHUNKS[: len(bet.seen)], "error rate").row(0, named=True)
    assert row["statistic"] is row["first_chunk"] is row["direction"] is None
    assert row["status"] == "INSUFFICIENT_DATA"


def test_the_realized_row_says_it_all():
    frame = realized_row(realized(30, 80, 80), CHUNKS, "error rate")
    assert dict(frame.schema) == ALARM_SCHEMA
    row = frame.row(0, named=True)
    assert (row["evidence"], row["status"], row["direction"]) == ("realized", "FAIL", "more")
    assert row["first_chunk"] in CHUNKS[:2]
    assert row["budget"] == pytest.approx(0.025)
    assert row["budget_spent"] == pytest.approx(0.025 * (0.75 + 2 * 0.25 / 51))
    assert row["effect_lower"] < row["effect"] < row["effect_upper"]


def test_the_partial_row_and_finding_agree():
    reference = counts_of([200.0], [200.0])
    for counts, status in (
        (counts_of([90.0], [30.0]), Status.failed),
        (counts_of([30.0], [30.0]), Status.passed),
        (counts_of([3.0], [3.0]), Status.insufficient),
    ):
        alarm = partial_alarm(counts, reference, POLICY)
        finding, row = partial_harm_finding(alarm), partial_row(alarm, POLICY).row(0, named=True)
        assert finding.check == "calibration_holds"
        assert finding.status is status
        assert row["status"] == status.value
        assert row["statistic"] == finding.statistic == alarm.log_e
        assert row["reason"] == finding.reason == alarm.reason
        assert dict(partial_row(alarm, POLICY).schema) == ALARM_SCHEMA


def test_a_test_without_budget_has_no_limit_in_its_row():
    policy = HarmAlarms(age_bands=1, partial_share=0.0)
    alarm = partial_alarm(counts_of([90.0], [30.0]), counts_of([200.0], [200.0]), policy)
    assert not alarm.harmful
    assert partial_row(alarm, policy)["limit"][0] is None


# Ranking: by how far a matured cohort's ROC AUC is below the reference's.


def ranked(seed: int, auc: float, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Labels, a quarter of them positive, and scores that are normal in each class and have this ROC AUC."""
    rng = np.random.default_rng(seed)
    label = (np.arange(rows) % 4 == 0).astype(np.int8)
    return label, norm.cdf(rng.normal(size=rows) + math.sqrt(2) * norm.ppf(auc) * label)


def failures(auc: float, alpha: float, trials: int) -> int:
    found = (ranking_finding(*ranked(s, auc), 0.75, 0.05, alpha) for s in range(trials))
    return sum(f.status is Status.failed for f in found)


def test_a_ranking_at_the_limit_fails_as_seldom_as_the_level_says():
    """The worst case that is no harm yet; nor is the test idle: its level is used up."""
    alpha, trials = 0.05, 1200
    error = math.sqrt(alpha * (1 - alpha) / trials)
    share = failures(0.70, alpha, trials) / trials
    assert alpha - 4 * error < share < alpha + 4 * error
    assert failures(0.75, alpha, 300) / 300 < alpha / 2


def test_a_small_references_luck_is_no_harm():
    """The unchanged champion's AUC is 0.70 throughout; references of 250 rows scatter by 0.035 around it."""
    alpha, trials = 0.001, 250
    cohorts = [ranked(10_000 + s, 0.70, rows=5_000) for s in range(5)]

    def fails(seed: int, known: float) -> bool:
        reference = ranked(seed, 0.70, rows=250)
        auc, error = roc_auc(*reference), roc_auc_error(*reference)
        found = ranking_finding(*cohorts[seed % 5], auc, 0.05, alpha, known * error)
        return found.status is Status.failed

    assert sum(fails(s, known=0) for s in range(trials)) > 2, "taken for known, luck looks like harm"
    assert sum(fails(s, known=1) for s in range(trials)) <= 2
    lost = ranking_finding(*ranked(1, 0.5, rows=5_000), 0.70, 0.05, alpha, 0.035)
    assert "reference 0.700 (standard error 0.035), limit 0.650" in lost.reason
    assert lost.status is Status.failed


def test_a_lost_ranking_is_found():
    assert failures(0.5, 0.001, 50) == 50


def test_the_ranking_says_value_limit_and_what_it_allows_itself():
    label, probability = ranked(1, 0.5)
    found = ranking_finding(label, probability, 0.75, 0.05, 0.001)
    auc = np.mean(probability[label == 1][:, None] > probability[label == 0][None, :])
    assert (found.check, found.status) == ("realized_performance_holds", Status.failed)
    assert (found.statistic, found.limit) == pytest.approx((auc, 0.70))
    assert f"realized ROC AUC {auc:.3f} on 400 matured cases" in found.reason
    assert "but for a chance of 0.001; reference 0.750, limit 0.700" in found.reason
    bound = float(found.reason.split("at most ")[1].split()[0])
    assert auc < bound < 0.70
    # The same data, less sure: a bound at half a per mill lies higher than one at five per cent.
    looser = ranking_finding(label, probability, 0.75, 0.05, 0.05)
    assert float(looser.reason.split("at most ")[1].split()[0]) < bound


@pytest.mark.parametrize("label", [[], [1, 1, 1], [0, 0, 0], [0, 1, 1]])
def test_a_ranking_without_enough_of_both_classes_cannot_tell(label):
    found = ranking_finding(
        np.array(label, dtype=np.int8), np.linspace(0.1, 0.9, len(label)), 0.75, 0.05, 0.01
    )
    assert (found.status, found.statistic, found.limit) == (Status.insufficient, None, None)
    assert found.reason


# One check's answer from several tests of it.

BAD = Finding("realized_performance_holds", Status.failed, "far below", 0.6, 0.7)
GOOD = Finding("realized_performance_holds", Status.passed, "as before", 1.2, 3.7)
UNTOLD = unknown("realized_performance_holds", "too few")


@pytest.mark.parametrize(
    ("parts", "leading"),
    [
        ([GOOD, BAD], BAD),
        ([UNTOLD, BAD], BAD),
        ([UNTOLD, GOOD], GOOD),
        ([UNTOLD, GOOD, BAD], BAD),
        ([UNTOLD, UNTOLD], UNTOLD),
        ([GOOD], GOOD),
    ],
)
def test_any_failure_fails_and_one_that_can_tell_is_enough(parts, leading):
    found = joint_finding(parts)
    assert (found.check, found.status) == (leading.check, leading.status)
    assert (found.statistic, found.limit) == (leading.statistic, leading.limit)
    assert found.reason.startswith(leading.reason)
    assert sorted(found.reason.split("; ")) == sorted(p.reason for p in parts)


def test_of_two_failures_the_first_leads():
    other = Finding(BAD.check, Status.failed, "losses", 9.0, 3.7)
    assert joint_finding([other, GOOD, BAD]).statistic == 9.0


def test_no_test_is_no_answer():
    with pytest.raises(ValueError, match="no test"):
        joint_finding([])
