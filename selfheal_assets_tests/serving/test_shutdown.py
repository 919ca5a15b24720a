"""``selfheal serve`` told to stop while it is asked: what was answered is in the log, and its segment is sealed."""

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from selfheal_assets.stores.log_ingestion import read_segment
from selfheal_assets.stores.segments import segments
from selfheal_assets_tests.conftest import COMMAND, environment
from selfheal_assets_tests.serving.conftest import GOOD, Installation

pytestmark = pytest.mark.integration

CLIENTS, STARTS_WITHIN_S, STOPS_WITHIN_S = 8, 60, 15


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Traffic:
    """Clients that ask one request after another until nobody answers."""

    url: str
    answered: list[str] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)

    def ask(self, client: int) -> None:
        with httpx.Client(base_url=self.url, timeout=10) as session:
            while True:
                try:
                    answer = session.post("/predict", json=GOOD | {"entity_id": f"c{client}"})
                except httpx.TransportError:
                    return
                self.statuses.add(answer.status_code)
                if answer.status_code == 200:
                    self.answered.append(answer.json()["prediction_id"])


@contextmanager
def served(
    installation: Installation, log: Path, **values: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    settings, port = installation.settings, free_port()
    values = {
        "SELFHEAL_HOME": str(settings.home),
        "SELFHEAL_USE_CASE": settings.use_case,
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        **values,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--port", str(port)], env=environment(**values), stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not is_ready(url):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield process, url
    finally:
        process.kill()
        process.wait()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_sigterm_under_load_loses_no_answer_and_seals_the_segment(installation: Installation, tmp_path: Path):
    log = tmp_path / "serve.log"
    with served(installation, log) as (process, url):
        traffic = Traffic(url)
        threads = [threading.Thread(target=traffic.ask, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while len(traffic.answered) < 200:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(timeout=STOPS_WITHIN_S)
        assert process.wait(timeout=STOPS_WITHIN_S) in (0, -signal.SIGTERM)

    folder = installation.settings.prediction_log
    assert segments(folder, "open") == []
    read = [read_segment(path, installation.case) for path in segments(folder, "ready")]
    kept = [i for frame, _ in read for i in frame["prediction_id"].to_list()]
    assert sum(torn for _, torn in read) == 0
    assert traffic.statuses == {200}
    assert len(traffic.answered) == len(set(traffic.answered)) >= 200
    assert set(traffic.answered) <= set(kept)
    assert len(kept) == len(set(kept))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) < 30, "no line for each answer"
    assert {"uvicorn.error", "selfheal_assets.serving.app"} <= {line["logger"] for line in lines}


def test_its_log_is_text_where_asked_and_its_answers_do_not_say_what_serves(
    installation: Installation, tmp_path: Path
):
    log = tmp_path / "serve.log"
    with served(installation, log, SELFHEAL_LOG_FORMAT="text", SELFHEAL_ACCESS_LOG="all") as (_, url):
        answer = httpx.get(f"{url}/model/info", headers={"x-request-id": "told"})
        deadline = time.monotonic() + 10  # the line is written after the answer has left
        while "[told]" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "server" not in answer.headers
    [line] = [line for line in log.read_text().splitlines() if "[told]" in line]
    assert "INFO selfheal.access [told] GET /model/info 200" in line
