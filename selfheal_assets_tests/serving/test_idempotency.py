"""Keys of clients: the first answer again, byte for byte, and one row of it, whatever happened in between."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from selfheal_assets.serving.app import create_app
from selfheal_assets.settings import Settings
from selfheal_assets.stores import log_ingestion
from selfheal_assets_tests.serving.conftest import GOOD, Installation
from selfheal_assets_tests.serving.test_app import open_warehouse, refused_fields
from selfheal_assets_tests.toy import PROJECT

pytestmark = pytest.mark.integration

OWN = GOOD | {"prediction_id": "order-7"}


def ask(client: Any, body: dict[str, Any], key: str | None = None, path: str = "/predict") -> httpx.Response:
    return client.post(path, json=body, headers={"Idempotency-Key": key} if key else {})


def conflicts(answer: httpx.Response) -> list[list[Any]]:
    assert answer.status_code == 409, answer.text
    return [problem["loc"] for problem in answer.json()["detail"]]


def logged(installation: Installation) -> dict[str, dict[str, Any]]:
    """Everything in the log, ingested twice, by prediction id."""
    warehouse = open_warehouse(installation)
    for _ in range(2):
        log_ingestion.ingest(warehouse, installation.case, installation.settings.prediction_log)
    rows = warehouse.query("select * from prediction_log").to_dicts()
    return {row["prediction_id"]: row for row in rows}


def written_ids(installation: Installation) -> list[str]:
    """Every id in the log's segments, as often as it is there."""
    folder = installation.settings.prediction_log
    found = []
    for path in [*folder.glob("open/[!.]*"), *folder.glob("ready/[!.]*")]:
        found += log_ingestion.read_segment(path, installation.case)[0]["prediction_id"].to_list()
    return found


# --- A key for the request --------------------------------------------------------------------


def test_the_same_key_gives_the_first_answer_again_and_logs_one_row(
    client: TestClient, installation: Installation
):
    first, again, other = (ask(client, GOOD, key) for key in ("k", "k", "other"))
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (None, "true")
    assert other.json()["prediction_id"] != first.json()["prediction_id"]
    rows = logged(installation)
    assert set(rows) == {first.json()["prediction_id"], other.json()["prediction_id"]}
    assert rows[first.json()["prediction_id"]]["probability"] == first.json()["probability"]


def test_a_keyed_answer_says_what_a_plain_one_says(client: TestClient):
    plain, keyed = (
        ask(client, GOOD | {"entity_id": "a"}).json(),
        ask(client, GOOD | {"entity_id": "a"}, "k").json(),
    )
    assert plain | {"prediction_id": ""} == keyed | {"prediction_id": ""}


def test_a_batch_has_one_key(client: TestClient, installation: Installation):
    body = {"cases": [GOOD, GOOD | {"age": 30}]}
    first, again = (ask(client, body, "k", "/predict/batch") for _ in range(2))
    assert first.content == again.content
    assert sorted(logged(installation)) == sorted(p["prediction_id"] for p in first.json()["predictions"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", GOOD | {"age": 42}),
        ("/predict/batch", {"cases": [GOOD]}),
        ("/predict/batch?on_error=skip", {"cases": [GOOD]}),
    ],
)
def test_a_key_that_comes_with_something_else_is_refused(client: TestClient, installation, path, body):
    first = ask(client, GOOD, "k")
    other = ask(client, body, "k", path)
    assert conflicts(other) == [["header", "Idempotency-Key"]]
    assert "was used before, with another path, query or body" in other.json()["detail"][0]["msg"]
    assert ask(client, GOOD, "k").content == first.content
    assert len(logged(installation)) == 1


@pytest.mark.parametrize("key", ["x" * 201, "with space", "t\tab"])
def test_a_key_is_short_and_visible(client: TestClient, key: str):
    assert refused_fields(ask(client, GOOD, key)) == [["header", "Idempotency-Key"]]


def test_a_refusal_uses_no_key_up(client: TestClient):
    assert ask(client, {}, "k").status_code == 422
    assert ask(client, GOOD, "k").status_code == 200


def test_the_same_key_at_once_is_answered_once(client: TestClient, installation: Installation):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: ask(client, GOOD, f"k{n % 4}"), range(64)))
    assert {a.status_code for a in answers} == {200}
    assert len({a.content for a in answers}) == 4
    assert len(written_ids(installation)) == len(logged(installation)) == 4


# --- An id for the case -----------------------------------------------------------------------


def test_a_clients_own_id_is_the_logs_key(client: TestClient, installation: Installation):
    first, again = ask(client, OWN), ask(client, OWN)
    assert first.json()["prediction_id"] == "order-7"
    assert first.content == again.content
    rows = logged(installation)
    assert list(rows) == ["order-7"]
    assert rows["order-7"]["entity_id"] == first.json()["entity_id"]


def test_written_otherwise_it_is_the_same_case(client: TestClient):
    first = ask(client, OWN | {"visits": None, "event_time": "2021-01-01T02:00:00+02:00"})
    case = {k: v for k, v in OWN.items() if k != "visits"} | {"event_time": "2021-01-01"}
    assert ask(client, dict(reversed(case.items()))).content == first.content


def test_in_a_batch_what_was_answered_is_told_again_and_the_rest_is_new(
    client: TestClient, installation: Installation
):
    single = ask(client, OWN)
    cases = [GOOD, OWN, GOOD | {"prediction_id": "order-8", "age": 20}]
    first = ask(client, {"cases": cases}, path="/predict/batch").json()
    again = ask(client, {"cases": list(reversed(cases))}, path="/predict/batch").json()
    assert [p["prediction_id"] for p in first["predictions"]][1:] == ["order-7", "order-8"]
    assert first["predictions"][1] == single.json()
    assert again["predictions"][:2] == first["predictions"][:0:-1]
    assert len(written_ids(installation)) == len(logged(installation)) == 4


def test_a_used_id_with_another_case_is_refused_and_nothing_of_its_batch_is_logged(
    client: TestClient, installation: Installation
):
    ask(client, OWN)
    changed = OWN | {"age": 42}
    assert conflicts(ask(client, changed)) == [["body", "prediction_id"]]
    batch = ask(client, {"cases": [GOOD, changed]}, path="/predict/batch")
    assert conflicts(batch) == [["body", "cases", 1, "prediction_id"]]
    assert list(logged(installation)) == ["order-7"]


def test_an_id_twice_in_a_batch_is_refused(client: TestClient):
    answer = ask(client, {"cases": [OWN, GOOD, OWN]}, path="/predict/batch")
    assert refused_fields(answer) == [["body", "cases", 2, "prediction_id"]]


@pytest.mark.parametrize("own", ["", "x" * 201, "a\x00b", 7, f"{'0a' * 16}-12"])
def test_an_id_that_cannot_be_one_is_refused(client: TestClient, own: Any):
    assert refused_fields(ask(client, GOOD | {"prediction_id": own})) == [["body", "prediction_id"]]


def test_key_and_id_together(client: TestClient, installation: Installation):
    first = ask(client, OWN, "k")
    assert ask(client, OWN, "k").content == ask(client, OWN).content == ask(client, OWN, "l").content
    assert ask(client, OWN, "l").content == first.content
    assert list(logged(installation)) == ["order-7"]


# --- Later, elsewhere, and after a crash ------------------------------------------------------


def test_keys_outlive_a_restart_and_a_promotion(installation: Installation):
    with TestClient(create_app(installation.settings)) as client:
        first = ask(client, GOOD, "k"), ask(client, OWN)
    installation.registry.move_champion(installation.versions[1])
    with TestClient(create_app(installation.settings)) as client:
        assert ask(client, GOOD).json()["model_version"] == installation.versions[1]
        assert (ask(client, GOOD, "k").content, ask(client, OWN).content) == tuple(a.content for a in first)


def test_a_key_is_forgotten_after_its_time(installation: Installation, monkeypatch: pytest.MonkeyPatch):
    settings = installation.settings.model_copy(update={"idempotency_hours": 2.0})
    with TestClient(create_app(settings)) as client:
        first = ask(client, GOOD, "k")
        started = Settings.wall_clock()
        for hours, same in ((1.9, True), (2.1, False)):
            moment = started + timedelta(hours=hours)
            monkeypatch.setattr(Settings, "wall_clock", staticmethod(lambda moment=moment: moment))
            with TestClient(create_app(settings)) as later:
                assert (ask(later, GOOD, "k").content == first.content) is same
    size = len(logged(installation))
    assert size == 2


def test_without_a_champion_a_first_answer_is_still_given_again(installation: Installation):
    with TestClient(create_app(installation.settings)) as client:
        first = ask(client, GOOD, "k")
    from selfheal_assets.serving.champion import NoChampion, ServedChampion

    def nothing(self: ServedChampion) -> None:
        raise NoChampion("none")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ServedChampion, "model", property(nothing))
        with TestClient(create_app(installation.settings)) as client:
            assert ask(client, GOOD, "new").status_code == 503
            assert ask(client, GOOD, "k").content == first.content


SERVER = """
import os, signal, sys
from selfheal_assets.settings import Settings, prepare_environment
prepare_environment()
from selfheal_assets.serving.run import serve
from selfheal_assets.stores.answers import HeldAnswers
from selfheal_assets.stores.prediction_log import PredictionLog

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

moment, append, keep = sys.argv[2], PredictionLog.append_line, HeldAnswers.keep_promises
if moment == "before the promise":
    HeldAnswers.promise = die
elif moment == "promised":
    PredictionLog.append_line = die
elif moment == "logged":
    PredictionLog.append_line = lambda *args: (append(*args), die())
elif moment == "kept":
    HeldAnswers.keep_promises = lambda *args: (keep(*args), die())
serve(Settings(), port=int(sys.argv[1]))
"""


@contextmanager
def served(installation: Installation, moment: str = "never") -> Iterator[tuple[subprocess.Popen, str]]:
    """A server process of its own on the installation, which kills itself at that moment."""
    from selfheal_assets_tests.e2e.conftest import answers, free_port, wait_until

    settings, port = installation.settings, free_port()
    values = {
        "SELFHEAL_USE_CASE": settings.use_case,
        "SELFHEAL_HOME": str(settings.home),
        "SELFHEAL_PROJECT": str(settings.project),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "PYTHONPATH": str(PROJECT),
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SELFHEAL_")}
    log = Path(str(settings.home) + f"-{port}.log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(port), moment], env=kept | values, stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/health"), 60, Told(process, log))
        yield process, url
    finally:
        process.kill()
        process.wait()


class Told:
    """What ``wait_until`` asks of a program."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self.process, self._log = process, log

    def printed(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


@pytest.mark.parametrize(
    "moment",
    [
        *(pytest.param(m, marks=pytest.mark.long) for m in ("before the promise", "promised", "kept")),
        "logged",
    ],
)
def test_after_a_crash_at_any_moment_the_next_attempt_agrees_with_the_log(
    installation: Installation, moment: str
):
    """The first attempt's process kills itself; meanwhile another model becomes champion."""
    batch = {"cases": [GOOD, GOOD | {"prediction_id": "own", "age": 20}]}
    with served(installation, moment) as (process, url):
        with httpx.Client(base_url=url, timeout=20) as client, pytest.raises(httpx.TransportError):
            ask(client, batch, "k", "/predict/batch")
        assert process.wait(timeout=10) == -signal.SIGKILL
    left = len(written_ids(installation))
    assert left == (0 if moment in ("before the promise", "promised") else 2)

    installation.registry.move_champion(installation.versions[1])
    with TestClient(create_app(installation.settings)) as client:
        first = ask(client, batch, "k", "/predict/batch")
        assert first.status_code == 200
        assert ask(client, batch, "k", "/predict/batch").content == first.content
        assert ask(client, batch["cases"][1]).json() == first.json()["predictions"][1]
    begun = moment != "before the promise"
    version = installation.versions[0 if begun else 1]
    rows = logged(installation)
    assert sorted(rows) == sorted(p["prediction_id"] for p in first.json()["predictions"])
    for answer in first.json()["predictions"]:
        row = rows[answer["prediction_id"]]
        assert answer["model_version"] == row["model_version"] == version
        assert (answer["probability"], answer["entity_id"]) == (row["probability"], row["entity_id"])


@pytest.mark.long
def test_two_workers_answer_a_key_once(installation: Installation):
    with served(installation) as (_, one), served(installation) as (_, two), ThreadPoolExecutor(8) as pool:
        barrier = threading.Barrier(8)

        def keyed(n: int) -> list[bytes]:
            with httpx.Client(base_url=(one, two)[n % 2], timeout=30) as client:
                barrier.wait()
                return [ask(client, GOOD, f"k{i}").content for i in range(10)]

        answers = list(pool.map(keyed, range(8)))
    assert all(a == answers[0] for a in answers)
    ids = sorted(json.loads(body)["prediction_id"] for body in answers[0])
    assert sorted(written_ids(installation)) == ids
    assert sorted(logged(installation)) == ids


@pytest.mark.parametrize("name", ["answers.sqlite", "answers.lock"])
def test_a_store_that_cannot_be_opened_is_503_and_mends_itself(
    client: TestClient, installation: Installation, name: str
):
    (installation.settings.prediction_log / name).mkdir(parents=True, exist_ok=True)
    answer = ask(client, GOOD, "k")
    assert answer.status_code == 503, answer.text
    assert str(installation.settings.prediction_log) in answer.json()["detail"]
    assert ask(client, GOOD).status_code == 200, "requests without a key do not need it"
    (installation.settings.prediction_log / name).rmdir()
    assert ask(client, GOOD, "k").status_code == 200


def test_a_damaged_store_says_what_to_do(client: TestClient, installation: Installation):
    folder = installation.settings.prediction_log
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answers.sqlite").write_bytes(b"no database at all" * 100)
    answer = ask(client, GOOD, "k")
    assert answer.status_code == 503
    assert "move a damaged file away" in answer.json()["detail"]
    (folder / "answers.sqlite").unlink()
    assert ask(client, GOOD, "k").status_code == 200


def test_a_log_that_cannot_be_written_is_503_and_the_next_attempt_is_answered(
    client: TestClient, installation: Installation, monkeypatch: pytest.MonkeyPatch
):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fdatasync", full)
        assert [ask(client, GOOD, "k").status_code for _ in range(2)] == [503, 503]
    first = ask(client, GOOD, "k")
    assert ask(client, GOOD, "k").content == first.content
    assert list(logged(installation)) == [first.json()["prediction_id"]]
