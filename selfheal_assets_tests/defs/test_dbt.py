"""The dbt models, built by their Dagster op into a real warehouse."""

from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from selfheal_assets.defs.dbt import build_dbt_assets
from selfheal_assets.defs.resources import Stores, chunk_partitions
from selfheal_assets.settings import Settings

pytestmark = pytest.mark.integration

USE_CASE = """
name: {name}
title: A case of twelve months
source: {{paths: [none.csv]}}
entity_id: id
event_time: at
go_live: 2020-01-01
features: [{{name: amount, type: number}}]
label: {{name: bad, column: bad, horizon_months: 12, implicit_negatives: {implicit}}}
reference: {{start: 2018-01-01, end: 2019-01-01}}
monitoring: {{chunk: quarter}}
"""
CREDIT_MARTS = (
    "fct_stability", "fct_score_bands", "fct_ranking", "fct_vintage_curves", "fct_swap_set", "fct_group_approvals",
)  # fmt: skip
CHUNK, AS_OF = "2021-01-01", datetime(2021, 4, 1)


def make_stores(folder: Path, implicit_negatives: bool) -> Stores:
    name = f"implicit_{implicit_negatives}".lower()
    path = folder / f"{name}.yaml"
    path.write_text(USE_CASE.format(name=name, implicit=str(implicit_negatives).lower()))
    return Stores(Settings(use_case=str(path), home=folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("dbt")


@pytest.fixture(scope="module")
def built(folder):
    """Both kinds of use case with their dbt assets: parsed once, as dbt takes seconds to import and parse."""
    made = {}
    for implicit in (True, False):
        stores = make_stores(folder, implicit)
        made[implicit] = stores, build_dbt_assets(stores.settings, chunk_partitions(stores.case))
    return made


@pytest.fixture
def loop(request, built):
    """Stores with empty tables, and the dbt assets. Afterwards the warehouse must be free for others."""
    stores, assets = built[getattr(request, "param", True)]
    with stores.warehouse.write() as connection:
        for table in ("prediction_log", "labels", "clock"):
            connection.execute(f"delete from {table}")
    yield stores, assets
    open_files = {link.resolve() for link in Path("/proc/self/fd").glob("*") if link.exists()}
    assert stores.warehouse.path.resolve() not in open_files, "dbt keeps the warehouse open"


both_kinds_of_negatives = pytest.mark.parametrize(
    "loop", [True, False], ids=["implicit_negatives", "reported_negatives"], indirect=True
)


def log(stores: Stores, *cases: tuple[str, datetime], role: str = "champion", **values) -> None:
    rows = [
        {
            "prediction_id": f"{role}-{entity}", "entity_id": entity, "predicted_at": at, "event_time": at,
            "model_version": 1, "model_fingerprint": "f", "role": role, "amount": 1.0, "probability": 0.25,
            "prediction": 0, "threshold": 0.5, "segment_file": "s",
        } | values
        for entity, at in cases
    ]  # fmt: skip
    insert(stores, "prediction_log", rows)


def learn(stores: Stores, label: int, occurred_at: datetime, recorded_at: datetime, **case: str) -> None:
    row = {"prediction_id": None, "entity_id": None, "source": "test"} | case
    insert(stores, "labels", [row | {"label": label, "occurred_at": occurred_at, "recorded_at": recorded_at}])


def insert(stores: Stores, table: str, rows: list[dict]) -> None:
    with stores.warehouse.write() as connection:
        connection.register("incoming", pl.DataFrame(rows).to_arrow())
        connection.execute(f"insert into {table} by name select * from incoming")


def build(loop, partition_key: str | None = CHUNK, selection=None) -> dg.ExecuteInProcessResult:
    stores, assets = loop
    return dg.materialize(
        [assets],
        partition_key=partition_key,
        resources={"stores": stores},
        selection=selection,
        raise_on_error=False,
        instance=dg.DagsterInstance.ephemeral(),
    )


def built_by(result: dg.ExecuteInProcessResult) -> dict[str, int | None]:
    """Rows of each materialized model; a view's are not counted."""
    found = {}
    for event in result.asset_materializations_for_node("dbt_models"):
        count = event.metadata.get("dagster/row_count")
        found[event.asset_key.to_user_string()] = count.value if count else None
    return found


def labels_of(stores: Stores) -> dict[str, int | None]:
    return dict(stores.warehouse.query("select entity_id, label from fct_labelled_predictions").iter_rows())


YOUNG, OLD = datetime(2020, 7, 1), datetime(2020, 2, 1)


def test_only_the_champions_cases_before_as_of_are_there(loop):
    stores, _ = loop
    log(stores, ("a", YOUNG), ("too_late", AS_OF))
    log(stores, ("a", YOUNG), role="challenger")
    assert build(loop).success
    rows = stores.warehouse.query("select * from fct_labelled_predictions").to_dicts()
    assert [row["prediction_id"] for row in rows] == ["champion-a"]
    assert rows[0] | {"predicted_at": None} == {
        "prediction_id": "champion-a", "entity_id": "a", "predicted_at": None, "event_time": YOUNG,
        "cohort": datetime(2020, 7, 1), "model_version": 1, "probability": 0.25, "prediction": 0,
        "threshold": 0.5, "age_days": 274.0, "is_mature": False, "label": None, "occurred_at": None,
        "recorded_at": None, "is_labelled": False, "positive_so_far": 0,
    }  # fmt: skip


def test_a_label_recorded_at_or_after_as_of_is_not_visible(loop):
    stores, _ = loop
    log(stores, ("at_as_of", YOUNG), ("just_before", YOUNG))
    for entity, recorded in (("at_as_of", AS_OF), ("just_before", AS_OF - timedelta(microseconds=1))):
        learn(stores, 1, datetime(2020, 12, 1), recorded, entity_id=entity)
    assert build(loop).success
    assert labels_of(stores) == {"at_as_of": None, "just_before": 1}
    assert build(loop, "2021-04-01").success, "a quarter later"
    assert labels_of(stores) == {"at_as_of": 1, "just_before": 1}


def test_a_correction_replaces_once_it_is_recorded(loop):
    stores, _ = loop
    log(stores, ("a", YOUNG))
    learn(stores, 1, datetime(2020, 12, 1), datetime(2020, 12, 2), entity_id="a")
    learn(stores, 0, datetime(2020, 12, 1), datetime(2021, 4, 2), entity_id="a")
    assert build(loop).success
    assert labels_of(stores) == {"a": 1}
    assert build(loop, "2021-04-01").success
    assert labels_of(stores) == {"a": 0}


def test_a_positive_after_the_horizon_is_negative(loop):
    stores, _ = loop
    log(stores, ("on_the_day", OLD), ("a_day_late", OLD))
    for days, entity in enumerate(["on_the_day", "a_day_late"]):
        learn(stores, 1, datetime(2021, 2, 1 + days), datetime(2021, 3, 1), entity_id=entity)
    assert build(loop).success
    assert labels_of(stores) == {"on_the_day": 1, "a_day_late": 0}


def test_a_label_by_prediction_id_resolves_to_the_case(loop):
    stores, _ = loop
    log(stores, ("a", YOUNG), ("b", YOUNG))
    learn(stores, 1, datetime(2020, 12, 1), datetime(2021, 1, 1), prediction_id="champion-a")
    learn(stores, 1, datetime(2020, 12, 1), datetime(2021, 1, 1), prediction_id="not-in-the-log-yet")
    assert build(loop).success
    assert labels_of(stores) == {"a": 1, "b": None}


@both_kinds_of_negatives
def test_silence_at_the_horizon_is_negative_only_where_the_use_case_says_so(loop):
    stores, _ = loop
    log(stores, ("old", OLD), ("young", YOUNG))
    assert build(loop).success
    silent = 0 if stores.case.label.implicit_negatives else None
    assert labels_of(stores) == {"old": silent, "young": None}


@both_kinds_of_negatives
def test_agrees_with_the_macro_that_training_reads(loop):
    stores, _ = loop
    starts = [datetime(2020, 1, 31) + timedelta(days=17 * n) for n in range(24)]
    log(stores, *((f"e{n}", at) for n, at in enumerate(starts)))
    for n, at in enumerate(starts):
        if n % 3:
            happened = at + timedelta(days=40 * (n % 12))
            learn(stores, n % 2, happened, happened + timedelta(days=n), entity_id=f"e{n}")
    assert build(loop).success
    columns = "entity_id, event_time, is_mature, label, recorded_at"
    ours = stores.warehouse.query(f"select {columns} from fct_labelled_predictions order by entity_id")
    macro = stores.warehouse.query(f"select {columns} from labelled_cases(?) order by entity_id", [AS_OF])
    assert ours.equals(macro)
    assert set(ours["label"]) == {0, 1, None}


def test_cohorts_and_coverage_count_what_is_known(loop):
    stores, _ = loop
    log(stores, ("a", YOUNG), ("b", YOUNG + timedelta(days=9)), ("c", YOUNG), ("d", OLD))
    log(stores, ("e", YOUNG), model_version=2)
    learn(stores, 1, datetime(2020, 12, 1), datetime(2020, 12, 2), entity_id="a")
    learn(stores, 0, datetime(2020, 12, 1), datetime(2020, 12, 5), entity_id="b")
    learn(stores, 0, datetime(2021, 2, 1), datetime(2021, 2, 2), entity_id="d")
    result = build(loop)
    assert built_by(result) == {
        "stg_predictions": None, "stg_labels": 3, "fct_labelled_predictions": 5, "fct_cohort_maturity": 2,
        "fct_label_coverage": 3, **dict.fromkeys(CREDIT_MARTS),
    }  # fmt: skip
    first, second = stores.warehouse.query("select * from fct_cohort_maturity order by cohort").to_dicts()
    assert first == {
        "cohort": datetime(2020, 1, 1), "rows": 1, "mature_rows": 1, "labelled_rows": 1,
        "share_labelled": 1.0, "mean_age_days": 425.0, "expected_positives": 0.25, "observed_positives": 0,
    }  # fmt: skip
    assert second == {
        "cohort": datetime(2020, 7, 1), "rows": 4, "mature_rows": 0, "labelled_rows": 2,
        "share_labelled": 0.5, "mean_age_days": 274 - 9 / 4, "expected_positives": 1.0,
        "observed_positives": 1,
    }  # fmt: skip
    by_model = "select * from fct_label_coverage order by cohort, model_version"
    coverage = stores.warehouse.query(by_model).to_dicts()
    assert [(row["cohort"].month, row["model_version"], row["coverage"]) for row in coverage] == [
        (1, 1, 1.0), (7, 1, 2 / 3), (7, 2, 0.0)
    ]  # fmt: skip
    assert coverage[1] | {"coverage": None} == {
        "cohort": datetime(2020, 7, 1), "model_version": 1, "rows": 3, "labelled": 2, "coverage": None,
        "positives": 1, "negatives": 1, "first_recorded_at": datetime(2020, 12, 2),
        "last_recorded_at": datetime(2020, 12, 5),
    }  # fmt: skip


@both_kinds_of_negatives
def test_empty_tables_build_and_pass(loop):
    stores, assets = loop
    result = build(loop)
    assert result.success
    assert {check.check_name for check in result.get_asset_check_evaluations() if not check.passed} == set()
    assert len(result.get_asset_check_evaluations()) == len(list(assets.check_keys))
    assert stores.warehouse.query("select count(*) from fct_labelled_predictions").item() == 0


def test_a_failing_test_fails_the_run_with_its_name_and_rows(loop):
    stores, _ = loop
    log(stores, ("a", YOUNG), ("b", YOUNG), probability=1.5)
    result = build(loop)
    assert not result.success
    [failure] = [event for event in result.all_events if event.is_step_failure]
    message = failure.step_failure_data.user_failure_data.description
    assert "dbt test 'is_share_stg_predictions_probability' failed: Got 2 results" in message
    sql = Path(message.split("by hand: ")[1].splitlines()[0])
    assert "between 0 and 1" in sql.read_text()
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert [(check.asset_key, check.check_name, check.severity) for check in failed] == [
        (dg.AssetKey("stg_predictions"), "is_share_stg_predictions_probability", dg.AssetCheckSeverity.ERROR)
    ]
    assert failed[0].metadata["dbt/failed_rows"].value == 2
    assert built_by(result) == {"stg_predictions": None, "stg_labels": 0}, (
        "what depends on bad rows is not built"
    )
    with stores.warehouse.write() as connection:
        connection.execute("delete from prediction_log")
    assert build(loop).success, "the warehouse is free and the next run recovers"


def test_a_model_that_cannot_be_built_fails_with_dbts_reason(loop):
    stores, _ = loop
    with stores.warehouse.write() as connection:
        connection.execute("alter table labels rename to hidden")
    try:
        result = build(loop)
    finally:
        with stores.warehouse.write() as connection:
            connection.execute("alter table hidden rename to labels")
    assert not result.success
    [failure] = [event for event in result.all_events if event.is_step_failure]
    message = failure.step_failure_data.user_failure_data.description
    assert "dbt model 'stg_labels' failed" in message
    assert "Table with name labels does not exist" in message


def test_a_part_of_the_models_can_be_built_alone(loop):
    stores, _ = loop
    assert build(loop).success
    log(stores, ("a", YOUNG))
    chosen = [dg.AssetKey("stg_predictions"), dg.AssetKey("stg_labels")]
    result = build(loop, selection=chosen)
    assert result.success
    assert stores.warehouse.query("select count(*) from fct_labelled_predictions").item() == 0
    assert built_by(result) == {"stg_predictions": None, "stg_labels": 0}
    assert {check.asset_key for check in result.get_asset_check_evaluations()} == set(chosen)


def test_who_keeps_the_warehouse_builds_a_view_once_and_materializes_it_each_time(loop):
    stores, _ = loop
    remark = "select comment from duckdb_views() where view_name = 'fct_swap_set'"
    with stores.warehouse.kept_open():
        first = build(loop)
        with stores.warehouse.write() as kept:
            kept.execute("comment on view fct_swap_set is 'ours'")  # which goes when a view is replaced
        log(stores, ("a", YOUNG))
        second = build(loop)
        with stores.warehouse.write() as connection:
            assert connection is kept, "dbt needs no closing"
        assert stores.warehouse.query(remark).item() == "ours", "it was built again"
        alone = build(loop, selection=[dg.AssetKey("fct_ranking")])
    assert second.success and built_by(second).keys() == built_by(first).keys() >= set(CREDIT_MARTS)
    assert built_by(second)["fct_labelled_predictions"] == 1, "a table is built each time"
    assert alone.success and built_by(alone).keys() == {"fct_ranking"}
    assert len(second.get_asset_check_evaluations()) == len(first.get_asset_check_evaluations()) > 0
    assert build(loop).success
    assert stores.warehouse.query("from fct_swap_set").columns != ["ours"], (
        "another process may have been here"
    )


def test_a_check_alone_judges_what_was_built(loop):
    stores, _ = loop
    assert build(loop).success
    name = "every_prediction_has_one_row"
    check = dg.AssetCheckKey(dg.AssetKey("fct_labelled_predictions"), name)
    result = build(loop, partition_key=None, selection=dg.AssetSelection.checks(check))
    assert result.success
    assert [found.check_name for found in result.get_asset_check_evaluations()] == [name]
    assert stores.warehouse.query("select as_of from clock").item() == AS_OF


def test_the_graph_is_documented_and_joins_the_loops_assets(loop):
    _, assets = loop
    keys = {key.to_user_string() for key in assets.keys}
    assert keys == {
        "stg_predictions", "stg_labels", "fct_labelled_predictions", "fct_cohort_maturity",
        "fct_label_coverage", *CREDIT_MARTS,
    }  # fmt: skip
    outside = {dep.asset_key.to_user_string() for spec in assets.specs for dep in spec.deps} - keys
    assert outside == {"prediction_log", "labels"}
    for spec in assets.specs:
        assert spec.group_name == "ingest"
        assert spec.kinds == {"dbt", "duckdb"}
        assert "Grain: one row per" in spec.description
        columns = spec.metadata["dagster/column_schema"].columns
        assert [column.name for column in columns if not column.description] == []


def test_every_column_is_documented_with_its_type(loop):
    stores, assets = loop
    assert build(loop).success
    for spec in assets.specs:
        declared = {column.name: column.type for column in spec.metadata["dagster/column_schema"].columns}
        described = stores.warehouse.query(f"describe {spec.key.to_user_string()}")
        real = described.select("column_name", pl.col("column_type").str.to_lowercase())
        assert declared == dict(real.iter_rows())
