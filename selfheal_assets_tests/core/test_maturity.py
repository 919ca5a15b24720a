"""What should be known by now: the timing curve, and a test that may be looked at often."""

import math
from datetime import date, datetime, timedelta

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfheal_assets.core.maturity import (
    DAYS_PER_MONTH,
    TimingCurve,
    fit_timing_curve,
    log_likelihood_ratios,
    log_losses_so_far,
)
from selfheal_assets.core.metrics import log_loss
from selfheal_assets.core.periods import add_months
from selfheal_assets.core.plan import plan_training
from selfheal_assets.core.spec import LabelSpec, Period, Training
from selfheal_assets_tests.core.generated import days, untrained

LABEL = LabelSpec(name="bad", positive_at="bad_on", horizon_months=12)
HORIZON = 12 * DAYS_PER_MONTH
OPENED = datetime(2020, 1, 1)


def curve_of(ages: list[float | None], labels: list[int] | None = None) -> TimingCurve:
    frame = pl.DataFrame(
        {
            "event_time": [OPENED] * len(ages),
            "recorded_at": pl.Series(
                [None if a is None else OPENED + days(a) for a in ages], dtype=pl.Datetime("us")
            ),
            "label": pl.Series(labels or [1] * len(ages), dtype=pl.Int8),
        },
        schema_overrides={"event_time": pl.Datetime("us")},
    )
    return fit_timing_curve(frame, LABEL)


def test_timing_curve_by_hand():
    curve = curve_of([90, 30, 30, 300, 50, None], labels=[1, 1, 1, 1, 0, 0])
    ages = np.array([0, 29.9, 30, 89, 90, 299, 300, HORIZON, 9999])
    assert curve.known_by(ages).tolist() == [0, 0, 0.5, 0.5, 0.75, 0.75, 1, 1, 1]


def test_positives_recorded_late_are_known_at_the_horizon_only():
    curve = curve_of([30, HORIZON + 40])
    assert curve.known_by(np.array([HORIZON - 0.01, HORIZON])).tolist() == [0.5, 1]


@pytest.mark.parametrize("ages", [[], [None, None]])
def test_without_matured_positives_nothing_is_expected_before_the_horizon(ages):
    curve = curve_of(ages)
    assert curve.known_by(np.array([0.0, HORIZON - 1, HORIZON])).tolist() == [0, 0, 1]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.floats(-5, 800), max_size=20), st.lists(st.floats(0, 800), min_size=2, max_size=20))
def test_timing_curve_is_a_distribution_function(ages, at):
    known = curve_of(ages).known_by(np.sort(at))
    assert ((known >= 0) & (known <= 1)).all()
    assert (np.diff(known) >= 0).all()
    assert curve_of(ages).known_by(np.array([HORIZON])).tolist() == [1]


def test_log_likelihood_ratios_by_hand():
    found = log_likelihood_ratios(
        np.array([0.2, 0.2]), np.array([0.4, 0.5]), np.array([1, 0]), np.array([0.7, 0.5])
    )
    assert found.tolist() == pytest.approx([math.log(0.4 / 0.2), math.log((1 - 0.25) / (1 - 0.1))])


def test_log_likelihood_ratios_of_equal_models_are_zero():
    p, nothing = np.array([0.1, 0.9]), np.empty(0)
    assert log_likelihood_ratios(p, p, np.array([1, 0]), np.array([0.3, 1.0])).tolist() == [0, 0]
    assert log_likelihood_ratios(nothing, nothing, nothing, nothing).tolist() == []


def test_certain_models_keep_the_ratios_finite():
    certain, unsure = np.array([0.0, 1.0]), np.array([0.5, 0.5])
    for outcome in ([0, 0], [1, 1], [0, 1], [1, 0]):
        assert np.isfinite(log_likelihood_ratios(certain, unsure, np.array(outcome), np.ones(2))).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.datetimes(datetime(2004, 1, 1), datetime(2012, 1, 1)))
def test_every_case_of_an_evaluation_window_is_mature_by_the_warehouses_calendar(horizon, as_of):
    """The window's end (core, dateutil) and ``is_mature`` (DuckDB) agree, at months' ends and in leap years too."""
    label = LabelSpec(name="bad", column="bad", horizon_months=horizon)
    reference = Period(start=date(1990, 1, 1), end=date(1991, 1, 1))
    champion = untrained(until=datetime(1995, 1, 1))
    end = plan_training(as_of, label, Training(), champion, reference).evaluate_until
    query = f"select cast(? as timestamp) + to_months({horizon}) < cast(? as timestamp)"
    with duckdb.connect() as connection:
        last = end - timedelta(microseconds=1)
        assert connection.execute(query, [last, as_of]).fetchone() == (True,)
        # Where no day was clipped to a shorter month, the end itself matures at as_of, which is not before it.
        if add_months(end, horizon) == as_of:
            assert connection.execute(query, [end, as_of]).fetchone() == (False,)


def test_the_loss_of_labels_so_far_by_hand():
    p, positive, due = np.array([0.4, 0.4, 0.5]), np.array([1, 0, 0]), np.array([0.25, 0.25, 0.0])
    by_hand = -(math.log(0.4) + math.log(1 - 0.4 * 0.25) + math.log(1)) / 3
    assert log_losses_so_far(p, positive, due).mean() == pytest.approx(by_hand)


def test_the_loss_of_labels_so_far_is_the_log_loss_where_all_are_mature():
    rng = np.random.default_rng(1)
    p, label = rng.uniform(0.01, 0.99, 500), rng.integers(0, 2, 500)
    assert log_losses_so_far(p, label, np.ones(500)).mean() == pytest.approx(log_loss(label, p))


@pytest.mark.parametrize("off", [0.8, 0.9, 1.1, 1.25])
def test_the_loss_of_labels_so_far_is_proper(off):
    """Young or old, the true probability has the least expected loss."""
    p, due = np.full(9, 0.3), np.linspace(0.1, 1, 9)

    def expected(q: np.ndarray) -> float:
        likely = p * due
        parts = [
            w * log_losses_so_far(q[i : i + 1], np.array([y]), due[i : i + 1]).mean()
            for i in range(9)
            for y, w in ((1, likely[i]), (0, 1 - likely[i]))
        ]
        return sum(parts)

    assert expected(p) < expected(off * p)
