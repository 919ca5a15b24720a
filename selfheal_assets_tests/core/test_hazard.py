"""Lives cut into bands give back the hazard they were drawn from, and soft labels say what is known and no more."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.hazard import (
    Lives,
    draw_cases,
    fit_hazard,
    person_periods,
    soft_labels,
    survival,
)
from selfheal_assets.core.maturity import DAYS_PER_MONTH
from selfheal_assets.core.spec import Hazard, Training

HORIZON = 400.0
# Four bands of 100 days; exposure as good as unweighted, every row drawn.
PLAIN = Hazard(bands=4, half_life_months=600, negative_share=1, cohort_half_life_months=600)


def lives(*pairs: tuple[float, float]) -> Lives:
    age, turned = np.array(pairs, dtype=float).T
    return Lives(age, turned, HORIZON)


def cut(one: Lives, policy: Hazard = PLAIN, weight: float = 1.0) -> list[tuple[int, int, int, float]]:
    found = person_periods(one, np.full(len(one.age), weight), policy, seed=0)
    rows = zip(found.case, found.band, found.turned, found.weight, strict=True)
    return sorted((int(c), int(b), int(t), round(float(w), 2)) for c, b, t, w in rows)


NEVER = np.nan


def test_a_life_is_a_row_per_band_until_it_turned():
    bands = [(b, t) for _, b, t, _ in cut(lives((1e3, NEVER), (1e3, 250)))]
    assert bands == [(0, 0), (1, 0), (2, 0), (3, 0), (0, 0), (1, 0), (2, 1)]


@pytest.mark.parametrize(("turned", "band"), [(0, 0), (99.9, 0), (100, 1), (399, 3), (400, 3)])
def test_the_band_of_a_positive_is_that_of_its_age(turned, band):
    assert [(b, t) for _, b, t, _ in cut(lives((1e3, turned)))][-1] == (band, 1)


def test_a_band_lived_through_in_part_counts_by_the_part():
    rows = cut(lives((230, NEVER)), Hazard(bands=4, half_life_months=600, negative_share=1))
    assert [(b, t) for _, b, t, _ in rows] == [(0, 0), (1, 0), (2, 0)]
    assert [w for *_, w in rows] == [1, 1, 0.3]


def test_exposure_a_half_life_ago_counts_half():
    months = 6
    policy = Hazard(bands=4, half_life_months=months, negative_share=1)
    # Turned in the middle of a band that ended a half-life and 50 days before the day, or 50 days before it.
    ago = months * DAYS_PER_MONTH
    recent, old = (cut(lives((100 + ago * k, 50)), policy)[-1][3] for k in (0, 1))
    assert recent / old == pytest.approx(2, abs=0.03)


def test_what_is_not_drawn_is_made_up_for_by_weight():
    many = Lives(np.full(20_000, 250.0), np.full(20_000, np.nan), HORIZON)
    one = np.ones(20_000)
    for policy in (PLAIN, Hazard(bands=4, half_life_months=5, negative_share=0.1)):
        found = person_periods(many, one, policy, seed=1)
        middle = np.array([200.0, 100.0, 25.0])  # days before the day of each band's middle
        expected = np.array([1, 1, 0.5]) * 0.5 ** (middle / DAYS_PER_MONTH / policy.half_life_months)
        got = np.bincount(found.band.astype(int), found.weight) / 20_000
        assert got == pytest.approx(expected, rel=0.08)
    assert len(found.case) < 0.1 * 20_000 * 3


def test_older_cohorts_are_drawn_by_half_and_all_positives_kept():
    age = np.repeat([1.0, 24 * DAYS_PER_MONTH], 10_000)
    turned = np.where(np.arange(20_000) % 10 == 0, 0.5, np.nan)
    kept, weight = draw_cases(Lives(age, turned, HORIZON), Hazard(cohort_half_life_months=24), seed=3)
    old, positive = kept >= 10_000, kept % 10 == 0
    assert positive.sum() == 2000 and weight[~positive] == pytest.approx(1)
    assert (old & ~positive).sum() == pytest.approx(4500, rel=0.05)
    assert weight[old & positive] == pytest.approx(0.5) and weight[~old & positive] == pytest.approx(
        1, abs=0.01
    )


def test_the_horizon_probability_is_recovered_from_cohorts_none_of_which_is_mature():
    """Ages are spread over the horizon: the older cases show the later bands, the younger ones the first."""
    rng = np.random.default_rng(5)
    size = 60_000
    x = rng.integers(0, 2, size).astype(np.float32)
    hazard = np.where(x == 1, 0.06, 0.02)[:, None] * np.array([0.5, 1, 1.5, 1])
    age = rng.uniform(0, HORIZON, size)
    falls = rng.uniform(size=(size, 4)) < hazard
    first = np.where(falls.any(axis=1), falls.argmax(axis=1), 9)
    shows = np.where(first < 9, 100 * (first + rng.uniform(size=size)), np.nan)
    turned = np.where(shows < age, shows, np.nan)
    periods = person_periods(Lives(age, turned, HORIZON), np.ones(size), PLAIN, seed=0)
    booster = fit_hazard(x[:, None], periods, Training(rounds=60, max_depth=3, min_child_weight=1, seed=1))
    still = survival(booster, np.array([[0.0], [1.0]], dtype=np.float32), 4)
    truth = [np.cumprod(1 - h * np.array([0.5, 1, 1.5, 1])) for h in (0.02, 0.06)]
    assert still[:, 0].tolist() == [1, 1]
    assert still[:, 1:] == pytest.approx(np.array(truth), abs=0.012)


def test_a_soft_label_is_what_is_left_to_happen():
    still = np.array([[1.0, 0.9, 0.8, 0.6, 0.5]] * 5)
    known = lives((0, NEVER), (100, NEVER), (150, NEVER), (400, NEVER), (120, 110))
    half_way = np.sqrt(0.9 * 0.8)
    assert soft_labels(still, known) == pytest.approx([0.5, 1 - 0.5 / 0.9, 1 - 0.5 / half_way, 0, 1])
    assert soft_labels(still[:1], lives((5e3, NEVER))) == pytest.approx([0])


def test_lives_know_ages_and_nothing_beyond_the_horizon():
    as_of = datetime(2020, 1, 1)
    rows = pl.DataFrame(
        {
            "event_time": [as_of - timedelta(days=d) for d in (10, 500, 500, 500)],
            "label": pl.Series([0, 1, 1, 0], dtype=pl.Int8),
            "positive_age_days": [None, 30.0, 450.0, 30.0],  # the last was corrected to negative
        }
    )
    found = Lives.of(rows, as_of, HORIZON)
    assert found.age.tolist() == [10, 500, 500, 500]
    assert np.array_equal(found.turned, [np.nan, 30, 400, np.nan], equal_nan=True)
    assert found.positive.tolist() == [False, True, True, False]
