"""The credit view of a history that was lived through: the page's figures are the warehouse's."""

from datetime import datetime

import numpy as np
import polars as pl
import pytest

from selfheal_assets.core import metrics
from selfheal_assets.core.distances import population_stability_index
from selfheal_assets.core.periods import chunk_end, chunk_label
from selfheal_assets.core.policies import CreditPolicy
from selfheal_assets.core.stability import reference_cells
from selfheal_assets.defs.credit import credit_view
from selfheal_assets.defs.monitor import served
from selfheal_assets.defs.resources import Chunk, Stores
from selfheal_assets.reports.credit import CreditView
from selfheal_assets.settings import Settings
from selfheal_assets_tests.conftest import Lived

pytestmark = pytest.mark.integration

START = datetime(2020, 10, 1)  # the last chunk, at whose end the marts stand
POLICY = CreditPolicy(min_group_rows=50)


@pytest.fixture(scope="module")
def stores(lived: Lived) -> Stores:
    return Stores(lived.settings)


@pytest.fixture(scope="module")
def chunk() -> Chunk:
    return Chunk(START, chunk_end(START, "quarter"), chunk_label(START, "quarter"))


@pytest.fixture(scope="module")
def view(stores: Stores, chunk: Chunk) -> CreditView:
    return credit_view(stores, chunk, POLICY)


def test_stability_of_the_chunk_is_that_of_its_rows(stores, chunk, view):
    profile, rows = served(stores, chunk)
    assert profile is not None
    cells = reference_cells(profile.reference, profile.bundle.features, POLICY)
    found = view.stability.filter(pl.col("model_version") == profile.version)
    assert set(found["variable"]) == {"score", "distance", "age", "plan"}
    for variable, values in (("score", rows["probability"]), ("distance", rows["distance"])):
        own = cells.filter((pl.col("variable") == variable) & pl.col("lower").is_not_null())
        edges = own["lower"].to_numpy()
        observed = np.bincount(
            np.searchsorted(edges, values.to_numpy(), side="right") - 1, minlength=len(edges)
        )
        [row] = found.filter(pl.col("variable") == variable).to_dicts()
        assert row["psi"] == pytest.approx(population_stability_index(own["rows"].to_numpy(), observed))
        assert row["rows"] == rows.height
    plan = cells.filter((pl.col("variable") == "plan") & pl.col("category").is_not_null())
    shares = dict(rows["plan"].value_counts().iter_rows())
    observed = np.array([shares.get(category, 0) for category in plan["category"]])
    [row] = found.filter(pl.col("variable") == "plan").to_dicts()
    assert row["psi"] == pytest.approx(population_stability_index(plan["rows"].to_numpy(), observed))


def test_the_scores_stability_ends_with_this_chunk(view):
    score = view.score_stability
    assert set(score["variable"]) == {"score"}
    assert score["cohort"].max() == START
    assert score["cohort"].n_unique() == 6


def test_matured_cohorts_are_ranked_as_the_core_ranks_them(stores, view):
    assert view.ranking["cohort"].max() == datetime(2020, 4, 1), "six months before the chunk"
    assert view.ranking.height > 2
    assert view.ranking["reason"].null_count() == view.ranking.height
    newest = view.ranking.row(-1, named=True)
    rows = stores.warehouse.query(
        "select label, probability from fct_labelled_predictions where cohort = ? and model_version = ?",
        [newest["cohort"], newest["model_version"]],
    )
    auc = metrics.roc_auc_interval(rows["label"].to_numpy(), rows["probability"].to_numpy())
    assert (newest["gini"], newest["lower"]) == pytest.approx((2 * auc.value - 1, 2 * auc.lower - 1))


def test_bands_hold_every_matured_case_and_show_that_the_world_turned(stores, view):
    matured = stores.warehouse.query(
        """select count(*) as n, sum(label) as positives, sum(probability) as expected from fct_labelled_predictions
           where is_mature and label is not null and cohort <= '2020-04-01'"""
    ).row(0)
    assert tuple(
        view.bands.select(pl.sum("matured", "positives", "expected_positives")).row(0)
    ) == pytest.approx(matured)
    assert view.bands["band"].to_list() == list(range(1, 11))
    assert view.banded == ("2019 Q3", "2020 Q2")
    assert not view.bands["agrees"].all(), "after the change far-away members stayed"


def test_vintages_impact_and_swaps_are_there(stores, chunk, view):
    oldest = view.vintages.filter(pl.col("cohort") == datetime(2020, 4, 1))
    assert oldest["months_on_book"].to_list() == list(range(7))
    whole = stores.warehouse.query(
        "select avg(label) from fct_labelled_predictions where cohort = timestamp '2020-04-01'"
    ).item()
    assert oldest["rate"].to_list()[-1] == pytest.approx(whole)
    assert view.impact["group_name"].sort().to_list() == ["basic", "family"]
    assert view.impact["rows"].sum() == served(stores, chunk)[1].height
    evaluated = stores.warehouse.query(
        """select "rows", positives from shadow_evaluation where segment = 'all' and metric = 'roc_auc'
           and champion is not null order by as_of desc, challenger desc limit 1"""
    ).row(0)
    assert view.swap.select(pl.sum("rows", "positives")).row(0) == evaluated
    assert view.swapped.startswith("champion v")


def test_the_page_shows_it(stores, chunk):
    html = (stores.settings.reports / f"drift_{chunk.key}.html").read_text(encoding="utf-8")
    assert "Credit view" in html
    assert "Vintage curves" in html
    assert "approved by both" in html


def test_without_mature_cohorts_the_view_says_so(stores):
    first = datetime(2019, 7, 1)
    early = credit_view(stores, Chunk(first, chunk_end(first, "quarter"), "2019 Q3"), POLICY)
    assert early.bands.is_empty()
    assert early.ranking.is_empty()
    assert early.not_computed["bands"].startswith(
        "no prediction is mature: the newest mature cohort is 2019 Q1"
    )


def test_without_the_marts_the_view_says_so(stores, chunk, tmp_path):
    bare = Stores(Settings(use_case=stores.settings.use_case, home=tmp_path))
    view = credit_view(bare, chunk, POLICY)
    assert view.stability.is_empty()
    assert view.not_computed["vintages"].startswith("dbt has not built fct_group_approvals, fct_ranking")
