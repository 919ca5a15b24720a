"""Harm in labels so far: bounded false alarms over all looks, early detection, the right cohort and direction."""

import math
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import gamma, poisson

from selfheal_assets.core.evidence_policy import HarmAlarms
from selfheal_assets.core.maturity import TimingCurve
from selfheal_assets.core.partial_counts import COUNT_SCHEMA, hazard_counts, newest_counts
from selfheal_assets.core.partial_labels import (
    PartialAlarm,
    log_wealth_by_start,
    partial_alarm,
    poisson_ratio,
)
from selfheal_assets.core.periods import add_months

START, HORIZON = datetime(2020, 1, 1), 360.0
POLICY = HarmAlarms(horizon_chunks=12, partial_share=1.0, age_bands=12)
ONE_BAND = HarmAlarms(age_bands=1, partial_share=1.0, hazard_factors=(2.0,), min_positives=1)


def loans(rng: np.random.Generator, rows: int, harm: float) -> pl.DataFrame:
    """``probability``, ``turned_days``: scores of about 0.06, outcomes whose odds are ``harm`` times theirs."""
    p = rng.beta(2, 30, rows)
    true = harm * p / (1 - p + harm * p)
    turned = np.where(rng.random(rows) < true, HORIZON * rng.beta(2, 1.2, rows), np.nan)
    return pl.DataFrame({"probability": p, "turned_days": pl.Series(turned).fill_nan(None)})


def seen(frame: pl.DataFrame, cohort: datetime, age: float) -> pl.DataFrame:
    turned = pl.col("turned_days")
    return frame.select(
        "probability",
        cohort=pl.lit(cohort).cast(pl.Datetime("us")),
        age_days=pl.lit(age),
        positive_age_days=pl.when(turned <= age).then(turned),
    )


class World:
    """Monthly cohorts that are looked at every month as they grow older."""

    def __init__(self, seed: int, harms: list[float], rows: int = 600, reference_rows: int = 6000) -> None:
        rng = np.random.default_rng(seed)
        old = loans(rng, reference_rows, 1.0)
        self.curve = TimingCurve(np.sort(old["turned_days"].drop_nulls().to_numpy()), HORIZON)
        self.reference = hazard_counts(seen(old, datetime(2018, 1, 1), HORIZON), self.curve, POLICY)
        self.cohorts = [loans(rng, rows, harm) for harm in harms]

    def counts(self, look: int) -> pl.DataFrame:
        """Counts when ``look`` months have passed since the first cohort."""
        parts = [
            seen(frame, add_months(START, n), 30.0 * (look - n))
            for n, frame in enumerate(self.cohorts)
            if n < look
        ]
        return hazard_counts(pl.concat(parts), self.curve, POLICY)

    def first_alarm(self, policy: HarmAlarms = POLICY) -> tuple[int, PartialAlarm] | None:
        for look in range(1, len(self.cohorts) + 13):
            alarm = partial_alarm(self.counts(look), self.reference, policy)
            if alarm.harmful:
                return look, alarm
        return None


def test_a_right_champion_is_rarely_doubted_over_all_looks_and_all_cohorts():
    """The reference is small, so that its curve and calibration are off; a year's cohorts spend 5 %."""
    worlds = 50
    small = {"rows": 300, "reference_rows": 1500}
    alarmed = sum(World(s, [1.0] * 6, **small).first_alarm() is not None for s in range(worlds))
    assert alarmed <= worlds * (0.05 + 3 * math.sqrt(0.05 * 0.95 / worlds))


def test_harm_from_the_first_cohort_is_found_before_any_is_mature():
    found = [World(s, [2.5] * 12).first_alarm() for s in range(10)]
    assert all(f is not None for f in found)
    assert np.median([f[0] for f in found if f]) <= 6
    assert {f[1].direction for f in found if f} == {"more"}


def test_a_late_change_is_found_in_the_cohorts_that_it_touches():
    found = [World(s, [1.0] * 8 + [3.0] * 8).first_alarm() for s in range(6)]
    assert all(f is not None for f in found)
    firsts = [f[1].first_cohort for f in found if f]
    assert sorted(firsts)[3] in [add_months(START, n) for n in (7, 8, 9)]


def test_far_too_few_positives_are_found_too():
    hits = [World(s, [0.25] * 12).first_alarm() for s in range(5)]
    assert {h[1].direction for h in hits if h} == {"fewer"}
    assert sum(h is not None for h in hits) >= 4


def test_what_the_policy_tolerates_is_no_harm():
    assert not any(World(s, [1.2] * 12).first_alarm() for s in range(4))


def test_a_reference_that_is_off_itself_is_no_harm():
    """A champion that expects half of what its own held-out reference showed is judged against what it showed."""
    world = World(1, [1.0] * 12)
    halved = [f.with_columns(pl.col("probability") / 2) for f in world.cohorts]
    old = loans(np.random.default_rng(1), 6000, 1.0).with_columns(pl.col("probability") / 2)
    world.reference = hazard_counts(seen(old, datetime(2018, 1, 1), HORIZON), world.curve, POLICY)
    world.cohorts = halved
    assert world.first_alarm() is None


def counts_of(observed: list[float], expected: list[float]) -> pl.DataFrame:
    """Counts of one age band, by month."""
    return pl.DataFrame(
        {
            "cohort": pl.Series(
                [add_months(START, n) for n in range(len(observed))], dtype=pl.Datetime("us")
            ),
            "age_band": [0] * len(observed),
            "observed": observed,
            "expected": expected,
            "expected_at_most": [1.25 * e for e in expected],
            "expected_at_least": [0.8 * e for e in expected],
        },
        schema=COUNT_SCHEMA,
    )


def test_wealth_is_the_ratio_of_two_integrals():
    counts, reference = counts_of([3.0, 7.0], [4.0, 2.0]), counts_of([6.0], [5.0])

    def marginal(count: float, expected: float, shape: float) -> float:
        return quad(
            lambda theta: poisson.pmf(count, theta * expected) * gamma.pdf(theta, shape, scale=1 / 5), 0, 30
        )[0]

    more, fewer = log_wealth_by_start(counts, reference, ONE_BAND)
    assert more[1] == pytest.approx(math.log(marginal(7, 2.5, 13) / marginal(7, 2.5, 6.5)))
    assert more[0] == pytest.approx(math.log(marginal(10, 7.5, 13) / marginal(10, 7.5, 6.5)))
    assert fewer[1] == pytest.approx(math.log(marginal(7, 1.6, 3) / marginal(7, 1.6, 6)))


def test_the_factors_share_the_stake():
    counts, reference = counts_of([9.0], [4.0]), counts_of([6.0], [5.0])
    both = ONE_BAND.model_copy(update={"hazard_factors": (2.0, 3.0)})
    single = [ONE_BAND.model_copy(update={"hazard_factors": (f,)}) for f in (2.0, 3.0)]
    apart = [np.exp(log_wealth_by_start(counts, reference, policy)) for policy in single]
    assert np.exp(log_wealth_by_start(counts, reference, both)) == pytest.approx(sum(apart) / 2)


def test_wealth_is_one_on_average_where_nothing_changed():
    """The sum over every count of its chance, given a rate that the reference leaves, times the wealth."""
    reference, counts = counts_of([6.0], [5.0]), np.arange(400.0)
    wealth = np.array(
        [np.exp(log_wealth_by_start(counts_of([n], [4.0]), reference, ONE_BAND)[:, 0]) for n in counts]
    )
    for side, shape, expected in ((0, 6.5, 5.0), (1, 6.0, 3.2)):
        nodes = np.linspace(1e-4, 12, 6001)
        density = gamma.pdf(nodes, shape, scale=1 / 5)
        chance = (poisson.pmf(counts[:, None], nodes * expected) * density).sum(axis=1) * (
            nodes[1] - nodes[0]
        )
        assert float(chance @ wealth[:, side]) == pytest.approx(1, abs=1e-3)
    assert (np.diff(wealth[:, 0]) > 0).all()
    assert (np.diff(wealth[:, 1]) < 0).all()


def test_a_band_without_reference_positives_says_nothing_of_fewer():
    reference = counts_of([0.0], [5.0])
    assert log_wealth_by_start(counts_of([0.0], [100.0]), reference, ONE_BAND)[1].tolist() == [0.0]


def test_the_alarm_says_what_since_when_and_how_much():
    reference = counts_of([200.0], [200.0])
    alarm = partial_alarm(counts_of([20.0, 90.0, 95.0], [22.0, 30.0, 30.0]), reference, ONE_BAND)
    assert alarm.harmful
    assert (alarm.direction, alarm.first_cohort) == ("more", add_months(START, 1))
    assert (alarm.observed, alarm.expected, alarm.ratio) == (185, 60, pytest.approx(185 / 60))
    assert alarm.limit == pytest.approx(math.log(20))
    assert alarm.budget_spent == pytest.approx(0.05 * (0.75 + 2 * 0.25 / 51))
    more, fewer = log_wealth_by_start(counts_of([20.0, 90.0, 95.0], [22.0, 30.0, 30.0]), reference, ONE_BAND)
    assert alarm.log_e == pytest.approx(max(*more, *fewer) + math.log(0.25 / 51) - math.log(2))
    assert "185 observed so far in cohorts from 2020-02-01" in alarm.reason


def test_both_directions_share_the_budget():
    """A single cohort: half of the first stake is on more positives, half on fewer."""
    policy = ONE_BAND.model_copy(update={"horizon_chunks": 1})
    counts, reference = counts_of([60.0], [30.0]), counts_of([200.0], [200.0])
    by_hand = log_wealth_by_start(counts, reference, policy)[0, 0] + math.log(1 / 2)
    assert partial_alarm(counts, reference, policy).log_e == pytest.approx(by_hand)


def test_the_exact_interval_of_a_ratio():
    assert poisson_ratio(0, 2) == (0, 0, pytest.approx(-math.log(0.025) / 2))
    ratio, lower, upper = poisson_ratio(10, 5)
    assert ratio == 2
    assert poisson.sf(9, lower * 5) == pytest.approx(0.025)
    assert poisson.cdf(10, upper * 5) == pytest.approx(0.025)
    assert poisson_ratio(3, 0) == (None, None, None)


@pytest.mark.parametrize(
    ("counts", "reference", "why"),
    [
        (counts_of([], []), counts_of([50.0], [50.0]), "no case to look at"),
        (counts_of([1.0], [3.0]), counts_of([50.0], [50.0]), "3.0 positives expected and 1 observed so far"),
        (counts_of([90.0], [30.0]), counts_of([7.0], [50.0]), "7 positives in the reference"),
        (counts_of([90.0], [30.0]), counts_of([], []), "0 positives in the reference"),
    ],
)
def test_too_little_to_tell_is_said(counts, reference, why):
    alarm = partial_alarm(counts, reference, POLICY)
    assert alarm.insufficient
    assert not alarm.harmful
    assert alarm.log_e is alarm.ratio is None
    assert why in alarm.reason


@pytest.mark.parametrize(("age", "state"), [(0.0, "none mature"), (HORIZON + 1, "all mature")])
def test_all_or_none_mature(age, state):
    world = World(2, [1.0])
    counts = hazard_counts(seen(world.cohorts[0], START, age), world.curve, POLICY)
    alarm = partial_alarm(counts, world.reference, POLICY)
    assert alarm.insufficient == (state == "none mature")
    assert not alarm.harmful


def test_where_labels_come_at_the_horizon_young_cohorts_neither_alarm_nor_hide_mature_ones():
    """F is a step, and a positive before it is no more likely than the half one that each band is given."""
    curve = TimingCurve(np.full(200, HORIZON), HORIZON)

    def seen_at(age: float, positives: int, cohort: datetime, rows: int = 1000) -> pl.DataFrame:
        turned = [age if i < positives else None for i in range(rows)]
        frame = pl.DataFrame({"positive_age_days": pl.Series(turned, dtype=pl.Float64)})
        frame = frame.with_columns(
            cohort=pl.lit(cohort).cast(pl.Datetime("us")), age_days=pl.lit(age), probability=pl.lit(0.1)
        )
        return hazard_counts(frame, curve, POLICY)

    reference = seen_at(HORIZON, 1000, datetime(2018, 1, 1), 10_000)
    young, later = seen_at(100.0, 0, add_months(START, 8)), add_months(START, 9)
    many_young = pl.concat([young, seen_at(50.0, 0, later, 20_000)])
    assert partial_alarm(young, reference, POLICY).insufficient
    assert not partial_alarm(many_young, reference, POLICY).harmful
    mature = pl.concat([seen_at(HORIZON, 100, START), many_young])
    assert not partial_alarm(mature, reference, POLICY).harmful
    harmed = partial_alarm(pl.concat([seen_at(HORIZON, 200, START), many_young]), reference, POLICY)
    assert harmed.harmful
    assert (harmed.direction, harmed.first_cohort) == ("more", START)


def test_a_reference_that_expected_none_is_no_division_by_nought():
    alarm = partial_alarm(counts_of([30.0], [30.0]), counts_of([30.0], [0.0]), ONE_BAND)
    assert not alarm.harmful
    assert "in the reference not defined (none was expected)" in alarm.reason


def test_one_class_only_is_harm_or_too_few_positives():
    world = World(2, [1.0])
    every = world.cohorts[0].with_columns(turned_days=pl.lit(100.0))
    none = world.cohorts[0].with_columns(turned_days=pl.lit(None, dtype=pl.Float64))
    by_class = {
        name: partial_alarm(
            hazard_counts(seen(f, START, HORIZON), world.curve, POLICY), world.reference, POLICY
        )
        for name, f in (("positive", every), ("negative", none))
    }
    assert by_class["positive"].harmful
    assert by_class["negative"].direction == "fewer"


def test_looks_in_steps_end_where_one_look_ends():
    world = World(5, [1.0] * 4)
    state = world.counts(1)
    for look in (2, 5, 9, 16):
        state = newest_counts(state, world.counts(look))
    at_once = world.counts(16)
    assert partial_alarm(state, world.reference, POLICY) == partial_alarm(at_once, world.reference, POLICY)


def test_a_correction_takes_an_alarm_back():
    world = World(6, [1.0] * 2)
    wrong = world.cohorts[0].with_columns(turned_days=pl.lit(100.0))
    right = world.counts(14)
    harmed = newest_counts(right, hazard_counts(seen(wrong, START, HORIZON), world.curve, POLICY))
    assert partial_alarm(harmed, world.reference, POLICY).harmful
    assert not partial_alarm(newest_counts(harmed, right), world.reference, POLICY).harmful


amount = st.floats(0, 500)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 300), amount), max_size=6),
    st.lists(st.tuples(st.integers(0, 300), amount), max_size=2),
)
def test_any_counts_give_an_alarm_or_a_reason(counts, reference):
    frames = [counts_of([float(n) for n, _ in rows], [e for _, e in rows]) for rows in (counts, reference)]
    alarm = partial_alarm(*frames, ONE_BAND)
    assert alarm.reason
    if not alarm.insufficient:
        assert alarm.log_e is not None and math.isfinite(alarm.log_e)
        assert all(v is None or math.isfinite(v) for v in (alarm.ratio, alarm.lower, alarm.upper))
