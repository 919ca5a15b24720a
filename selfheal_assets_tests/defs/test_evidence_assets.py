"""Evidence of a history that was lived through, monitored again: counts, alarms, estimates and the champion's books.

Each test that changes rows does so on a copy of the installation, through the assets as Dagster runs them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from selfheal_assets.core.evidence import STAGES
from selfheal_assets.core.tables import validated
from selfheal_assets.definitions import build_definitions
from selfheal_assets.defs.resources import Stores
from selfheal_assets_tests.conftest import Lived

pytestmark = pytest.mark.integration

# The first champion answered up to CHUNK's end, and another one the chunk after that.
BEFORE, CHUNK, AFTER = datetime(2020, 4, 1), datetime(2020, 7, 1), datetime(2020, 10, 1)
COUNTS = ["chunk_statistics", "chunk_scores"]
MARTS = ["stg_predictions", "stg_labels", "fct_labelled_predictions"]
BOOKS = ["hazard_counts", "realized_losses", "harm_alarms"]
FIGURES = [
    "proxy_metrics", "univariate_drift", "multivariate_drift", "drift_alarms", "suspected_causes",
    "estimated_performance", "partial_label_evidence", "realized_performance", *BOOKS, "evidence", "findings",
    "health_report",
]  # fmt: skip


@pytest.fixture(scope="module")
def stores(lived: Lived, tmp_path_factory) -> Stores:
    """A copy for tests that leave it as it was."""
    return lived.copied(tmp_path_factory.mktemp("evidence") / "home")


def materialize(stores: Stores, chunk: datetime, *assets: str) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(stores.settings, stores)
    with dg.DagsterInstance.ephemeral() as instance, stores.warehouse.kept_open():
        return dg.materialize(
            list(definitions.assets or []),
            selection=[dg.AssetKey(name) for name in assets],
            partition_key=f"{chunk:%Y-%m-%d}",
            resources=definitions.resources,
            instance=instance,
        )


def check_of(result: dg.ExecuteInProcessResult, name: str) -> dg.AssetCheckEvaluation:
    return {c.check_name: c for c in result.get_asset_check_evaluations()}[name]


def with_policy(stores: Stores, **policy: Any) -> Stores:
    """The same installation under another policy."""
    case = stores.case.model_copy(update={"policy": stores.case.policy.model_copy(update=policy)})

    class Altered(Stores):
        @property
        def case(self):
            return case

    return Altered(stores.settings)


def table(stores: Stores, name: str) -> pl.DataFrame:
    return stores.warehouse.query(f"select * from {name}")


def counts(stores: Stores) -> dict[str, pl.DataFrame]:
    """What is counted of all chunks, in one order."""
    return {name: table(stores, name).sort("profile", "chunk", pl.all()) for name in COUNTS}


@contextmanager
def shifted(stores: Stores, by: float, *chunks: datetime) -> Iterator[None]:
    """Applicants of these chunks live further away by that many standard deviations."""
    starts = ", ".join(f"timestamp '{chunk}'" for chunk in chunks)
    where = f"date_trunc('quarter', event_time) in ({starts})"
    with stores.warehouse.write() as connection:
        connection.execute("create table kept as select prediction_id, distance from prediction_log")
        connection.execute(f"update prediction_log set distance = distance + {by} where {where}")
    try:
        yield
    finally:
        with stores.warehouse.write() as connection:
            connection.execute(
                "update prediction_log set distance = kept.distance from kept "
                "where kept.prediction_id = prediction_log.prediction_id"
            )
            connection.execute("drop table kept")
        for chunk in chunks:
            materialize(stores, chunk, "chunk_statistics", "univariate_drift", "drift_alarms")


def test_the_replay_counted_each_chunk_once_under_the_profile_of_who_answered(stores):
    kept = counts(stores)
    by_chunk = kept["chunk_statistics"].group_by("chunk").agg(pl.col("profile").unique()).sort("chunk")
    quarters = ["2019-07-01", "2019-10-01", "2020-01-01", "2020-04-01", "2020-07-01", "2020-10-01"]
    assert by_chunk["chunk"].to_list() == quarters
    profiles = by_chunk["profile"].to_list()
    assert {len(p) for p in profiles} == {1}
    assert profiles[0] == profiles[4] != profiles[5], "another champion, other cells"


def test_a_chunk_materialized_again_changes_no_count_and_no_figure(stores):
    kept, drift = counts(stores), stores.load_chunk("univariate_drift", CHUNK)
    alarms = stores.load_chunk("drift_alarms", CHUNK)
    materialize(stores, CHUNK, "chunk_statistics", "univariate_drift", "drift_alarms")
    for name, frame in counts(stores).items():
        assert_frame_equal(frame, kept[name], check_exact=True)
    assert_frame_equal(stores.load_chunk("univariate_drift", CHUNK), drift, check_row_order=False)
    assert_frame_equal(stores.load_chunk("drift_alarms", CHUNK), alarms, check_row_order=False)


def test_figures_are_read_from_the_counts_and_not_from_the_rows(stores):
    """Rows that changed show in a figure once their chunk is counted again, and not before."""
    before = stores.load_chunk("univariate_drift", CHUNK)
    with shifted(stores, 1.0, CHUNK):
        materialize(stores, CHUNK, "univariate_drift")
        assert_frame_equal(stores.load_chunk("univariate_drift", CHUNK), before, check_row_order=False)
        materialize(stores, CHUNK, "chunk_statistics", "univariate_drift")
        moved = stores.load_chunk("univariate_drift", CHUNK).filter(
            feature="distance", method="jensen_shannon", segment="all"
        )
        quiet = before.filter(feature="distance", method="jensen_shannon", segment="all")
        assert moved["value"].item() > 2 * quiet["value"].item()


def test_drift_is_judged_and_quiet_where_the_inputs_stayed(stores):
    """The toy's world turns round, and its members stay who they were."""
    alarms = stores.load_chunk("drift_alarms", CHUNK)
    assert set(alarms["feature"]) == {"distance", "age", "plan", "probability", "prediction"}
    assert alarms.height == 10 and set(alarms["tier"]) == {"warn", "act"}
    assert set(alarms["status"]) == {"PASS"}
    assert stores.load_chunk("suspected_causes", CHUNK).is_empty()


def test_a_shifted_chunk_fails_and_is_told_what_since_when_which_way_and_why(stores):
    with shifted(stores, 1.0, CHUNK):
        check = check_of(
            materialize(stores, CHUNK, "chunk_statistics", "drift_alarms"), "drift_within_limits"
        )
        alarms = stores.load_chunk("drift_alarms", CHUNK).filter(status="FAIL")
        causes = stores.load_chunk("suspected_causes", CHUNK)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.asset_key == dg.AssetKey("drift_alarms")
    assert set(alarms["feature"]) == {"distance"}
    row = alarms.filter(tier="act").row(0, named=True)
    assert row["first_chunk"] == f"{CHUNK:%Y-%m-%d}"
    assert row["direction"] == "up"
    assert row["statistic"] > row["limit"]
    assert row["shift_sd"] == pytest.approx(1, abs=0.2)
    assert check.description is not None
    assert f"distance changed since {CHUNK:%Y-%m-%d}" in check.description
    assert set(causes["metric"]) == {"mean_score", "estimated_roc_auc"}
    assert set(causes["feature"]) == {"distance"}
    assert causes["effect"].null_count() == 0
    score = causes.filter(metric="mean_score")
    assert (score["rank"].item(), score["share"].item()) == (1, pytest.approx(1))
    assert score["effect"].item() > 0, "who lives far away is held to leave"


def test_a_shift_that_stays_is_dated_to_its_first_chunk(stores):
    with shifted(stores, 1.0, BEFORE, CHUNK):
        materialize(stores, BEFORE, "chunk_statistics", "drift_alarms")
        materialize(stores, CHUNK, "chunk_statistics", "drift_alarms")
        alarms = stores.load_chunk("drift_alarms", CHUNK).filter(status="FAIL", feature="distance")
    assert set(alarms["tier"]) == {"warn", "act"}, "two chunks of three: now the warning tier, too"
    assert set(alarms["first_chunk"]) == {f"{BEFORE:%Y-%m-%d}"}


def test_the_engines_agree(stores):
    """NannyML on the rows, against what the push-down engine made of counts when the chunk was lived through."""
    drift, estimates = (stores.load_chunk(t, CHUNK) for t in ("univariate_drift", "estimated_performance"))
    materialize(
        with_policy(stores, engine="nannyml"),
        CHUNK,
        "chunk_statistics",
        "univariate_drift",
        "estimated_performance",
    )
    by_nannyml = stores.load_chunk("univariate_drift", CHUNK)
    judged_by_nannyml = stores.load_chunk("estimated_performance", CHUNK)
    materialize(stores, CHUNK, "univariate_drift", "estimated_performance")

    both = by_nannyml.join(drift, on=["feature", "kind", "segment", "method"], validate="1:1")
    assert both["feature"].to_list() == ["distance", "age", "plan"] and by_nannyml.height == 3
    for column in ("value", "threshold"):
        apart = (both[column] - both[f"{column}_right"]).abs()
        assert apart.null_count() == 0 and apart.max() <= 1e-12, column
    assert both["rows"].equals(both["rows_right"]) and both["alert"].equals(both["alert_right"])

    both = judged_by_nannyml.join(estimates, on=["segment", "metric"], validate="1:1")
    assert set(both["metric"]) == {"roc_auc", "f1"} and judged_by_nannyml.height == 2
    assert (both["value"] - both["value_cbpe_right"]).abs().max() <= 1e-5
    assert (both["rows"] - both["rows_right"]).abs().max() == 0


def test_the_evidence_has_its_three_stages_side_by_side(stores):
    told = stores.load_chunk("evidence", CHUNK)
    assert set(told["stage"]) == set(STAGES)
    sources = {
        "estimated": stores.load_chunk("estimated_performance", CHUNK),
        "realized": stores.load_chunk("realized_performance", CHUNK).filter(scored_by="champion"),
    }
    for stage, source in sources.items():
        own = told.filter(stage=stage).select(
            "segment", "metric", "value", "lower", "upper", "rows", "status"
        )
        assert_frame_equal(own, source.select(own.columns), check_row_order=False)
    [partial] = told.filter(stage="partial").to_dicts()
    [alarm] = stores.load_chunk("harm_alarms", CHUNK).filter(evidence="partial").to_dicts()
    assert partial["value"] == pytest.approx(1 / alarm["effect"])
    assert partial["reason"] == alarm["reason"]
    published = pl.read_parquet(stores.settings.published / "evidence.parquet")
    assert published["chunk"].unique().to_list() == [AFTER]
    latest = stores.load_chunk("evidence", AFTER)
    assert_frame_equal(published.drop("chunk"), latest, check_row_order=False)


def test_the_estimate_did_not_see_what_the_outcomes_showed(stores):
    """Why the stages stand side by side: the relation turned round, and the inputs did not move."""
    auc = stores.load_chunk("evidence", CHUNK).filter(metric="roc_auc", segment="all")
    value = dict(auc.select("stage", "value").iter_rows())
    assert value["estimated"] > 0.75
    assert value["realized"] < 0.4
    status = dict(stores.load_chunk("findings", CHUNK).select("check", "status").iter_rows())
    assert status["drift_within_limits"] == status["estimated_performance_holds"] == "PASS"
    assert status["realized_performance_holds"] == "FAIL"


def test_health_is_not_certified_before_an_outcome_is(lived, tmp_path):
    """Drift and estimate hold in the first chunk; without a label so far nobody knows."""
    stores = lived.copied(tmp_path / "home")
    with stores.warehouse.write() as connection:
        connection.execute("delete from labels where source <> 'history'")
    materialize(stores, datetime(2019, 7, 1), *MARTS, "partial_label_evidence", "realized_performance")
    materialize(stores, datetime(2019, 7, 1), "health_report")
    status = dict(stores.load_chunk("findings", datetime(2019, 7, 1)).select("check", "status").iter_rows())
    assert status["drift_within_limits"] == status["estimated_performance_holds"] == "PASS"
    assert status["calibration_holds"] != "PASS" and status["realized_performance_holds"] != "PASS"
    assert stores.load_chunk("health_report", datetime(2019, 7, 1))["status"].item() != "PASS"


def test_the_books_grow_with_each_chunk_and_begin_anew_with_a_new_champion(stores):
    losses = table(stores, "realized_losses").sort("chunk", "seen_in")
    first, second = losses["version"].unique(maintain_order=True).to_list()
    seen = {c: f["seen_in"].to_list() for (c,), f in losses.group_by("chunk", maintain_order=True)}
    assert list(seen) == sorted(seen) and len(seen) == 6
    for number, chunk in enumerate(list(seen)[:5]):
        assert seen[chunk] == list(seen)[: number + 1]
    assert seen[AFTER] == [AFTER], "nothing is held against a champion that another one did"
    assert losses.filter(pl.col("chunk") == AFTER)["version"].to_list() == [second]
    assert losses.filter(pl.col("chunk") < AFTER)["version"].unique().to_list() == [first]
    hazards = table(stores, "hazard_counts")
    assert hazards.filter(pl.col("chunk") < AFTER)["version"].unique().to_list() == [first]
    assert hazards.filter(pl.col("chunk") == AFTER)["version"].unique().to_list() == [second]
    cohorts = hazards.filter(version=first).group_by("chunk").agg(pl.col("cohort").n_unique()).sort("chunk")
    assert cohorts["cohort"].to_list() == [1, 2, 3, 4, 5], "of every cohort, beyond the lookback of four, too"


def test_the_books_survive_their_chunk_and_the_one_before_materialized_again(stores):
    before = {name: table(stores, name) for name in BOOKS}
    for chunk in (CHUNK, BEFORE, CHUNK, AFTER):
        materialize(stores, chunk, *MARTS, "partial_label_evidence", "realized_performance")
    for name, frame in before.items():
        assert_frame_equal(table(stores, name), frame, check_row_order=False)


@pytest.mark.parametrize("name", FIGURES)
def test_each_row_of_each_table_has_a_value_or_a_reason(stores, name):
    whole = table(stores, name)
    assert whole.height > 0 or name == "suspected_causes", "the toy's members do not drift"
    for (chunk,), frame in whole.group_by("chunk"):
        assert validated(name, frame.drop("chunk")).height, chunk
    for column in whole.select(pl.selectors.float()):
        assert column.drop_nulls().is_finite().all(), column.name
    if "value" in whole.columns:
        assert whole.filter(pl.col("value").is_null() & pl.col("reason").fill_null("").eq("")).is_empty()
