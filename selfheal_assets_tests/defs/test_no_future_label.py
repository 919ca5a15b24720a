"""Monitoring of a chunk that was lived through, done again after a label of its future was planted."""

from datetime import datetime, timedelta

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from selfheal_assets.definitions import build_definitions
from selfheal_assets.defs.resources import Stores
from selfheal_assets.stores import label_ledger
from selfheal_assets_tests.conftest import Lived

pytestmark = pytest.mark.integration

CHUNK, CHUNK_END = datetime(2020, 4, 1), datetime(2020, 7, 1)
EVIDENCE = ["partial_label_evidence", "realized_performance", "findings", "health_report"]
MARTS = [
    "fct_labelled_predictions",
    "fct_cohort_maturity",
    "fct_label_coverage",
    "fct_score_bands",
    "fct_ranking",
    "fct_vintage_curves",
]


@pytest.fixture
def stores(lived: Lived, tmp_path) -> Stores:
    """A copy of the lived installation."""
    return lived.copied(tmp_path / "home")


def monitor(stores: Stores) -> dict[str, pl.DataFrame]:
    """Monitor the chunk; returns what was found about it."""
    definitions = build_definitions(stores.settings, stores)
    with dg.DagsterInstance.ephemeral() as instance, stores.warehouse.kept_open():
        job = definitions.resolve_job_def("monitor_job")
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        assert job.execute_in_process(
            instance=instance, partition_key=f"{CHUNK:%Y-%m-%d}", run_config=quiet
        ).success
    found = {name: stores.load_chunk(name, CHUNK).sort(pl.all()) for name in EVIDENCE}
    return found | {name: stores.warehouse.query(f"select * from {name}").sort(pl.all()) for name in MARTS}


def plant(stores: Stores, recorded_at: datetime) -> None:
    """Say of every case answered so far that it was bad from its first day on, as learned at ``recorded_at``."""
    labels = stores.warehouse.query(
        "select entity_id, '1' as label, event_time::varchar as occurred_at, ?::varchar as recorded_at "
        "from prediction_log where event_time < ?",
        [recorded_at.isoformat(sep=" "), CHUNK_END - timedelta(days=1)],
    )
    valid, rejected = label_ledger.conform(labels, "planted", recorded_at)
    assert rejected.is_empty()
    assert label_ledger.append(stores.warehouse, valid) == labels.height > 500


def test_monitoring_knows_no_label_recorded_later(stores):
    before = monitor(stores)
    assert before["partial_label_evidence"]["observed"].sum() > 0
    assert before["realized_performance"].height > 0
    plant(stores, CHUNK_END)
    after = monitor(stores)
    for name, frame in before.items():
        assert_frame_equal(after[name], frame)  # sums may differ in their last digit


@pytest.mark.long
def test_the_same_label_is_used_when_it_was_known(stores):
    before = monitor(stores)
    plant(stores, CHUNK_END - timedelta(seconds=1))
    after = monitor(stores)
    for name in (
        "partial_label_evidence",
        "realized_performance",
        "fct_cohort_maturity",
        "fct_vintage_curves",
    ):
        with pytest.raises(AssertionError):
            assert_frame_equal(after[name], before[name])
