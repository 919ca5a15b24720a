"""Chunks tile time without gap or overlap, and months end where the calendar says."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfheal_assets.core.periods import add_months, chunk_end, chunk_label, chunk_start, shift_chunks

PERIODS = ["day", "week", "month", "quarter"]
moments = st.datetimes(datetime(1990, 1, 1), datetime(2050, 1, 1))


@pytest.mark.parametrize(
    ("moment", "months", "expected"),
    [
        (datetime(2020, 1, 31), 1, datetime(2020, 2, 29)),
        (datetime(2021, 1, 31), 1, datetime(2021, 2, 28)),
        (datetime(2020, 2, 29), 12, datetime(2021, 2, 28)),
        (datetime(2020, 3, 31), -1, datetime(2020, 2, 29)),
        (datetime(2020, 12, 15, 8, 30), 1, datetime(2021, 1, 15, 8, 30)),
        (datetime(2020, 5, 5), 0, datetime(2020, 5, 5)),
    ],
)
def test_months_are_the_calendars(moment, months, expected):
    assert add_months(moment, months) == expected


@pytest.mark.parametrize(
    ("period", "start", "end", "label"),
    [
        ("day", datetime(2020, 2, 29), datetime(2020, 3, 1), "2020-02-29"),
        ("week", datetime(2020, 2, 24), datetime(2020, 3, 2), "2020-02-24"),
        ("month", datetime(2020, 2, 1), datetime(2020, 3, 1), "2020-02"),
        ("quarter", datetime(2020, 1, 1), datetime(2020, 4, 1), "2020 Q1"),
    ],
)
def test_the_chunk_of_a_leap_day(period, start, end, label):
    moment = datetime(2020, 2, 29, 23, 59, 59, 999999)
    assert chunk_start(moment, period) == start
    assert chunk_end(start, period) == end
    assert chunk_label(start, period) == label


@pytest.mark.parametrize("month", range(1, 13))
def test_quarters_begin_in_their_month(month):
    start = chunk_start(datetime(2021, month, 28), "quarter")
    assert start == datetime(2021, {1: 1, 2: 4, 3: 7, 4: 10}[(month + 2) // 3], 1)
    assert chunk_label(start, "quarter") == f"2021 Q{(month + 2) // 3}"


@pytest.mark.parametrize("period", PERIODS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(moment=moments)
def test_each_moment_is_in_exactly_one_chunk(period, moment):
    start = chunk_start(moment, period)
    end = chunk_end(start, period)
    assert start <= moment < end
    assert chunk_start(start, period) == start
    assert chunk_start(end, period) == end
    assert chunk_start(end - timedelta(microseconds=1), period) == start


@pytest.mark.parametrize("period", PERIODS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(moment=moments, count=st.integers(-40, 40))
def test_shifting_is_stepping(period, moment, count):
    start = chunk_start(moment, period)
    shifted = shift_chunks(start, period, count)
    assert shift_chunks(shifted, period, -count) == start
    assert chunk_start(shifted, period) == shifted
    assert shift_chunks(start, period, count + 1) == chunk_end(shifted, period)
