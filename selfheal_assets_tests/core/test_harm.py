"""Findings and rows of harm: what fails, what cannot tell, and what each row says."""

import math
from datetime import datetime

import pytest

from selfheal_assets.core.betting import bet_on, error_counts
from selfheal_assets.core.harm import (
    ALARM_SCHEMA,
    partial_harm_finding,
    partial_row,
    realized_harm_finding,
    realized_row,
)
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.partial_labels import partial_alarm
from selfheal_assets.core.spec import HarmAlarms
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
