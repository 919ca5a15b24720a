"""Labels over HTTP: durable before they are accepted, and where they stand."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import polars as pl
import pytest
from fastapi.testclient import TestClient

from selfheal_assets.stores import label_ledger, label_status, log_ingestion
from selfheal_assets.stores.segments import segments
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets_tests.serving.conftest import GOOD, Installation
from selfheal_assets_tests.serving.test_app import open_warehouse, refused_fields
from selfheal_assets_tests.serving.test_idempotency import served

pytestmark = pytest.mark.integration


def ingested(warehouse: Warehouse, installation: Installation) -> pl.DataFrame:
    """The ledger after an ingestion as the assets do it."""
    log_ingestion.ingest(warehouse, installation.case, installation.settings.prediction_log)
    done = label_ledger.ingest(warehouse, installation.settings.label_landing)
    label_status.publish(warehouse, done, datetime(2021, 6, 1))
    return warehouse.query("select * from labels order by all")


def test_many_requests_share_few_segments_and_arrive_once(client: TestClient, installation: Installation):
    def told(n: int) -> int:
        return client.post("/labels", json={"entity_id": f"e{n}", "label": n % 2}).status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(told, range(300))) == {202}
    landing = installation.settings.label_landing
    assert len(segments(landing, "open")) + len(segments(landing, "ready")) < 5
    warehouse = open_warehouse(installation)
    for _ in range(2):
        assert sorted(ingested(warehouse, installation)["entity_id"]) == sorted(f"e{n}" for n in range(300))


def test_what_was_accepted_outlives_a_kill(installation: Installation):
    accepted: list[str] = []
    with served(installation) as (process, url):

        def tell(worker: int) -> None:
            with httpx.Client(base_url=url, timeout=10) as client:
                for n in range(10_000):
                    rows = [{"entity_id": f"{worker}-{n}-{i}", "label": 1} for i in range(3)]
                    try:
                        client.post("/labels", json={"labels": rows}).raise_for_status()
                    except httpx.TransportError:
                        return
                    accepted.extend(row["entity_id"] for row in rows)

        threads = [threading.Thread(target=tell, args=(w,)) for w in range(4)]
        for thread in threads:
            thread.start()
        while len(accepted) < 300:
            assert process.poll() is None
        process.kill()
        for thread in threads:
            thread.join()
    known = ingested(open_warehouse(installation), installation)["entity_id"].to_list()
    assert set(accepted) <= set(known)
    assert len(known) == len(set(known)) <= len(accepted) + 12


def test_the_status_follows_a_label_from_landing_to_match(client: TestClient, installation: Installation):
    def status() -> dict[str, Any]:
        return client.get("/labels/status").json()

    nothing = {"rows": 0, "files": 0, "oldest_file_landed_at": None}
    assert status() == {
        "waiting": nothing,
        "ingested": None,
        "coverage": None,
        "rejected": {"rows": 0, "files": 0, "newest": []},
    }
    client.post("/predict/batch", json={"cases": [GOOD | {"entity_id": e} for e in ("a", "b", "c")]})
    later = [
        {"entity_id": "a", "label": 1},
        {"entity_id": "later", "label": 0},
        {"prediction_id": "p", "label": 1},
    ]
    client.post("/labels", json={"labels": later})
    (installation.settings.label_landing / "l.csv").write_text("entity_id,label\nb,1\nc,2\n")
    assert (status()["waiting"]["rows"], status()["waiting"]["files"]) == (3, 1)

    warehouse = open_warehouse(installation)
    ingested(warehouse, installation)
    told = status()
    assert told["waiting"] == nothing
    assert (told["ingested"]["rows"], told["ingested"]["unmatched"]) == (4, 2)
    assert told["ingested"]["published_at"] == "2021-06-01T00:00:00"
    newest = warehouse.query("select max(recorded_at) from labels").item()
    assert datetime.fromisoformat(told["ingested"]["newest_recorded_at"]) == newest
    assert told["coverage"] == {"cases": 3, "labelled_cases": 2, "share": 2 / 3}
    assert (told["rejected"]["rows"], told["rejected"]["files"]) == (1, 0)
    assert told["rejected"]["newest"][0] | {"at": None} == {
        "file": "l.csv",
        "row": 2,
        "reason": "label must be 0 or 1",
        "at": None,
    }

    client.post("/predict", json=GOOD | {"entity_id": "later"})
    client.post("/predict", json=GOOD | {"entity_id": "d", "prediction_id": "p"})
    client.post("/labels", json={"entity_id": "a", "label": 0})
    ingested(warehouse, installation)
    told = status()
    assert (told["ingested"]["rows"], told["ingested"]["unmatched"]) == (5, 0), (
        "matched, and a correction is a row"
    )
    assert told["coverage"] == {"cases": 5, "labelled_cases": 4, "share": 4 / 5}


@pytest.mark.parametrize("field", ["entity_id", "prediction_id", "source"])
def test_a_nul_is_refused(client: TestClient, installation: Installation, field: str):
    answer = client.post("/labels", json={"entity_id": "a", "label": 1, field: "x\x00y"})
    assert refused_fields(answer) == [["body", "single", field]]
    many = client.post("/labels", json={"labels": [{"entity_id": "a", "label": 1, field: "x\x00y"}]})
    assert refused_fields(many) == [["body", "batch", "labels", 0, field]]
    assert not installation.settings.label_landing.exists()


def test_a_landing_folder_that_cannot_be_written_is_503_and_mends_itself(
    client: TestClient, installation: Installation
):
    landing = installation.settings.label_landing
    landing.parent.mkdir(parents=True, exist_ok=True)
    landing.touch()
    answer = client.post("/labels", json={"entity_id": "a", "label": 1})
    assert answer.status_code == 503
    assert f"the labels in {landing} cannot be written" in answer.json()["detail"]
    assert answer.headers["retry-after"] == "1"
    landing.unlink()
    assert client.post("/labels", json={"entity_id": "a", "label": 1}).status_code == 202


def test_a_full_disk_is_503_and_nothing_is_half_written(
    client: TestClient, installation: Installation, monkeypatch: pytest.MonkeyPatch
):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    assert client.post("/labels", json={"entity_id": "a", "label": 1}).status_code == 202
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        assert client.post("/labels", json={"entity_id": "lost", "label": 1}).status_code == 503
    assert client.post("/labels", json={"entity_id": "b", "label": 1}).status_code == 202
    known = ingested(open_warehouse(installation), installation)
    assert sorted(known["entity_id"]) == ["a", "b"]
