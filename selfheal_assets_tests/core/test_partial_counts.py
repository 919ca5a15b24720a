"""What is known so far against what should be: counts by cohort and age band, and rows for people."""

import math
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfheal_assets.core.evidence_policy import HarmAlarms
from selfheal_assets.core.maturity import TimingCurve
from selfheal_assets.core.partial_counts import (
    COHORT_SCHEMA,
    COUNT_SCHEMA,
    cohort_rows,
    hazard_counts,
    newest_counts,
    smoothed_knowledge,
    usable_cases,
)

FIRST, SECOND = datetime(2020, 1, 1), datetime(2020, 4, 1)
POLICY = HarmAlarms(age_bands=4, min_positives=5, tolerated_ratio=(0.8, 1.6))
# 25 positives in each of four bands of 100 days, so that half a positive more in each changes nothing.
EVEN = TimingCurve(np.repeat([50.0, 150.0, 250.0, 350.0], 25), 400.0)
Row = tuple[datetime | None, float | None, float | None, float | None]


def cases(*rows: Row) -> pl.DataFrame:
    """``cohort``, ``age_days``, ``probability``, ``positive_age_days``."""
    schema = {
        "cohort": pl.Datetime("us"), "age_days": pl.Float64, "probability": pl.Float64,
        "positive_age_days": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_knowledge_has_half_a_positive_more_in_each_band():
    curve = TimingCurve(np.array([10.0, 20.0, 390.0, 400.0]), 400.0)
    assert smoothed_knowledge(curve, 4) == pytest.approx([0, 2.5 / 6, 3 / 6, 3.5 / 6, 1])
    assert smoothed_knowledge(TimingCurve(np.empty(0), 400.0), 4) == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_hazard_by_hand():
    counts = hazard_counts(cases((FIRST, 150.0, 0.4, None), (FIRST, 350.0, 0.2, 250.0)), EVEN, POLICY)
    assert dict(counts.schema) == COUNT_SCHEMA
    assert counts["age_band"].to_list() == [0, 1, 2, 3]
    assert counts["observed"].to_list() == [0, 0, 1, 0]

    def hazard(p: float, q: float, start: float, end: float) -> float:
        """The first is at risk until day 150, the second until it turned positive on day 250."""
        return math.log(1 - p * start) - math.log(1 - p * end) if end > start else 0.0 * q

    for column, times in (("expected", 1.0), ("expected_at_most", 1 / 0.8), ("expected_at_least", 1 / 1.6)):
        a, b = 0.4 * times, 0.2 * times
        by_hand = [
            hazard(a, 0, 0, 0.25) + hazard(b, 0, 0, 0.25),
            hazard(a, 0, 0.25, 0.375) + hazard(b, 0, 0.25, 0.5),
            hazard(b, 0, 0.5, 0.625),
            0.0,
        ]
        assert counts[column].to_list() == pytest.approx(by_hand)


def test_nothing_is_at_risk_beyond_the_horizon():
    old, ripe = (
        hazard_counts(cases((FIRST, age, 0.3, None)), EVEN, POLICY)["expected"].sum()
        for age in (9999.0, 400.0)
    )
    assert old == ripe == pytest.approx(-math.log(0.7))


def test_a_positive_learned_after_the_horizon_counts_in_the_last_band():
    assert hazard_counts(cases((FIRST, 500.0, 0.3, 450.0)), EVEN, POLICY)["observed"].to_list() == [
        0,
        0,
        0,
        1,
    ]


def test_observed_less_hazard_is_nought_on_average_at_every_age():
    """The martingale itself: 40,000 cases whose probabilities and timing are right, seen at five ages."""
    rng = np.random.default_rng(3)
    p = rng.uniform(0, 0.6, 40_000)
    turned = np.where(rng.uniform(size=p.size) < p, rng.uniform(0, 400, p.size), np.nan)
    for age in (30.0, 120.0, 260.0, 399.0, 900.0):
        known = np.where(turned < age, turned, np.nan)
        frame = pl.DataFrame(
            {
                "cohort": [FIRST] * p.size,
                "age_days": np.full(p.size, age),
                "probability": p,
                "positive_age_days": pl.Series(known).fill_nan(None),
            }
        )
        counts = hazard_counts(frame, EVEN, POLICY)
        away = (counts["observed"] - counts["expected"]).to_numpy()
        assert np.abs(away).max() < 4 * math.sqrt(counts["expected"].sum())


def test_counts_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(4)
    rows = [
        (FIRST if i % 3 else SECOND, float(a), float(a) / 500, None)
        for i, a in enumerate(rng.uniform(0, 500, 60))
    ]
    one, other = (hazard_counts(cases(*r), EVEN, POLICY) for r in (rows, rows[::-1]))
    assert one.drop("expected", "expected_at_most", "expected_at_least").equals(
        other.drop("expected", "expected_at_most", "expected_at_least")
    )
    assert one["expected"].to_numpy() == pytest.approx(other["expected"].to_numpy())


def test_newer_counts_replace_their_cohorts_and_keep_the_others():
    """A cohort grown older, with a label taken back, is counted again; the state equals one count of everything."""
    young = hazard_counts(cases((FIRST, 100.0, 0.4, 90.0), (SECOND, 10.0, 0.4, None)), EVEN, POLICY)
    older = hazard_counts(cases((SECOND, 200.0, 0.4, 150.0)), EVEN, POLICY)
    merged = newest_counts(young, older)
    whole = hazard_counts(cases((FIRST, 100.0, 0.4, 90.0), (SECOND, 200.0, 0.4, 150.0)), EVEN, POLICY)
    assert merged.equals(whole)
    corrected = newest_counts(merged, hazard_counts(cases((FIRST, 100.0, 0.4, None)), EVEN, POLICY))
    assert corrected["observed"].sum() == 1


def test_cohort_rows_by_hand():
    frame = cases((SECOND, 50.0, 0.9, None), (FIRST, 160.0, 0.4, 150.0), (FIRST, 500.0, 0.2, None))
    rows = cohort_rows(frame, EVEN, 100, HarmAlarms(min_positives=1))
    assert dict(rows.schema) == COHORT_SCHEMA
    old, young = rows.to_dicts()
    assert old["cohort"] == FIRST
    assert (old["rows"], old["mean_age_days"], old["share_known"]) == (2, 330.0, 0.75)
    assert (old["expected"], old["observed"]) == pytest.approx((0.4, 1.0))
    assert old["variance"] == pytest.approx(0.2 * 0.8 + 0.2 * 0.8)
    assert (old["lower"], old["upper"], old["reason"]) == (0.0, 2.0, None)
    assert young["expected"] == pytest.approx(0.9 / 4)
    assert "0.2 positives expected and 0 observed so far among 1 cases" in young["reason"]
    assert "about 5 cases" in young["reason"]


def test_the_range_holds_95_of_100_counts_and_widens_with_a_small_reference():
    frame = cases(*[(FIRST, 500.0, 0.05, None)] * 2000)
    row = cohort_rows(frame, EVEN, 1e7, POLICY).row(0, named=True)
    drawn = np.random.default_rng(0).binomial(2000, 0.05, 20_000)
    held = np.mean((drawn >= row["lower"]) & (drawn <= row["upper"]))
    assert 0.94 < held < 0.975
    wide = cohort_rows(frame, EVEN, 50, POLICY).row(0, named=True)
    assert wide["lower"] < row["lower"] < 100 < row["upper"] < wide["upper"]
    spread = (wide["upper"] - wide["lower"]) / 2 / 1.96
    assert spread == pytest.approx(math.sqrt(100 + 100**2 / 50.5), rel=0.1)


BAD: list[tuple[Row, str]] = [
    ((FIRST, -1.0, 0.1, None), "age below 0"),
    ((FIRST, None, 0.1, None), "age below 0 or none"),
    ((FIRST, math.inf, 0.1, None), "age below 0 or none"),
    ((FIRST, 10.0, None, None), "without a probability"),
    ((FIRST, 10.0, math.nan, None), "without a probability"),
    ((FIRST, 10.0, 1.5, None), "without a probability"),
    ((FIRST, 10.0, 0.1, -3.0), "labelled before they happened"),
    ((FIRST, 10.0, 0.1, math.nan), "labelled before they happened"),
]


@pytest.mark.parametrize(("row", "why"), BAD)
def test_a_case_that_cannot_be_placed_is_left_out_and_said(row, why):
    good: Row = (FIRST, 500.0, 0.5, None)
    rows = cohort_rows(cases(row, good, row), EVEN, 100, POLICY)
    assert rows["rows"].to_list() == [1]
    assert "2 cases left out" in rows["reason"][0]
    assert why in rows["reason"][0]
    assert hazard_counts(cases(row, good), EVEN, POLICY).equals(hazard_counts(cases(good), EVEN, POLICY))
    alone = cohort_rows(cases(row), EVEN, 100, POLICY).row(0, named=True)
    assert (alone["rows"], alone["expected"], alone["lower"]) == (0, None, None)
    assert alone["reason"].endswith("no usable case")


def test_cases_of_no_cohort_are_said_too():
    rows = cohort_rows(cases((None, 10.0, 0.1, None), (FIRST, 500.0, 0.5, None)), EVEN, 100, POLICY)
    assert (
        rows.filter(pl.col("cohort").is_null())["reason"][0]
        == "1 cases left out: without a cohort; no usable case"
    )


def test_a_label_from_the_future_is_refused():
    with pytest.raises(ValueError, match="1 positive labels are older than their case"):
        usable_cases(cases((FIRST, 10.0, 0.1, 11.0)))


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match="lack positive_age_days"):
        usable_cases(cases((FIRST, 10.0, 0.1, None)).drop("positive_age_days"))


def test_no_cases_are_empty_frames():
    assert hazard_counts(cases(), EVEN, POLICY).schema == pl.Schema(COUNT_SCHEMA)
    assert cohort_rows(cases(), EVEN, 100, POLICY).equals(pl.DataFrame(schema=COHORT_SCHEMA))


def test_probabilities_of_nought_and_one_are_finite():
    counts = hazard_counts(cases((FIRST, 500.0, 1.0, None), (FIRST, 500.0, 0.0, 100.0)), EVEN, POLICY)
    assert all(np.isfinite(counts[c].to_numpy()).all() for c in counts.columns[2:])
    assert counts["expected"].sum() == pytest.approx(-math.log(1e-6))


any_case = st.tuples(
    st.sampled_from([FIRST, SECOND, None]),
    st.one_of(st.none(), st.floats(-10, 900), st.just(math.nan), st.just(math.inf)),
    st.one_of(st.none(), st.floats(-0.1, 1.1), st.just(math.nan)),
    st.none(),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(any_case, max_size=12), st.lists(st.floats(0, 400), max_size=6))
def test_any_cases_give_rows_without_nan(rows, ages):
    curve = TimingCurve(np.sort(ages), 400.0)
    counts = hazard_counts(cases(*rows), curve, POLICY)
    shown = cohort_rows(cases(*rows), curve, len(ages), POLICY)
    for frame in (counts, shown):
        for column in frame.select(pl.selectors.float()):
            assert not column.is_nan().any()
    # A figure that is missing has its reason.
    assert shown.filter(pl.col("lower").is_null() & pl.col("reason").is_null()).is_empty()
