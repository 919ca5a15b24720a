"""The log's disk fills up for real: no half row, 503, and back to work by itself."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from selfheal_assets.serving.app import create_app
from selfheal_assets.stores import log_ingestion
from selfheal_assets.stores.tables import create_tables
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets_tests.serving.conftest import GOOD, Installation

pytestmark = pytest.mark.integration

DISK_BYTES = 256 * 1024


@pytest.fixture
def small_disk(installation: Installation) -> Iterator[Path]:
    """The log's folder as a file system of its own, of 256 kB."""
    folder = installation.settings.prediction_log
    folder.mkdir(parents=True)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mount.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take every byte that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    return filler


def test_a_full_disk_refuses_then_recovers(installation: Installation, small_disk: Path):
    answered: list[str] = []
    with TestClient(create_app(installation.settings)) as client:

        def ask(body: dict[str, Any]) -> Any:
            return client.post("/predict/batch" if "cases" in body else "/predict", json=body)

        def take(answer: Any) -> None:
            given = answer.json()
            answered.extend(p["prediction_id"] for p in given.get("predictions", [given]))

        take(ask(GOOD))
        filler = fill(small_disk)
        refusals = 0
        for _ in range(200):  # the last page of the segment takes a few single rows yet
            answer = ask(GOOD)
            if answer.status_code == 200:
                take(answer)
            else:
                refusals += 1
        refused = ask({"cases": [GOOD] * 50})
        assert refused.status_code == 503
        assert "No space left on device" in refused.json()["detail"]
        assert refused.headers["retry-after"]
        assert refusals > 0
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "unavailable")
        assert "No space left on device" in health.json()["detail"]
        ready = client.get("/health/ready")
        assert ready.status_code == 503
        assert "cannot be written (No space left on device)" in ready.json()["reasons"][0]
        assert client.get("/health/live").status_code == 200
        heads = {path: client.head(path) for path in ("/health", "/health/ready", "/health/live")}
        assert {path: (h.status_code, h.content) for path, h in heads.items()} == {
            "/health": (503, b""),
            "/health/ready": (503, b""),
            "/health/live": (200, b""),
        }

        filler.unlink()
        deadline = time.monotonic() + 10
        while client.get("/health").status_code != 200:  # nobody asks for an answer meanwhile
            assert time.monotonic() < deadline, client.get("/health").text
            time.sleep(0.1)
        again = ask({"cases": [GOOD] * 50})
        assert again.status_code == 200
        take(again)

    warehouse = Warehouse(installation.settings.warehouse_path, installation.settings.published)
    create_tables(warehouse, installation.case)
    done = log_ingestion.ingest(warehouse, installation.case, small_disk)
    rows = warehouse.query("select prediction_id from prediction_log")
    assert done.torn_bytes == 0
    assert sorted(rows["prediction_id"]) == sorted(answered)
    assert rows["prediction_id"].n_unique() == len(answered)


def test_an_unwritable_folder_is_told_before_anybody_asks(installation: Installation, tmp_path: Path):
    """Root may write anywhere, so the folder's place is taken by a file."""
    installation.settings.root.mkdir(parents=True)
    installation.settings.prediction_log.write_text("not a folder")
    with TestClient(create_app(installation.settings)) as client:
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "unavailable")
        assert client.post("/predict", json=GOOD).status_code == 503
        installation.settings.prediction_log.unlink()
        deadline = time.monotonic() + 10
        while client.get("/health").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert client.post("/predict", json=GOOD).status_code == 200
