"""Dagster's event log: what is kept of an event, and when."""

import time

import dagster as dg
import pytest
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

from selfheal_assets.defs.event_log import EventLog

RUN, ASSET = "a-run", dg.AssetKey("an_asset")


def planned() -> dg.EventLogEntry:
    event = DagsterEvent(
        event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value,
        job_name="a_job",
        event_specific_data=AssetMaterializationPlannedData(ASSET),
    )
    return dg.EventLogEntry(None, 10, "said", RUN, time.time(), dagster_event=event)


@pytest.fixture
def log(tmp_path) -> EventLog:
    return EventLog(str(tmp_path))


def test_an_event_is_kept_with_its_asset_and_read_by_others(log, tmp_path):
    log.store_event(planned())
    log.store_event(planned())
    other = EventLog(str(tmp_path))
    assert len(other.get_logs_for_run(RUN)) == 2
    assert other.all_asset_keys() == [ASSET]


def test_an_event_whose_asset_cannot_be_kept_is_not_kept_by_half(log, monkeypatch):
    def broken(*_: object) -> None:
        raise OSError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "_store_asset_event", broken)
        with pytest.raises(OSError, match="no more"):
            log.store_event(planned())
    assert log.get_logs_for_run(RUN) == []
    log.store_event(planned())
    assert len(log.get_logs_for_run(RUN)) == 1


def test_what_is_missing_is_asked_for_again(log):
    assert log.has_table("event_logs") and not log.has_table("later")
    with log.index_connection() as connection:
        connection.exec_driver_sql("create table later (a integer)")
    assert log.has_table("later")
