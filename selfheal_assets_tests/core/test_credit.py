"""Credit conventions: intervals against closed forms and SciPy, and a reason for each figure that is not there."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta

from selfheal_assets.core import credit
from selfheal_assets.core.evaluation import ScoredRows
from selfheal_assets.core.policies import CreditPolicy

POLICY = CreditPolicy()


def jeffreys(positives: int, rows: int, confidence: float = 0.95) -> tuple[float, float]:
    lower, upper = credit.jeffreys_interval(np.array([positives]), np.array([rows]), confidence)
    return float(lower[0]), float(upper[0])


def test_jeffreys_interval_holds_its_share_of_the_posterior():
    lower, upper = jeffreys(3, 40)

    def posterior(p: float) -> float:
        return p**2.5 * (1 - p) ** 36.5

    whole = quad(posterior, 0, 1)[0]
    assert quad(posterior, 0, lower)[0] / whole == pytest.approx(0.025, rel=1e-5)
    assert quad(posterior, upper, 1)[0] / whole == pytest.approx(0.025, rel=1e-5)


def test_jeffreys_interval_of_the_published_table():
    """Brown, Cai and DasGupta (2001), table 5: n = 10, 95 %."""
    assert [jeffreys(k, 10) for k in range(6)] == [
        (pytest.approx(a, abs=5e-4), pytest.approx(b, abs=5e-4))
        for a, b in [
            (0, 0.217),
            (0.011, 0.381),
            (0.044, 0.503),
            (0.093, 0.606),
            (0.153, 0.696),
            (0.224, 0.776),
        ]
    ]


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_jeffreys_interval_holds_the_share_and_mirrors(case):
    positives, rows = case
    lower, upper = jeffreys(positives, rows)
    assert 0 <= lower <= positives / rows <= upper <= 1
    mirrored = jeffreys(rows - positives, rows)
    assert (1 - upper, 1 - lower) == (pytest.approx(mirrored[0]), pytest.approx(mirrored[1]))


def band(band: int, rows: int, matured: int, expected: float, positives: int) -> dict:
    return {
        "band": band, "rows": rows, "flagged": 1, "matured": matured, "expected_positives": expected,
        "positives": positives,
    }  # fmt: skip


def test_bands_are_pooled_and_compared_with_what_was_expected():
    counts = pl.DataFrame(
        [band(2, 50, 40, 4.0, 9), band(1, 60, 30, 0.9, 1), band(1, 40, 10, 0.3, 0), band(3, 5, 0, 0.0, 0)]
    )
    first, second, third = credit.score_bands(counts, POLICY).to_dicts()
    assert (first["band"], first["rows"], first["matured"], first["flagged"]) == (1, 100, 40, 2)
    assert first["expected_rate"] == pytest.approx(1.2 / 40)
    assert first["rate"] == pytest.approx(1 / 40)
    assert (first["lower"], first["upper"]) == pytest.approx(tuple(beta.ppf([0.025, 0.975], 1.5, 39.5)))
    assert first["agrees"] is True
    assert second["expected_rate"] == pytest.approx(0.1)
    assert second["rate"] == pytest.approx(9 / 40)
    assert second["lower"] > 0.1
    assert second["agrees"] is False
    unknown = ("expected_rate", "rate", "lower", "upper", "agrees")
    assert [third[name] for name in unknown] == [None] * 5
    assert third["reason"] == "no matured label in this band yet"
    assert first["reason"] is second["reason"] is None


RANKED = {
    "positives": pl.Int64,
    "negatives": pl.Int64,
    "ks": pl.Float64,
    "gini": pl.Float64,
    "gini_error": pl.Float64,
}


def test_the_ginis_interval_is_normal_and_stays_within_its_range():
    found = pl.DataFrame([(30, 70, 0.4, 0.5, 0.1), (3, 70, 0.9, 0.95, 0.1)], schema=RANKED, orient="row")
    inner, outer = credit.ranking(found, POLICY).to_dicts()
    assert (inner["lower"], inner["upper"]) == pytest.approx((0.5 - 0.1959964, 0.5 + 0.1959964))
    assert outer["upper"] == 1.0
    assert inner["reason"] is None


def test_a_cohort_that_cannot_be_ranked_says_why():
    rows = [(0, 70, None, None, None), (1, 70, 0.4, 0.5, None)]
    none, one = credit.ranking(pl.DataFrame(rows, schema=RANKED, orient="row"), POLICY).to_dicts()
    assert none["reason"] == "0 positives and 70 negatives matured: a ranking needs one of each"
    assert one["reason"] == "1 positives and 70 negatives matured: an interval needs two of each"
    assert none["lower"] is none["upper"] is one["lower"] is None
    assert one["gini"] == 0.5


def test_vintages_get_rates_with_intervals():
    counts = pl.DataFrame(
        {"cohort": ["a", "a"], "months_on_book": [0, 1], "rows": [50, 50], "positives": [0, 2]}
    )
    start, later = credit.vintages(counts, POLICY).to_dicts()
    assert (start["rate"], start["lower"]) == (0.0, 0.0)
    assert later["rate"] == 0.04
    assert (later["lower"], later["upper"]) == pytest.approx(jeffreys(2, 50))


def scored() -> ScoredRows:
    champion = np.array([1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)  # flagged
    challenger = np.array([1, 0, 0, 1, 0, 0, 0, 0], dtype=bool)
    label = np.array([1, 0, 1, 1, 0, 0, 1, 0])
    return ScoredRows(label, champion * 0.9, challenger * 0.9, champion, challenger)


def test_the_swap_set_counts_who_trades_places():
    table = credit.swap_set(credit.swap_counts(scored()), POLICY)
    found = {row["group"].split(":")[0]: row for row in table.iter_rows(named=True)}
    assert [(name, row["rows"], row["positives"], row["rate"]) for name, row in found.items()] == [
        ("approved by both", 4, 1, 0.25),
        ("swapped in", 2, 1, 0.5),
        ("swapped out", 1, 1, 1.0),
        ("refused by both", 1, 1, 1.0),
    ]
    assert [row["share"] for row in found.values()] == [0.5, 0.25, 0.125, 0.125]
    assert (found["swapped in"]["lower"], found["swapped in"]["upper"]) == pytest.approx(jeffreys(1, 2))


def test_a_swap_without_cases_or_labels_says_so():
    counts = pl.DataFrame(
        {
            "champion_approves": [True],
            "challenger_approves": [False],
            "rows": [7],
            "matured": [0],
            "positives": [0],
        }
    )
    table = credit.swap_set(counts, POLICY)
    assert table["rows"].to_list() == [0, 0, 7, 0]
    assert table["rate"].to_list() == [None] * 4
    assert set(table["reason"]) == {"no matured label among these cases"}
    nothing = credit.swap_set(counts.clear(), POLICY)
    assert nothing["rows"].to_list() == [0] * 4
    assert nothing["share"].to_list() == [None] * 4


def groups(*rows: tuple[str, str, int, int]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=["segment", "group_name", "rows", "approved"], orient="row")
    return frame.with_columns(fairness=pl.lit(True))


def impact(*rows: tuple[str, str, int, int], **policy) -> dict[str, dict]:
    table = credit.adverse_impact(groups(*rows), CreditPolicy(min_group_rows=100, **policy))
    return {row["group_name"]: row for row in table.iter_rows(named=True)}


def test_adverse_impact_is_the_ratio_to_the_most_approved_group():
    found = impact(("age", "young", 200, 70), ("age", "young", 200, 70), ("age", "old", 500, 250))
    young, old = found["young"], found["old"]
    assert young["rate"] == 0.35
    assert young["ratio"] == pytest.approx(0.7)
    assert young["compared_with"] == "old"
    assert young["flagged"] is True
    half = 1.959964 * math.sqrt(0.65 / 140 + 0.5 / 250)
    assert young["lower"] == pytest.approx(0.7 * math.exp(-half))
    assert young["upper"] == pytest.approx(0.7 * math.exp(half))
    assert (old["ratio"], old["flagged"], old["lower"], old["reason"]) == (1.0, False, None, None)


@pytest.mark.parametrize(("approved", "flagged"), [(79, True), (80, False)])
def test_four_fifths_is_enough(approved, flagged):
    assert impact(("age", "a", 100, approved), ("age", "b", 100, 100))["a"]["flagged"] is flagged


@pytest.mark.parametrize("rows", [(200, 200), (220, 420), (300, 700)])
def test_exactly_four_fifths_is_enough_whatever_the_rates_round_to(rows):
    """Of 200 cases each 4 and 5: 0.02 / 0.025 is 0.7999999999999999."""
    for most in range(1, rows[1] + 1):
        least, rest = divmod(4 * most * rows[0], 5 * rows[1])
        if not rest:
            found = impact(("age", "a", rows[0], least), ("age", "b", rows[1], most))["a"]
            assert (found["ratio"], found["flagged"]) == (0.8, False), most


def test_groups_are_compared_within_their_segment_only():
    found = impact(
        ("age", "a", 100, 50), ("age", "b", 100, 60), ("area", "c", 100, 90), ("area", "d", 100, 90)
    )
    assert found["a"]["ratio"] == pytest.approx(50 / 60)
    assert found["c"]["ratio"] == found["d"]["ratio"] == 1.0


def test_groups_that_cannot_be_compared_say_why():
    found = impact(("age", "few", 99, 99), ("age", "alone", 500, 250))
    assert found["few"]["reason"] == "99 rows; a group needs 100 to be compared"
    assert found["alone"]["reason"] == "no second group of 100 rows to compare with"
    assert found["few"]["ratio"] is found["alone"]["ratio"] is found["alone"]["flagged"] is None
    refused = impact(("age", "a", 100, 0), ("age", "b", 100, 0))
    assert {row["reason"] for row in refused.values()} == {"nobody is approved in any group"}
    none = impact(("age", "a", 100, 0), ("age", "b", 100, 10))["a"]
    assert (none["ratio"], none["flagged"], none["lower"]) == (0.0, True, None)
    assert none["reason"] == "none approved: the ratio has no interval"


def test_empty_counts_give_empty_tables():
    bands = pl.DataFrame([band(1, 1, 1, 1.0, 1)]).clear()
    assert credit.score_bands(bands, POLICY).is_empty()
    assert credit.adverse_impact(groups(("a", "b", 1, 1)).clear(), POLICY).is_empty()
    assert credit.ranking(pl.DataFrame(schema=RANKED), POLICY).is_empty()
