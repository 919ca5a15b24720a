"""A real server under load: the champion moves, the server stops or is killed; no answer is lost."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import polars as pl
import pytest

from selfheal_assets.settings import Settings
from selfheal_assets.stores import log_ingestion
from selfheal_assets.stores.tables import create_tables
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets_tests.serving.conftest import GOOD, Installation

pytestmark = pytest.mark.integration

CLIENTS = 4
STARTS_WITHIN_S, SWAPS_WITHIN_S = 60, 5


@dataclass
class Server:
    """A ``selfheal serve`` of its own process."""

    process: subprocess.Popen[bytes]
    url: str


@dataclass
class Load:
    """What the clients sent and got."""

    answers: list[dict] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self, url: str) -> None:
        """Send one case after another until told to stop."""
        with httpx.Client(base_url=url, timeout=10) as client:
            while not self.stopped.is_set():
                try:
                    answer = client.post("/predict", json=GOOD)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                if answer.status_code == 200:
                    self.answers.append(answer.json())
                else:
                    self.failures.append(answer.text)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(installation: Installation, tmp_path: Path) -> Iterator[Server]:
    with serving(installation.settings, tmp_path) as running:
        yield running


@contextmanager
def serving(settings: Settings, folder: Path, workers: int = 1, **more: str) -> Iterator[Server]:
    """A service that is ready; it is killed at the end. ``more`` is for its environment, ``folder`` for its log."""
    port, log = free_port(), folder / "server.log"
    environment = os.environ | {
        "SELFHEAL_USE_CASE": settings.use_case,
        "SELFHEAL_HOME": str(settings.home),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "LOG_LEVEL": "WARNING",
        **more,
    }
    program = (
        "from selfheal_assets.serving.run import serve; from selfheal_assets.settings import Settings; "
        f"serve(Settings(), port={port}, workers={workers})"
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", program], env=environment, stdout=output, stderr=output
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: is_healthy(process, url, log), STARTS_WITHIN_S)
            yield Server(process, url)
        finally:
            process.kill()
            process.wait()


def is_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def wait_until(holds, seconds: float) -> float:
    """Seconds until ``holds()``; fails after ``seconds``."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, f"not within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - started


def start_load(server: Server) -> tuple[Load, list[threading.Thread]]:
    load = Load()
    clients = [threading.Thread(target=load.run, args=(server.url,)) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    wait_until(lambda: len(load.answers) > 20 or load.failures, 20)
    return load, clients


def stop_load(load: Load, clients: list[threading.Thread]) -> None:
    load.stopped.set()
    for client in clients:
        client.join()


def ingested_ids(installation: Installation) -> set[str]:
    settings = installation.settings
    warehouse = Warehouse(settings.warehouse_path, settings.published)
    create_tables(warehouse, installation.case)
    log_ingestion.ingest(warehouse, installation.case, settings.prediction_log)
    assert log_ingestion.ingest(warehouse, installation.case, settings.prediction_log).rows_added == 0
    return set(warehouse.query("select prediction_id from prediction_log")["prediction_id"])


def test_a_moved_champion_is_served_without_a_failed_request(server: Server, installation: Installation):
    old, new = installation.versions
    load, clients = start_load(server)
    installation.registry.move_champion(new)
    wait_until(lambda: load.answers[-1]["model_version"] == new, SWAPS_WITHIN_S)
    time.sleep(0.3)
    stop_load(load, clients)

    assert load.failures == []
    expected = {
        version: float(bundle.score(pl.DataFrame([GOOD]))[0])
        for version, bundle in zip(installation.versions, installation.bundles, strict=True)
    }
    assert {(a["model_version"], a["probability"]) for a in load.answers} == set(expected.items())
    assert {a["model_version"] for a in load.answers[-CLIENTS:]} == {new}
    assert old in {a["model_version"] for a in load.answers}

    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=20) in (0, -signal.SIGTERM)
    folder = installation.settings.prediction_log
    assert list((folder / "open").glob("*")) == [], "a stopped server seals its log"
    assert ingested_ids(installation) == {a["prediction_id"] for a in load.answers}


def test_a_killed_server_has_logged_what_it_answered(server: Server, installation: Installation):
    load, clients = start_load(server)
    server.process.send_signal(signal.SIGKILL)
    stop_load(load, clients)

    logged, acknowledged = ingested_ids(installation), {a["prediction_id"] for a in load.answers}
    assert acknowledged <= logged
    assert len(logged) <= len(acknowledged) + CLIENTS, "at most the requests under way were logged unanswered"


def children(pid: int) -> set[int]:
    """Worker processes that live: those of a process's children that spawn started."""
    found = set()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(int(child))
    return found


@pytest.mark.long
def test_a_killed_worker_loses_nothing_and_is_replaced(installation: Installation, tmp_path: Path):
    with serving(installation.settings, tmp_path, workers=2) as server:
        wait_until(lambda: len(children(server.process.pid)) == 2, STARTS_WITHIN_S)
        load, clients = start_load(server)
        killed = children(server.process.pid).pop()
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(children(server.process.pid) - {killed}) == 2, STARTS_WITHIN_S)
        before = len(load.answers)
        wait_until(lambda: len(load.answers) > before + 20, 20)
        stop_load(load, clients)

        workers = children(server.process.pid)
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 20)
    acknowledged = {a["prediction_id"] for a in load.answers}
    assert acknowledged <= ingested_ids(installation)
