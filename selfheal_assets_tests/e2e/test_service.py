"""``selfheal serve`` as the README shows it: its curl lines, and a promotion while requests come in."""

import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import pytest

from selfheal_assets.stores import decision_ledger
from selfheal_assets_tests.e2e.conftest import (
    MATERIALIZE,
    README,
    RETRAIN,
    STARTS_WITHIN_S,
    Installation,
    Program,
    answers,
    free_port,
    shell,
    started,
    wait_until,
)

pytestmark = pytest.mark.e2e

DEFAULT_URL, SWAPS_WITHIN_S, PAUSE_S = "http://127.0.0.1:8000", 5, 0.02


@dataclass
class Server:
    """A running ``selfheal serve``."""

    program: Program
    url: str


@dataclass
class Answer:
    """What came back, and when its request was sent."""

    sent: float
    status: int | str
    body: dict[str, Any]


@dataclass
class Traffic:
    """One client that asks about every 20 ms."""

    url: str
    body: dict[str, Any]
    answers: list[Answer] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=10) as client:
            while not self.stopped.wait(PAUSE_S):
                sent = time.monotonic()
                try:
                    answer = client.post("/predict", json=self.body)
                    self.answers.append(Answer(sent, answer.status_code, answer.json()))
                except httpx.HTTPError as error:
                    self.answers.append(Answer(sent, repr(error), {}))

    def version(self) -> int | None:
        """What the newest answer came from."""
        return self.answers[-1].body.get("model_version") if self.answers else None


def curl_lines() -> list[str]:
    """The README's requests, in its order."""
    section = README.read_text().split("## The prediction service")[1].split("\n## ")[0]
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL))
    return [c.strip() for c in re.split(r"\n(?=\S)", blocks) if c.startswith("curl ")]


def api_lines() -> list[str]:
    """The requests of the API page's sections that need nothing but a champion."""
    page = (README.parent / "docs" / "api.md").read_text()
    sections = [
        page.split(f"\n## {name}\n")[1].split("\n## ")[0] for name in ("Predict", "Idempotency", "Labels")
    ]
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", "\n".join(sections), re.DOTALL))
    return [c.strip() for c in re.split(r"\n(?=curl )", blocks)]


def given(line: str) -> tuple[str, dict[str, str], str | None]:
    """Address, headers and body of a curl line."""
    address, *options = shlex.split(line.replace("\\\n", " "))[2:]
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    assert set(pairs) <= {"-H", "-d"}, f"the README uses more of curl than this test knows: {line}"
    name, _, value = pairs.get("-H", "accept: */*").partition(": ")
    return address, {name: value}, pairs.get("-d")


def ask(line: str, url: str) -> tuple[int, dict[str, Any]]:
    """Send a README line's request to our port: by curl as it stands there, or by httpx without curl."""
    line = line.replace(DEFAULT_URL, url)
    if shutil.which("curl") is None:
        address, headers, content = given(line)
        answer = httpx.request("POST" if content else "GET", address, headers=headers, content=content)
        return answer.status_code, answer.json()
    done = subprocess.run(
        ["sh", "-c", f"{line} -w '\\n%{{http_code}}'"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    body, _, status = done.stdout.rpartition("\n")
    return int(status), orjson.loads(body)


@pytest.fixture(scope="module")
def server(without_dagster_home: Installation) -> Iterator[Server]:
    port = free_port()
    log = without_dagster_home.folder / "serve.log"
    with started(f"selfheal serve --port {port}", log, **without_dagster_home.values) as program:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/health"), STARTS_WITHIN_S, program)
        yield Server(program, url)


@pytest.fixture(scope="module")
def asked(server: Server) -> dict[str, tuple[int, dict[str, Any]]]:
    """Path of each README line to its answer."""
    return {httpx.URL(given(line)[0]).path: ask(line, server.url) for line in curl_lines()}


@pytest.fixture(scope="module")
def promoted(without_dagster_home: Installation, server: Server, asked: dict) -> int:
    """Version of a better model that a retraining in mid-2003 found; the alias has not followed yet."""
    before_the_move = RETRAIN.replace(",production_model", "")
    values = without_dagster_home.values | {"SELFHEAL_AS_OF": "2003-07-01"}
    shell(before_the_move, without_dagster_home.folder / "retrain.log", **values)
    last = decision_ledger.latest(without_dagster_home.stores.warehouse)
    assert last is not None and last["action"] == "PROMOTE", last
    return last["challenger"]


def test_every_line_is_answered(asked: dict):
    expected = {"/health": 200, "/predict": 200, "/labels": 202, "/model/info": 200, "/monitoring/stats": 200}
    assert {path: status for path, (status, _) in asked.items()} == expected, asked
    assert asked["/health"][1]["status"] == "ok"
    assert asked["/labels"][1] == {"accepted": 1}


def test_the_prediction_is_what_the_readme_says(asked: dict):
    answer = asked["/predict"][1]
    assert {"probability", "prediction", "threshold", "model_version", "prediction_id"} <= set(answer)
    assert 0 < answer["probability"] < 1
    assert answer["prediction"] == (answer["probability"] >= answer["threshold"])
    assert answer["warnings"] == []


def test_the_answers_are_the_champions(asked: dict, without_dagster_home: Installation):
    versions = [asked[path][1]["model_version"] for path in ("/health", "/predict", "/model/info")]
    assert versions == [without_dagster_home.champion] * 3
    newest = asked["/monitoring/stats"][1]["decisions"][0]
    assert (newest["action"], newest["challenger"]) == ("PROMOTE", without_dagster_home.champion)
    assert asked["/monitoring/stats"][1]["service"]["counts"]["predictions"] == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="its lines use more of curl than this test knows")
def test_every_line_of_the_api_page_is_answered(server: Server, asked: dict):
    lines = api_lines()
    answers = [ask(line, server.url) for line in lines]
    assert [status for status, _ in answers] == [202 if "/labels " in line else 200 for line in lines], (
        answers
    )
    skipped = next(body for _, body in answers if "rejected" in body and "indices" in body)
    assert (skipped["count"], skipped["indices"], skipped["rejected_count"]) == (1, [0], 1)


@pytest.mark.long
def test_a_promotion_is_served_within_seconds_without_a_failed_request(
    promoted: int, server: Server, without_dagster_home: Installation
):
    old, registry = without_dagster_home.champion, without_dagster_home.stores.registry
    [line] = [line for line in curl_lines() if "/predict" in line]
    traffic = Traffic(server.url, orjson.loads(given(line)[2] or ""))
    client = threading.Thread(target=traffic.run)
    client.start()
    try:
        wait_until(lambda: len(traffic.answers) > 20, 20, server.program)
        log = without_dagster_home.folder / "production_model.log"
        with started(f"{MATERIALIZE} production_model", log, **without_dagster_home.values) as program:
            while registry.champion() == old and program.process.poll() is None:
                time.sleep(0.05)
            moved = time.monotonic()
            assert registry.champion() == promoted, program.printed()
            wait_until(lambda: traffic.version() == promoted, SWAPS_WITHIN_S, server.program)
            assert program.process.wait(timeout=60) == 0, program.printed()
            assert "RUN_SUCCESS" in log.read_text()
        time.sleep(0.5)
    finally:
        traffic.stopped.set()
        client.join()

    assert {a.status for a in traffic.answers} == {200}, [a for a in traffic.answers if a.status != 200][:5]
    served = [a.body["model_version"] for a in traffic.answers]
    first = served.index(promoted)
    assert (set(served[:first]), set(served[first:])) == ({old}, {promoted}), "one swap, and no way back"
    assert traffic.answers[first].sent - moved < SWAPS_WITHIN_S
    assert registry.champion() == promoted
