"""Bad chunks through the assets: each is a stated result, or an error that names it; no table holds a NaN.

The rows of one chunk of a history that was lived through are spoilt, monitored, and mended again.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import dagster as dg
import polars as pl
import pytest

from selfheal_assets.core.tables import TABLES
from selfheal_assets.definitions import build_definitions
from selfheal_assets.defs.resources import Stores
from selfheal_assets_tests.conftest import Lived

pytestmark = pytest.mark.integration

CHUNK, CHUNK_END, MATURED = datetime(2020, 4, 1), datetime(2020, 7, 1), datetime(2019, 10, 1)
WHERE = f"event_time >= '{CHUNK}' and event_time < '{CHUNK_END}'"
LOG = f"from prediction_log where {WHERE}"
MONITOR = [
    "proxy_metrics", "chunk_statistics", "univariate_drift", "multivariate_drift", "drift_alarms",
    "estimated_performance", "partial_label_evidence", "realized_performance", "drift_report", "health_report",
]  # fmt: skip
DBT = [
    "stg_predictions",
    "stg_labels",
    "fct_labelled_predictions",
    "fct_cohort_maturity",
    "fct_label_coverage",
]
FIGURES = [name for name in MONITOR if name in TABLES and name != "health_report"]


@pytest.fixture(scope="module")
def stores(lived: Lived, tmp_path_factory) -> Stores:
    """A copy of the lived installation."""
    return lived.copied(tmp_path_factory.mktemp("spoilt") / "home")


@contextmanager
def spoilt(stores: Stores, *statements: str) -> Iterator[None]:
    """Run SQL on log and ledger, and put both back afterwards."""
    with stores.warehouse.write() as connection:
        for table in ("prediction_log", "labels"):
            connection.execute(f"create table kept_{table} as select * from {table}")
        for statement in statements:
            connection.execute(statement)
    try:
        yield
    finally:
        with stores.warehouse.write() as connection:
            for table in ("prediction_log", "labels"):
                connection.execute(f"delete from {table}")
                connection.execute(f"insert into {table} select * from kept_{table}")
                connection.execute(f"drop table kept_{table}")


def run(stores: Stores, names: list[str], raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(stores.settings, stores)
    with dg.DagsterInstance.ephemeral() as instance, stores.warehouse.kept_open():
        return dg.materialize(
            list(definitions.assets or []),
            selection=[dg.AssetKey(name) for name in names],
            partition_key=f"{CHUNK:%Y-%m-%d}",
            resources=definitions.resources,
            instance=instance,
            raise_on_error=raise_on_error,
        )


def monitored(stores: Stores, *before: str) -> dict[str, pl.DataFrame]:
    """The chunk's tables after a run that must succeed. Each has rows, and none a NaN or an unexplained gap."""
    assert run(stores, [*before, *MONITOR]).success
    with stores.warehouse.kept_open():
        found = {name: stores.load_chunk(name, CHUNK) for name in [*FIGURES, "findings", "health_report"]}
    for name, frame in found.items():
        assert frame.height > 0, name
        for column in frame.select(pl.selectors.float()):
            assert column.is_finite().all(), (name, column.name)
    return found


def reasons(frame: pl.DataFrame) -> set[str]:
    return set(frame["reason"].drop_nulls())


def distance_of(found: dict[str, pl.DataFrame], feature: str) -> dict[str, Any]:
    """The row of a feature's Jensen–Shannon distance over all rows."""
    drift = found["univariate_drift"].filter(feature=feature, method="jensen_shannon", segment="all")
    return drift.row(0, named=True)


def findings(found: dict[str, pl.DataFrame]) -> dict[str, str]:
    return dict(found["findings"].select("check", "status").iter_rows())


def check_of(result: dg.ExecuteInProcessResult, name: str) -> dg.AssetCheckEvaluation:
    return {c.check_name: c for c in result.get_asset_check_evaluations()}[name]


def test_an_ordinary_chunk_is_judged_whole_and_by_segment(stores):
    found = monitored(stores)
    (told,) = reasons(found["univariate_drift"])  # of plan within plan=basic: every case has the one value
    assert "PSI needs two" in told
    realized = found["realized_performance"]
    assert set(realized["segment"]) == {"all", "plan=basic", "plan=family"}
    assert set(realized["scored_by"]) == {"served", "champion"}
    assert reasons(realized) == {
        "no costs in the policy: say what a missed positive and a refused good case cost"
    }
    auc = realized.filter(pl.col("metric") == "roc_auc", pl.col("segment") == "all", scored_by="served")
    assert found["health_report"]["realized_auc"].item() == auc["value"].item()


def test_an_empty_chunk_and_a_single_row_are_unknown(stores):
    none, few = f"delete {LOG}", f"delete {LOG} and prediction_id <> (select min(prediction_id) {LOG})"
    for rows, statement in ((0, none), (1, few)):
        with spoilt(stores, statement):
            found = monitored(stores, *DBT)
        said = f"{rows} predictions in this chunk; alarms.min_rows asks for 150"
        for name in ("univariate_drift", "multivariate_drift", "drift_alarms", "estimated_performance"):
            assert reasons(found[name]) == {said}, name
            value = found[name]["statistic" if name == "drift_alarms" else "value"]
            assert value.null_count() == found[name].height
        assert found["proxy_metrics"]["value"][0] == rows
        assert reasons(found["proxy_metrics"]) == ({"no predictions in this chunk"} if rows == 0 else set())
        told = findings(found)
        assert told["drift_within_limits"] == told["estimated_performance_holds"] == "INSUFFICIENT_DATA"
        if rows == 0:
            assert reasons(found["partial_label_evidence"]) == {said}
            assert set(told.values()) == {"INSUFFICIENT_DATA"}
            assert found["health_report"]["status"].item() == "INSUFFICIENT_DATA"


def stored(stores: Stores) -> list[tuple[str, str]]:
    """Under which profiles the chunk is counted, by table."""
    tables = ("chunk_statistics", "chunk_scores")
    each = [f"select distinct profile, '{t}' from {t} where chunk = '{CHUNK:%Y-%m-%d}'" for t in tables]
    return stores.warehouse.query(" union all ".join(each) + " order by all").rows()


def test_a_chunk_that_can_no_longer_be_judged_keeps_nothing_of_when_it_could(stores):
    """Its predictions turn out to be another's, and it is monitored again."""
    outcomes = ["chunk_statistics", "partial_label_evidence", "realized_performance"]
    kept = ("harm_alarms", "hazard_counts", "realized_losses")

    def again() -> dict[str, str]:
        assert run(stores, [*DBT, *outcomes]).success
        assert run(
            stores, ["health_report"]
        ).success  # reads what they wrote, but depends on them by a page only
        return dict(stores.load_chunk("findings", CHUNK).select("check", "status").iter_rows())

    assert again()["calibration_holds"] != "INSUFFICIENT_DATA"
    assert all(stores.load_chunk(name, CHUNK).height for name in kept) and len(stored(stores)) == 2
    budgets = stores.load_chunk("harm_alarms", CHUNK).sort("evidence")["budget"].to_list()
    few = f"delete {LOG} and prediction_id not in (select prediction_id {LOG} order by all limit 5)"
    with spoilt(stores, few):
        assert again()["calibration_holds"] == "INSUFFICIENT_DATA"
        [alarm] = stores.load_chunk("harm_alarms", CHUNK).filter(evidence="partial").to_dicts()
        [partial] = stores.load_chunk("evidence", CHUNK).filter(stage="partial").to_dicts()
        for row in (alarm, partial):
            assert row["status"] == "INSUFFICIENT_DATA"
            assert row["reason"] == "5 predictions in this chunk; alarms.min_rows asks for 150"
        assert (alarm["effect"], partial["value"]) == (None, None)
    with spoilt(stores, f"delete {LOG}"):
        assert again()["realized_performance_holds"] == "INSUFFICIENT_DATA"
        alarms = stores.load_chunk("harm_alarms", CHUNK)
        assert set(alarms["evidence"]) == {"partial", "realized"}
        assert alarms["statistic"].null_count() == 2
        assert alarms.sort("evidence")["budget"].to_list() == budgets, "as where it could be judged"
        for name in ("hazard_counts", "realized_losses"):
            assert stores.load_chunk(name, CHUNK).is_empty(), name
        assert not stored(stores), "the counts of later chunks go on from these"
    again()
    assert all(stores.load_chunk(name, CHUNK).height for name in kept)


def test_a_chunk_that_turns_out_to_be_anothers_is_counted_under_one_version(stores):
    """Else the version that was thought to have answered it would go on from counts that are not its own."""
    own = stored(stores)
    with stores.warehouse.write() as connection:
        for _, table in own:
            connection.execute(
                f"insert into {table} by name select * replace ('another' as profile) from {table} "
                f"where chunk = '{CHUNK:%Y-%m-%d}'"
            )
    assert len(stored(stores)) == 2 * len(own) == 4
    assert run(stores, ["chunk_statistics"]).success
    assert stored(stores) == own


def test_a_cohort_of_one_class_says_so(stores):
    with spoilt(stores, "delete from labels"):
        found = monitored(stores, *DBT)
    realized = found["realized_performance"].filter(pl.col("method") != "count")
    assert realized["value"].null_count() == realized.height
    assert all(
        "with 0 positives; the policy asks for 150 and 20" in r or "no costs" in r for r in reasons(realized)
    )
    assert findings(found)["realized_performance_holds"] == "INSUFFICIENT_DATA"


def test_scores_of_one_value_and_one_class_say_so(stores):
    with spoilt(stores, f"update prediction_log set probability = 0.01, prediction = 0 where {WHERE}"):
        found = monitored(stores)
    assert dict(found["proxy_metrics"].select("metric", "value").iter_rows())["positive_rate"] == 0


def test_scores_that_are_no_numbers_are_counted_and_left_out(stores):
    some = f"set probability = 'nan'::double where prediction_id in (select prediction_id {LOG} limit 7)"
    every = f"set probability = 'inf'::double where {WHERE}"
    for statement in (some, every):
        with spoilt(stores, f"update prediction_log {statement}"):
            found = monitored(stores)
        assert any("scores are no probabilities" in r for r in reasons(found["proxy_metrics"]))
        assert any(
            "scores are not finite and are left out" in r for r in reasons(found["estimated_performance"])
        )


def test_a_constant_feature_has_a_distance(stores):
    with spoilt(stores, f"update prediction_log set distance = 1.0 where {WHERE}"):
        found = monitored(stores)
    row = distance_of(found, "distance")
    assert 0.5 < row["value"] <= 1
    assert row["alert"]


@pytest.mark.parametrize(
    ("value", "column", "more"),
    [
        pytest.param("null", "distance", "", marks=pytest.mark.long),
        ("'inf'", "distance", ", {rows} of them infinite"),
        ("null", "plan", ""),
    ],
)
def test_a_feature_without_a_usable_value_has_a_reason(stores, value, column, more):
    with spoilt(stores, f"update prediction_log set {column} = {value} where {WHERE}"):
        found = monitored(stores)
    row = distance_of(found, column)
    rows = found["health_report"]["rows"].item()
    said = f"all {rows} values are missing in the chunk" + more.format(rows=rows)
    assert (row["value"], row["rows"], row["reason"]) == (None, 0, said)


def test_an_unseen_category_in_every_row_is_the_largest_drift(stores):
    with spoilt(stores, f"update prediction_log set plan = 'gold' where {WHERE}"):
        found = monitored(stores)
    assert distance_of(found, "plan")["value"] == pytest.approx(1)
    assert findings(found)["drift_within_limits"] == "FAIL"


def test_rows_that_break_the_schema_stop_the_run_and_are_shown_without_the_person(stores):
    personal = tuple(f.model_copy(update={"personal": f.name == "age"}) for f in stores.case.features)
    case = stores.case.model_copy(update={"features": personal})
    rows = f"select prediction_id {LOG} order by event_time, prediction_id"
    with (
        spoilt(
            stores,
            f"update prediction_log set plan = 'gold' where prediction_id in ({rows} limit 12)",
            f"update prediction_log set age = 77.5 where prediction_id in ({rows} limit 1)",
            f"update prediction_log set distance = 'inf' where prediction_id in ({rows} limit 1 offset 1)",
        ),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(type(stores), "case", property(lambda _: case))
        result = run(stores, ["prediction_log", "proxy_metrics"], raise_on_error=False)
    assert not result.success
    check = check_of(result, "schema_is_valid")
    assert not check.passed
    assert check.blocking
    assert check.metadata["failing_rows"].value == 12
    told = check.metadata["sample"].value
    assert len(told.records) == 10
    first, second = (r.data for r in told.records[:2])
    assert first["problems"] == (
        "column 'age': a personal value, not shown, must be at most 10; "
        "column 'plan': 'gold' must be one of basic, family"
    )
    assert "column 'distance': inf must be a finite number" in second["problems"]
    assert {"row", "prediction_id", "event_time", "distance", "plan"} <= set(first)
    assert not {"entity_id", "age"} & set(first)
    assert "77.5" not in str(check)


def test_a_wrong_clock_is_named_and_stops_nothing(stores):
    first = f"(select min(prediction_id) {LOG})"
    last = f"(select max(prediction_id) {LOG})"
    with spoilt(
        stores,
        f"update prediction_log set event_time = '2099-01-01' where prediction_id = {first}",
        f"update prediction_log set event_time = '1999-01-01' where prediction_id = {last}",
    ):
        result = run(stores, ["prediction_log", "proxy_metrics"])
    check = check_of(result, "event_times_are_plausible")
    assert (check.passed, check.severity, check.metadata["rows"].value) == (
        False,
        dg.AssetCheckSeverity.WARN,
        2,
    )
    sample = [r.data for r in check.metadata["sample"].value.records]
    assert {r["event_time_is"] for r in sample} == {"in the future", "before go_live"}
    assert "entity_id" not in sample[0]
    assert check_of(run(stores, ["prediction_log"]), "event_times_are_plausible").passed


def test_a_label_from_before_its_case_is_named_and_counts_at_once(stores):
    early = "update labels set occurred_at = '2018-01-01', recorded_at = '2018-01-02' where entity_id in "
    some = f"(select entity_id {LOG} and entity_id in (select entity_id from labels) limit 3)"
    with spoilt(stores, early + some):
        result = run(stores, ["labels"])
        monitored(stores, *DBT)
    check = check_of(result, "label_times_are_plausible")
    assert (check.passed, check.severity, check.metadata["rows"].value) == (
        False,
        dg.AssetCheckSeverity.WARN,
        3,
    )
    assert check_of(run(stores, ["labels"]), "label_times_are_plausible").passed


def test_a_label_that_names_an_answer_of_another_case_is_named(stores):
    """A join that slipped would teach the next model from labels of other cases."""
    case, other = stores.warehouse.query(
        f"select entity_id, prediction_id {LOG} and role = 'champion' order by entity_id limit 2"
    ).rows()
    torn = f"""insert into labels (prediction_id, entity_id, label, occurred_at, recorded_at, source)
        values ('{other[1]}', '{case[0]}', 1, '{CHUNK}', '{CHUNK}', 'slipped.csv')"""
    whole = torn.replace(other[1], case[1])
    with spoilt(stores, torn, whole):
        check = check_of(run(stores, ["labels"]), "label_ids_agree")
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    sample = check.metadata["sample"].records[0].data
    assert check.metadata["rows"].value == 1
    assert (sample["prediction_id"], sample["entity_id"]) == (other[1], case[0])
    assert sample["logged_entity_id"] == other[0] and sample["source"] == "slipped.csv"
    assert check_of(run(stores, ["labels"]), "label_ids_agree").passed


def test_a_label_from_the_future_is_named_and_waits(stores):
    """Its source's clock, or its time zone, is wrong: without a word nobody would miss it for years."""
    ahead = "update labels set recorded_at = '2999-01-01' where source <> 'history' and entity_id in "
    some = f"(select entity_id {LOG} and entity_id in (select entity_id from labels) order by all limit 3)"
    with spoilt(stores, ahead + some):
        check = check_of(run(stores, ["labels"]), "label_times_are_plausible")
    assert (check.passed, check.severity, check.metadata["rows"].value) == (
        False,
        dg.AssetCheckSeverity.WARN,
        3,
    )
    assert "3 labels were recorded after now" in str(check.description)
    sample = [r.data for r in check.metadata["sample"].value.records]
    assert {r["recorded_at_is"] for r in sample} == {"in the future"}
    assert "entity_id" not in sample[0]


def test_a_case_that_was_answered_twice_is_counted(stores):
    again = f"""insert into prediction_log by name
        select * replace (prediction_id || '-again' as prediction_id) {LOG} limit 5"""
    with spoilt(stores, again):
        result = run(stores, ["prediction_log"])
    [event] = result.asset_materializations_for_node("prediction_log")
    assert event.metadata["entities_answered_again"].value == 5


def altered(stores: Stores, **alarms: Any) -> Stores:
    """The same installation under another policy."""
    policy = stores.case.policy
    policy = policy.model_copy(update={"alarms": policy.alarms.model_copy(update=alarms)})
    case = stores.case.model_copy(update={"policy": policy})

    class Altered(Stores):
        @property
        def case(self):
            return case

    return Altered(stores.settings)


def test_a_reference_smaller_than_the_policy_asks_judges_nothing(stores):
    found = monitored(altered(stores, min_positives=5000))
    said = {r for r in reasons(found["estimated_performance"]) if "the champion's reference has" in r}
    assert len(said) == 1
    assert said.pop().endswith("policy.alarms asks for min_rows = 150 and min_positives = 5000 of each class")
    told = findings(found)
    assert told["estimated_performance_holds"] == told["realized_performance_holds"] == "INSUFFICIENT_DATA"
    drift = found["univariate_drift"].filter(segment="all")
    assert drift["value"].null_count() == 0, "drift needs no label"


def test_a_table_that_breaks_its_schema_is_not_saved(stores):
    before = stores.load_chunk("univariate_drift", CHUNK)
    with pytest.raises(ValueError, match="table 'univariate_drift' breaks its schema"):
        stores.save_chunk("univariate_drift", CHUNK, before.with_columns(value=pl.lit(math.nan)))
    assert stores.load_chunk("univariate_drift", CHUNK).equals(before)
