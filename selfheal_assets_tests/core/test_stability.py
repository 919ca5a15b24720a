"""Cells of the reference, and what a PSI says of them."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from selfheal_assets.core.policies import CreditPolicy
from selfheal_assets.core.spec import Feature, FeatureType
from selfheal_assets.core.stability import MISSING, UNSEEN, reference_cells, stability_table

AMOUNT = Feature(name="amount", type=FeatureType.number)
PLAN = Feature(name="plan", type=FeatureType.category)
POLICY = CreditPolicy()


def cells(amount=None, plan=None, policy: CreditPolicy = POLICY) -> pl.DataFrame:
    rows = len(amount if amount is not None else plan)
    frame = pl.DataFrame(
        {
            "probability": np.linspace(0, 1, rows),
            "label": [1 if i % 4 == 0 else 0 for i in range(rows)],
            "amount": pl.Series(amount if amount is not None else [1.0] * rows, dtype=pl.Float64),
            "plan": pl.Series(plan if plan is not None else ["a"] * rows, dtype=pl.String),
        }
    )
    found = reference_cells(frame, [AMOUNT, PLAN], policy)
    return found.filter(pl.col("variable") == ("amount" if amount is not None else "plan"))


def test_a_number_is_cut_into_tenths_of_the_reference():
    found = cells(amount=np.arange(1000.0))
    assert found["cell"].to_list() == [*range(1, 11), MISSING]
    assert found["lower"].to_list() == [-np.inf, *[100.0 * k - 1 for k in range(1, 10)], None]
    assert found["rows"].to_list() == [99, *[100] * 8, 101, 0]
    assert found["positives"].sum() == 250
    assert found["name"].to_list()[:2] == ["< 99", "99–199"]
    assert found["name"].to_list()[-2:] == ["≥ 899", "missing"]


def test_the_score_has_cells_too():
    frame = pl.DataFrame({"probability": np.linspace(0, 1, 100), "label": [0, 1] * 50})
    score = reference_cells(frame, [], POLICY)
    assert score["variable"].unique().to_list() == ["score"]
    assert score["rows"].sum() == 100


def test_repeated_values_share_a_cell_and_missing_ones_have_their_own():
    found = cells(amount=[0.0] * 70 + [1.0] * 10 + [2.0] * 10 + [None] * 7 + [float("nan")] * 3)
    assert found["lower"].to_list() == [-np.inf, 1.0, 2.0, None]
    assert found["rows"].to_list() == [70, 10, 10, 10]
    assert found["cell"].to_list() == [1, 2, 3, MISSING]


@pytest.mark.parametrize("amount", [[5.0] * 20, [None] * 20])
def test_a_constant_or_unknown_number_has_one_cell_for_any_value(amount):
    found = cells(amount=amount)
    assert found["cell"].to_list() == [1, MISSING]
    assert found["lower"].to_list() == [-np.inf, None]
    assert found["rows"].sum() == 20


def test_rare_categories_share_a_cell():
    plan = ["a"] * 60 + ["b"] * 37 + ["c", "d"] + [None]
    found = cells(plan=plan, policy=CreditPolicy(rare_share=0.02))
    assert found.select("cell", "name", "category", "rows").rows() == [
        (1, "a", "a", 60),
        (2, "b", "b", 37),
        (3, "rare ones", "c", 1),
        (3, "rare ones", "d", 1),
        (MISSING, "missing", None, 1),
        (UNSEEN, "not in the reference", None, 0),
    ]


numbers = st.lists(
    st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)), min_size=1, max_size=60
)


@settings(max_examples=60)
@given(numbers, st.integers(2, 20))
def test_cells_hold_every_row_of_the_reference_once(values, bands):
    found = cells(amount=values, policy=CreditPolicy(bands=bands))
    assert found["rows"].sum() == len(values)
    lower = found["lower"].drop_nulls().to_list()
    assert lower == sorted(set(lower))
    assert lower[0] == -np.inf
    assert len(lower) <= bands
    assert found["cell"].n_unique() == found.height
    assert not found["lower"].is_nan().any()


def judged(psi: float | None, rows: int = 10_000, cells: int = 10, reference_rows: int = 10_000) -> dict:
    row = {"variable": "amount", "rows": rows, "reference_rows": reference_rows, "cells": cells, "psi": psi}
    schema = {"psi": pl.Float64}
    return stability_table(pl.DataFrame([row], schema_overrides=schema), POLICY).row(0, named=True)


@pytest.mark.parametrize(
    ("psi", "band"),
    [(0.001, "within chance"), (0.05, "small"), (0.1, "moderate"), (0.2499, "moderate"), (0.25, "large")],
)
def test_the_bands_are_those_users_know(psi, band):
    found = judged(psi)
    assert found["band"] == band
    assert found["reason"] is None
    assert found["cut_off"] == pytest.approx(chi2.ppf(0.95, 9) * 2 / 10_000)


def test_few_rows_can_move_a_psi_beyond_a_band_by_chance():
    assert judged(0.15, rows=100)["band"] == "within chance"
    assert judged(0.15, rows=1000)["band"] == "moderate"


def test_what_cannot_be_judged_says_why():
    assert "reference was not frozen" in judged(None, reference_rows=0)["reason"]
    alike = judged(0.0, cells=1, rows=70)
    assert alike["reason"] == "all 70 values lie in one cell, as all of the reference do"
    assert alike["band"] is alike["cut_off"] is None


def test_policy_bands_must_ascend():
    with pytest.raises(ValueError, match="two positive values that ascend"):
        CreditPolicy(psi_bands=(0.25, 0.1))


def test_a_category_at_the_limit_is_not_rare():
    found = cells(plan=["a"] * 75 + ["b"] * 25, policy=CreditPolicy(rare_share=0.25))
    assert found["name"].to_list()[:2] == ["a", "b"]
