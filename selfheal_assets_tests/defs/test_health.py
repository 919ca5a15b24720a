"""What Dagster publishes for readers outside it: the predictions at a glance, as of the newest chunk."""

from datetime import datetime

import dagster as dg
import polars as pl
import pytest
from fastapi.testclient import TestClient

from selfheal_assets.definitions import build_definitions
from selfheal_assets.defs.resources import Stores
from selfheal_assets.serving.app import create_app
from selfheal_assets_tests.conftest import Lived

pytestmark = pytest.mark.integration

AN_OLDER_CHUNK = datetime(2020, 4, 1)


@pytest.fixture
def stores(lived: Lived, tmp_path) -> Stores:
    """A copy of the lived installation."""
    return lived.copied(tmp_path / "home")


def published(stores: Stores) -> dict:
    return pl.read_parquet(stores.settings.published / "prediction_stats.parquet").row(0, named=True)


def monitor(stores: Stores, chunk: datetime) -> None:
    definitions = build_definitions(stores.settings, stores)
    with dg.DagsterInstance.ephemeral() as instance, stores.warehouse.kept_open():
        job = definitions.resolve_job_def("monitor_job")
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        assert job.execute_in_process(
            instance=instance, partition_key=f"{chunk:%Y-%m-%d}", run_config=quiet
        ).success


def test_the_predictions_at_a_glance_agree_with_the_log_and_the_ledger(stores):
    told = published(stores)
    newest = stores.warehouse.query("select max(chunk) as c from health_report")["c"][0]
    assert told["as_of"] == pl.Series([newest]).dt.offset_by("1q")[0]
    answered = stores.warehouse.query("select * from prediction_log where role = 'champion'")
    assert told["total"] == answered.height > 0
    assert told["mean_probability"] == pytest.approx(answered["probability"].mean())
    assert told["predicted_positive"] == pytest.approx(answered["prediction"].mean())
    assert told["last_24h"] == 0, "the replay answers a quarter's cases on its first day"
    cases = stores.warehouse.query(
        "select label from prediction_log join labelled_cases(?) c using (entity_id)", [told["as_of"]]
    )["label"]
    assert told["labelled"] == cases.count()
    assert told["label_coverage"] == pytest.approx(cases.count() / len(cases))
    assert told["labelled_positive"] == pytest.approx(cases.mean())


def test_the_service_tells_them_with_the_open_alarms(stores):
    told = published(stores)
    health = pl.read_parquet(stores.settings.published / "health_report.parquet").tail(1).row(0, named=True)
    with TestClient(create_app(stores.settings)) as client:
        stats = client.get("/monitoring/stats").json()
    assert stats["predictions"] == told | {"as_of": told["as_of"].isoformat()}
    assert stats["open_alarms"] == [name for name in health["failed_checks"].split(", ") if name]


def test_an_older_chunk_monitored_again_does_not_set_the_clock_back(stores):
    before = published(stores)
    monitor(stores, AN_OLDER_CHUNK)
    assert published(stores) == before
