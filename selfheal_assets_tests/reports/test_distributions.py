"""Distributions then and now: every row is counted once, whatever its value."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfheal_assets.reports.distributions import MISSING, OTHER, bin_edges, compare

NUMBERS = st.lists(
    st.none() | st.floats(-1e9, 1e9) | st.integers(0, 10).map(float) | st.just(float("nan")), min_size=1
)
TEXTS = st.lists(st.none() | st.text("abcdefghijklmn", max_size=2), min_size=1)


@given(NUMBERS, NUMBERS)
def test_shares_of_numbers_add_up(then, now):
    found = compare(pl.Series("x", then, dtype=pl.Float64), pl.Series("x", now, dtype=pl.Float64))
    assert sum(found.then) == pytest.approx(1) and sum(found.now) == pytest.approx(1)
    assert len(set(found.bins)) == len(found.bins)


@given(TEXTS, TEXTS)
def test_shares_of_categories_add_up(then, now):
    found = compare(pl.Series("x", then, dtype=pl.String), pl.Series("x", now, dtype=pl.String))
    assert sum(found.then) == pytest.approx(1) and sum(found.now) == pytest.approx(1)
    assert len(found.bins) <= 9


def test_a_long_tail_gets_growing_bins():
    amounts = pl.Series([float(10 ** (i / 100)) for i in range(300, 600)])
    edges = bin_edges(amounts)
    assert 2000.0 in edges and 100_000.0 in edges
    assert edges == sorted(edges) and len(edges) <= 12


def test_even_values_get_even_bins():
    assert bin_edges(pl.Series(range(0, 101)).cast(pl.Float64)) == [float(e) for e in range(10, 101, 10)]


def test_few_integers_are_shown_one_by_one_in_order_also_against_floats():
    found = compare(pl.Series("n", [1, 2, 10, None]), pl.Series("n", [2.0, 10.0]))
    assert found.bins == ["1", "2", "10", MISSING]
    assert found.now == [0.0, 0.5, 0.5, 0.0]


def test_rare_categories_are_put_together():
    found = compare(pl.Series("s", list("aaabbbcdefghijkl")), pl.Series("s", list("aaaaaaaab")))
    assert found.bins[:2] == ["a", "b"] and found.bins[-1] == OTHER
    assert found.change == "Largest change: a 18.8 % → 88.9 %."


def test_the_change_in_words_tells_of_missing_values():
    found = compare(
        pl.Series("x", [float(i) for i in range(100)]), pl.Series("x", [None, *range(50, 99)]).cast(float)
    )
    assert found.change == "Median 49.5 → 74; missing 0.0 % → 2.0 %."


def test_categories_called_like_our_own_bins_stay_themselves():
    then = pl.Series(
        "kind", [MISSING] * 6 + [None] * 3 + [OTHER] * 8 + [f"k{i}" for i in range(8) for _ in "ab"]
    )
    found = compare(then, then)
    assert len(set(found.bins)) == len(found.bins), "a figure would draw two bars in one place"
    shares = dict(zip(found.bins, found.then, strict=True))
    assert (shares[f"'{MISSING}'"], shares[MISSING], shares[f"'{OTHER}'"]) == (6 / 33, 3 / 33, 8 / 33)
    assert sum(found.then) == pytest.approx(1)
