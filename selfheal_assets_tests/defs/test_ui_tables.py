"""What the Dagster UI shows of a history that was lived through: columns as they are, counts, picture, report."""

from datetime import datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from selfheal_assets.definitions import build_definitions
from selfheal_assets.defs.resources import Stores
from selfheal_assets.reports.plots import timeline_markdown
from selfheal_assets_tests.conftest import Lived

pytestmark = pytest.mark.integration

CHUNK = datetime(2020, 4, 1)  # the world has turned round, and the labels show it


@pytest.fixture(scope="module")
def stores(lived: Lived, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return lived.copied(tmp_path_factory.mktemp("shown") / "home")


@pytest.fixture(scope="module")
def monitored(stores: Stores) -> dg.ExecuteInProcessResult:
    """One chunk, monitored anew from its counts to its health."""
    definitions = build_definitions(stores.settings, stores)
    names = ["chunk_statistics", "drift_alarms", "realized_performance", "drift_report", "health_report"]
    with dg.DagsterInstance.ephemeral() as instance, stores.warehouse.kept_open():
        return dg.materialize(
            list(definitions.assets or []),
            selection=[dg.AssetKey(name) for name in names],
            partition_key=f"{CHUNK:%Y-%m-%d}",
            resources=definitions.resources,
            instance=instance,
        )


def shown(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, dg.MetadataValue]:
    [done] = result.asset_materializations_for_node(asset)
    return dict(done.metadata)


def test_the_columns_shown_are_the_tables_own(stores: Stores):
    definitions = build_definitions(stores.settings, stores)
    real = stores.warehouse.query(
        "select table_name, column_name, lower(data_type) as kind from duckdb_columns()"
    )
    checked = 0
    for spec in definitions.resolve_all_asset_specs():
        if "dagster/column_schema" not in spec.metadata:
            continue
        table = str(spec.metadata["dagster/table_name"]).split(".")[-1].strip('"')
        ours = {c.name: c.type.lower() for c in spec.metadata["dagster/column_schema"].columns}
        theirs = real.filter(pl.col("table_name") == table)
        assert ours == dict(theirs.select("column_name", "kind").iter_rows()), table
        checked += 1
    assert checked == 29


def test_a_materialization_counts_the_rows_of_its_table(monitored: dg.ExecuteInProcessResult, stores: Stores):
    rows = stores.load_chunk("drift_alarms", CHUNK).height
    assert rows > 0
    assert shown(monitored, "drift_alarms")["dagster/row_count"].value == rows


def test_a_check_leads_to_the_page_that_the_report_writes(monitored: dg.ExecuteInProcessResult):
    checks = {c.check_name: c for c in monitored.get_asset_check_evaluations()}
    check = checks["realized_performance_holds"]
    page = shown(monitored, "drift_report")["report"].value
    assert check.metadata["report"].value == page
    assert Path(str(page)).is_file()
    assert not check.passed and "What to do: open the chunk's report" in str(check.description)
    assert str(check.description).startswith("realized ROC AUC 0.")


def test_the_health_of_all_chunks_is_a_picture(monitored: dg.ExecuteInProcessResult):
    picture = shown(monitored, "health_report")["performance"]
    assert isinstance(picture, dg.MarkdownMetadataValue)
    assert str(picture.value).startswith("![ROC AUC by chunk: estimated with its interval, realized, ")
    assert len(str(picture.value)) < 60_000, "it is kept with every materialization"


def test_a_picture_of_chunks_of_which_nothing_is_known_yet_is_drawn():
    figures = dict.fromkeys(["estimated_auc", "estimated_lower", "estimated_upper"], pl.Series([None, 0.7]))
    health = pl.DataFrame(
        {"label": ["Q1", "Q2"], "realized_auc": [None, None], "failed_checks": ["", "x"], **figures}
    )
    assert "data:image/png;base64," in timeline_markdown(health)
