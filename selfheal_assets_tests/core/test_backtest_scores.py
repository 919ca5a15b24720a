"""When a promotion is regretted, which alarm was false, how late a change was found."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.backtest import ALARMS, EVENTS
from selfheal_assets.core.backtest_scores import Promotion, alarms_judged, detection, regret

MONTHS = [datetime(2020, m, 1) for m in range(1, 13)]
ENDS = dict(zip(MONTHS, [*MONTHS[1:], datetime(2021, 1, 1)], strict=True))


def events(*starts: datetime) -> pl.DataFrame:
    rows = [(f"{n}", s, s + timedelta(days=99), True) for n, s in enumerate(starts)]
    return pl.DataFrame(rows, schema=EVENTS, orient="row")


def alarms(*months: int) -> pl.DataFrame:
    rows = [("it", MONTHS[m - 1], "drift_within_limits", None, "") for m in months]
    return pl.DataFrame(rows, schema=ALARMS, orient="row")


def test_a_promotion_is_regretted_where_the_model_before_would_have_lost_less():
    label = np.array([1, 0, 0, 1], dtype=np.int8)
    good, bad = np.array([0.9, 0.1, 0.1, 0.9]), np.array([0.5, 0.5, 0.5, 0.5])
    worse, better = regret(Promotion(label, bad, good)), regret(Promotion(label, good, bad))
    assert worse and better
    assert worse.value == pytest.approx(np.log(0.9) - np.log(0.5)) == -better.value
    assert [worse.lower, worse.upper] == pytest.approx([worse.value] * 2), "each case says the same"


def test_a_few_cases_prove_no_regret():
    rng = np.random.default_rng(0)
    label = (rng.uniform(size=40) < 0.5).astype(np.int8)
    found = regret(Promotion(label, rng.uniform(0.3, 0.7, 40), rng.uniform(0.3, 0.7, 40)))
    assert found and found.lower < 0 < found.upper


def test_without_cases_nobody_knows():
    none = np.array([])
    assert regret(Promotion(none, none, none)) is None


def test_an_alarm_is_false_only_before_the_first_event():
    judged = alarms_judged(alarms(2, 4, 5), events(datetime(2020, 4, 10)), ENDS)
    assert judged["false_alarm"].to_list() == [True, False, False]
    assert alarms_judged(alarms(2), events(), ENDS)["false_alarm"].to_list() == [None]


def test_the_delay_is_from_the_event_to_the_end_of_the_chunk_that_alarms():
    happened = events(datetime(2020, 3, 2), datetime(2020, 8, 1))
    judged = alarms_judged(alarms(1, 4, 6), happened, ENDS)
    found = detection(judged, happened, ENDS, watches=True)
    assert found == {"false_alarms": 1, "events": 2, "detected": 1, "detection_delay_days": 60.0}


def test_who_does_not_watch_has_no_delay():
    assert set(detection(alarms(), events(MONTHS[2]), ENDS, watches=False).values()) == {None}
    assert set(detection(alarms(3), events(), ENDS, watches=True).values()) == {None}
