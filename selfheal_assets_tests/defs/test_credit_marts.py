"""The credit marts against a small warehouse counted by hand, and against the core's own figures."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy.stats import ks_2samp

from selfheal_assets.core import metrics
from selfheal_assets.core.distances import population_stability_index
from selfheal_assets.core.evaluation import segment_of
from selfheal_assets.core.policies import CreditPolicy
from selfheal_assets.core.stability import reference_cells
from selfheal_assets.defs.dbt import build_dbt_assets
from selfheal_assets.defs.resources import Stores, chunk_partitions
from selfheal_assets.settings import Settings
from selfheal_assets.stores.credit_cells import freeze_cells
from selfheal_assets.stores.prediction_log import SHADOW_MARK
from selfheal_assets_tests.defs.test_dbt import build, insert, learn, log

pytestmark = pytest.mark.integration

USE_CASE = """
name: credit
title: Loans
source: {paths: [none.csv]}
entity_id: id
event_time: at
go_live: 2020-01-01
features:
  - {name: amount, type: number, nullable: true}
  - {name: plan, type: category, nullable: true}
  - {name: cohort, type: integer}
label: {name: bad, column: bad, horizon_months: 6}
segments:
  - {name: plan, feature: plan}
  - {name: "how much, 'really'", feature: amount, cuts: [0.1, 5], fairness: true}
reference: {start: 2018-01-01, end: 2019-01-01}
monitoring: {chunk: quarter}
"""
Q1, Q2, Q3 = (datetime(2020, month, 1) for month in (1, 4, 7))
CHUNK, AS_OF = "2020-07-01", datetime(2020, 10, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("credit")
    path = folder / "credit.yaml"
    path.write_text(USE_CASE)
    stores = Stores(Settings(use_case=str(path), home=folder))
    return stores, build_dbt_assets(stores.settings, chunk_partitions(stores.case))


@pytest.fixture
def loop(made):
    stores, assets = made
    with stores.warehouse.write() as connection:
        for table in ("prediction_log", "labels", "clock", "reference_cells"):
            connection.execute(f"delete from {table}")
    return stores, assets


def put(stores: Stores, name: str, at: datetime, **values) -> None:
    log(stores, (name, at), **({"plan": "a", "cohort": 1} | values))


def mart(stores: Stores, name: str, order: str = "all") -> pl.DataFrame:
    return stores.warehouse.query(f"select * from {name} order by {order}")


def reference(rows: int = 200, seed: int = 1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "probability": rng.uniform(0, 1, rows),
            "label": rng.integers(0, 2, rows),
            "amount": pl.Series([None if v < 0.1 else v for v in rng.uniform(0, 1, rows)], dtype=pl.Float64),
            "plan": rng.choice(["a", "b", "c"], rows, p=[0.6, 0.395, 0.005]),
            "cohort": rng.integers(0, 4, rows),
        }
    )


def fill(stores: Stores, rows: pl.DataFrame, at: datetime, version: int = 1, prefix: str = "r") -> None:
    count = rows.height
    frame = rows.drop("label").with_columns(
        prediction_id=pl.Series([f"{prefix}{i}" for i in range(count)]),
        entity_id=pl.Series([f"{prefix}{i}" for i in range(count)]),
        predicted_at=pl.lit(at), event_time=pl.lit(at), model_version=pl.lit(version), model_fingerprint=pl.lit("f"),
        role=pl.lit("champion"), prediction=(pl.col("probability") >= 0.5).cast(pl.Int8), threshold=pl.lit(0.5),
        segment_file=pl.lit("s"),
    )  # fmt: skip
    insert(stores, "prediction_log", frame.to_dicts())


def test_stability_is_the_psi_of_the_cells_counted_by_hand(loop):
    stores, _ = loop
    cells = pl.DataFrame(
        {
            "variable": ["amount", "amount", "amount", "plan", "plan", "plan", "plan"],
            "cell": [1, 2, 0, 1, 2, 0, -1],
            "name": ["< 2", "≥ 2", "missing", "a", "b", "missing", "not in the reference"],
            "lower": [-np.inf, 2.0, None, None, None, None, None],
            "category": [None, None, None, "a", "b", None, None],
            "rows": [60, 30, 10, 80, 20, 0, 0],
            "positives": [0] * 7,
        },
        schema_overrides={"cell": pl.Int32},
    )
    freeze_cells(stores.warehouse, 1, cells)
    put(stores, "below", Q1, amount=1.99)
    put(stores, "at the edge", Q1, amount=2.0, plan="b")
    put(stores, "far above", Q1, amount=1e9, plan="new")
    put(stores, "unknown", Q1, amount=None, plan=None)
    put(stores, "not a number", Q1, amount=float("nan"))
    assert build(loop, CHUNK).success
    found = {row["variable"]: row for row in mart(stores, "fct_stability").iter_rows(named=True)}
    amount, plan = found["amount"], found["plan"]
    assert amount["psi"] == pytest.approx(
        population_stability_index(np.array([60, 30, 10]), np.array([1, 2, 2]))
    )
    by_hand = (
        (0.2 - 0.6) * np.log(0.2 / 0.6) + (0.4 - 0.3) * np.log(0.4 / 0.3) + (0.4 - 0.1) * np.log(0.4 / 0.1)
    )
    assert amount["psi"] == pytest.approx(by_hand)
    assert amount | {"psi": None} == {
        "kind": "feature", "cohort": Q1, "model_version": 1, "variable": "amount", "rows": 5, "reference_rows": 100,
        "cells": 3, "psi": None,
    }  # fmt: skip
    # a 2, b 1, missing 1 and unseen 1: the reference has no row in the last two.
    expected = population_stability_index(np.array([80, 20, 0, 0]), np.array([2, 1, 1, 1]))
    assert (plan["psi"], plan["cells"]) == (pytest.approx(expected), 4)


def test_a_version_without_cells_has_rows_without_a_value(loop):
    stores, _ = loop
    put(stores, "a", Q1, amount=1.0)
    assert build(loop, CHUNK).success
    found = mart(stores, "fct_stability")
    assert set(found["variable"]) == {"score", "amount", "plan", "cohort"}
    assert found["psi"].null_count() == 4
    assert set(found["reference_rows"]) == {0}
    assert set(found["rows"]) == {1}
    assert mart(stores, "fct_score_bands").select("band", "band_name").rows() == [(0, "no band")]


def test_the_reference_itself_is_perfectly_stable_and_a_shifted_cohort_is_not(loop):
    stores, _ = loop
    frame = reference()
    freeze_cells(stores.warehouse, 1, reference_cells(frame, stores.case.features, CreditPolicy()))
    fill(stores, frame, Q1)
    fill(stores, frame.with_columns(pl.col("probability") ** 2, plan=pl.lit("c")), Q2, prefix="s")
    assert build(loop, CHUNK).success
    found = mart(stores, "fct_stability")
    same = found.filter(pl.col("cohort") == Q1)
    assert same["psi"].abs().max() < 1e-12
    assert same["rows"].unique().to_list() == same["reference_rows"].unique().to_list() == [200]
    shifted = {r["variable"]: r["psi"] for r in found.filter(pl.col("cohort") == Q2).iter_rows(named=True)}
    assert shifted["score"] > 0.25
    assert shifted["plan"] > 0.25
    assert shifted["amount"] < 1e-12


def test_cells_are_frozen_once(loop):
    stores, _ = loop
    cells = reference_cells(reference(), stores.case.features, CreditPolicy())
    assert freeze_cells(stores.warehouse, 1, cells)
    assert not freeze_cells(stores.warehouse, 1, cells.head(1))
    assert freeze_cells(stores.warehouse, 2, cells)
    kept = mart(stores, "reference_cells").filter(pl.col("model_version") == 1).drop("model_version")
    assert_frame_equal(kept, cells, check_row_order=False)


def test_bands_count_what_matured_and_what_was_expected(loop):
    stores, _ = loop
    bands = pl.DataFrame(
        {
            "variable": "score", "cell": [1, 2, 0], "name": ["< 0.2", "≥ 0.2", "missing"],
            "lower": [-np.inf, 0.2, None], "category": None, "rows": [5, 5, 0], "positives": [0, 1, 0],
        },
        schema_overrides={"cell": pl.Int32, "category": pl.String},
    )  # fmt: skip
    freeze_cells(stores.warehouse, 1, bands)
    for name, p in (("low", 0.1), ("edge", 0.2), ("high", 0.6)):
        put(stores, name, Q1, probability=p, prediction=int(p >= 0.5))
        put(stores, f"young {name}", Q3, probability=p)
    learn(stores, 1, datetime(2020, 3, 1), datetime(2020, 3, 2), entity_id="high")
    learn(stores, 1, datetime(2020, 8, 1), datetime(2020, 8, 2), entity_id="young high")
    assert build(loop, CHUNK).success
    old, young = mart(stores, "fct_score_bands", "cohort, band").partition_by("cohort", maintain_order=True)
    assert old.drop("cohort").rows() == [
        (1, 1, "< 0.2", 1, 0, 1, 0.1, 0),
        (1, 2, "≥ 0.2", 2, 1, 2, pytest.approx(0.8), 1),
    ]
    assert young.select("rows", "matured", "expected_positives", "positives").rows() == [
        (1, 0, 0, 0),
        (2, 0, 0, 0),
    ]


def test_ranking_agrees_with_the_core_and_scipy(loop):
    stores, _ = loop
    rng = np.random.default_rng(5)
    frame = reference(120, seed=3).with_columns(
        probability=pl.Series(rng.integers(0, 12, 120) / 12)
    )  # many ties
    fill(stores, frame, Q1)
    bad = rng.uniform(size=120) < 0.2 + 0.5 * frame["probability"].to_numpy()
    for i in np.flatnonzero(bad):
        learn(stores, 1, datetime(2020, 3, 1), datetime(2020, 3, 2), entity_id=f"r{i}")
    put(stores, "young", Q3)
    assert build(loop, CHUNK).success
    [found] = mart(stores, "fct_ranking").to_dicts()
    label, p = bad.astype(int), frame["probability"].to_numpy()
    assert (found["positives"], found["negatives"]) == (bad.sum(), 120 - bad.sum())
    assert found["gini"] == pytest.approx(2 * metrics.roc_auc(label, p) - 1)
    assert found["ks"] == pytest.approx(ks_2samp(p[bad], p[~bad]).statistic)
    interval = metrics.roc_auc_interval(label, p)
    assert found["gini_error"] == pytest.approx((interval.upper - interval.lower) / 1.959964, rel=1e-6)


def test_a_cohort_of_one_class_has_no_ranking(loop):
    stores, _ = loop
    put(stores, "a", Q1)
    put(stores, "b", Q1)
    put(stores, "c", Q2 - timedelta(days=1), model_version=2)
    put(stores, "d", Q2 - timedelta(days=1), model_version=2, probability=0.9)
    learn(stores, 1, Q2, Q2, entity_id="d")
    assert build(loop, CHUNK).success
    one_class, one_positive = mart(stores, "fct_ranking", "model_version").to_dicts()
    assert (one_class["negatives"], one_class["ks"], one_class["gini"], one_class["gini_error"]) == (
        2,
        *[None] * 3,
    )
    assert (one_positive["ks"], one_positive["gini"], one_positive["gini_error"]) == (1.0, 1.0, None)


def test_vintages_reach_as_far_as_the_whole_cohort(loop):
    stores, _ = loop
    for name, at in (("early", Q1), ("late", Q2 - timedelta(days=1)), ("good", Q1), ("never", Q1)):
        put(stores, name, at)
    put(stores, "newest", Q3)
    learn(stores, 1, datetime(2020, 2, 1), datetime(2020, 2, 5), entity_id="early")  # exactly a month after
    learn(
        stores, 1, datetime(2020, 6, 1), datetime(2020, 6, 5), entity_id="late"
    )  # two months and a day after
    learn(stores, 0, datetime(2020, 7, 1), datetime(2020, 7, 1), entity_id="good")
    learn(stores, 1, datetime(2020, 8, 1), datetime(2020, 8, 1), entity_id="never")  # after the horizon
    assert build(loop, CHUNK).success
    curves = mart(stores, "fct_vintage_curves", "cohort, months_on_book")
    first = curves.filter(pl.col("cohort") == Q1)
    assert first.select("months_on_book", "positives").rows() == [
        (0, 0),
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 2),
        (6, 2),
    ]
    assert set(first["rows"]) == {4}
    assert first["positive_share"].to_list()[-1] == 0.5
    newest = curves.filter(pl.col("cohort") == Q3)
    assert newest.select("months_on_book", "rows", "positives").rows() == [(0, 1, 0)]


def test_a_younger_cohort_has_a_shorter_curve_at_an_earlier_time(loop):
    stores, _ = loop
    put(stores, "a", Q1)
    put(stores, "b", Q2)
    learn(stores, 1, datetime(2020, 5, 15), datetime(2020, 5, 20), entity_id="b")
    assert build(loop, "2020-04-01").success
    curves = mart(stores, "fct_vintage_curves", "cohort, months_on_book")
    ages = curves.group_by("cohort").agg(pl.col("months_on_book").max()).sort("cohort")
    assert ages.rows() == [(Q1, 3), (Q2, 0)], (
        "b is positive after 44 days, which its cohort's last day has not reached"
    )
    assert curves["positives"].sum() == 0


def test_the_swap_set_pairs_each_shadow_with_its_champion(loop):
    stores, _ = loop
    for name, champion, challenger in (("a", 0, 1), ("b", 0, 0), ("c", 1, 0), ("d", 1, 0)):
        put(stores, name, Q1, prediction=champion)
        mark = {
            "prediction_id": f"champion-{name}{SHADOW_MARK}2",
            "model_version": 2,
            "prediction": challenger,
        }
        log(stores, (name, Q1), role="challenger", plan="a", cohort=1, **mark)
    put(stores, "alone", Q1)
    learn(stores, 1, Q2, Q2, entity_id="c")
    assert build(loop, CHUNK).success
    assert mart(stores, "fct_swap_set").drop("cohort").rows() == [
        (1, 2, "challenger", False, True, 2, 2, 1),
        (1, 2, "challenger", True, False, 1, 1, 0),
        (1, 2, "challenger", True, True, 1, 1, 0),
    ]


def test_a_shadow_without_champion_warns(loop):
    stores, _ = loop
    log(stores, ("a", Q1), role="challenger", plan="a", cohort=1)
    result = build(loop, CHUNK)
    assert result.success
    failed = [check.check_name for check in result.get_asset_check_evaluations() if not check.passed]
    assert failed == ["no_shadow_without_champion"]


def test_groups_are_those_of_the_core(loop):
    stores, _ = loop
    frame = reference().with_columns(
        amount=pl.Series([None, 0.05, 0.1, 4.99, 5.0, 1e6, float("nan"), -3.0] * 25)
    )
    fill(stores, frame, Q1)
    put(stores, "later", Q3, amount=1.0)
    assert build(loop, CHUNK).success
    found = mart(stores, "fct_group_approvals").filter(pl.col("cohort") == Q1)
    for segment in stores.case.segments:
        ours = found.filter(pl.col("segment") == segment.name).sort("group_name")
        expected = (
            pl.DataFrame({"group_name": segment_of(frame, segment), "approved": frame["probability"] < 0.5})
            .group_by("group_name")
            .agg(rows=pl.len().cast(pl.Int64), approved=pl.col("approved").sum().cast(pl.Int64))
            .sort("group_name")
        )
        assert ours.select("group_name", "rows", "approved").equals(expected)
        assert set(ours["fairness"]) == {segment.fairness}
        assert ours["approval_rate"].to_list() == (expected["approved"] / expected["rows"]).to_list()


@pytest.mark.parametrize(
    ("view", "broken", "test"),
    [
        ("fct_stability", "rows + 1 as rows", "stability_counts_every_row"),
        ("fct_group_approvals", "rows + 1 as rows", "groups_count_every_row"),
        ("fct_score_bands", "rows + 1 as rows", "bands_and_ranking_count_every_row"),
        ("fct_score_bands", "matured + 1 as matured", "bands_and_ranking_count_every_row"),
        ("fct_vintage_curves", "rows - months_on_book as positives", "vintages_never_fall"),
    ],
)
def test_each_check_can_fail(loop, view, broken, test):
    """Judged alone, a check reads the view as it stands: here, as it would be with a mistake in it."""
    import dagster as dg

    stores, _ = loop
    put(stores, "a", Q1)
    put(stores, "b", Q3)
    assert build(loop, CHUNK).success
    with stores.warehouse.write() as connection:
        [(sql,)] = connection.execute("select sql from duckdb_views() where view_name = ?", [view]).fetchall()
        body = sql.partition(" AS ")[2].rstrip(";")
        connection.execute(f"create or replace view {view} as select * replace ({broken}) from ({body})")
    check = dg.AssetCheckKey(dg.AssetKey(view), test)
    result = build(loop, partition_key=None, selection=dg.AssetSelection.checks(check))
    assert not result.success
    assert [c.check_name for c in result.get_asset_check_evaluations() if not c.passed] == [test]
