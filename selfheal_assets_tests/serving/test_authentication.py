"""API keys and rate limits over HTTP: who is let in where, and what the refusals say."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from selfheal_assets.serving.app import create_app
from selfheal_assets.settings import Settings
from selfheal_assets.stores.api_keys import KeyFile
from selfheal_assets_tests.serving.conftest import GOOD, Installation

pytestmark = pytest.mark.integration

OPEN = ["/health", "/health/live", "/health/ready"]
CLOSED = ["/", "/model/info", "/monitoring/stats", "/metrics", "/docs", "/redoc", "/openapi.json"]
CLOSED += ["/docs-files/swagger-ui.css", "/nowhere", "/healthy", "/health/other"]


@contextmanager
def running(installation: Installation, **changes: Any) -> Iterator[TestClient]:
    settings = installation.settings.model_copy(update=changes)
    with TestClient(create_app(settings, refresh_s=0.05)) as client:
        yield client


@pytest.fixture
def file(installation: Installation) -> KeyFile:
    return KeyFile(installation.settings.api_keys_path)


@pytest.fixture
def key(file: KeyFile) -> str:
    return file.create("tests", Settings.wall_clock())[1]


@pytest.fixture
def client(installation: Installation, key: str) -> Iterator[TestClient]:
    """A client of a service with one key; it sends none by itself."""
    with running(installation) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def is_refused(answer: httpx.Response, *words: str) -> None:
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"].startswith('Bearer realm="selfheal"')
    for word in words:
        assert word in answer.json()["detail"]


@pytest.mark.parametrize("path", CLOSED)
def test_what_is_closed_opens_with_a_key_in_either_header(client: TestClient, key: str, path: str):
    is_refused(client.get(path), "Authorization: Bearer", "X-API-Key")
    for headers in (bearer(key), {"authorization": f"bearer  {key} "}, {"x-api-key": key}):
        assert client.get(path, headers=headers).status_code in (200, 404), path


@pytest.mark.parametrize("path", OPEN)
def test_health_is_open(client: TestClient, path: str):
    assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [("/predict", GOOD), ("/predict/batch", {"cases": [GOOD]}), ("/predict?explain=false", GOOD)],
)
def test_the_hot_path_asks_for_a_key_too_and_logs_nothing_without(
    client: TestClient, installation: Installation, key: str, path: str, body: Any
):
    is_refused(client.post(path, json=body))
    is_refused(client.post(path, json=body, headers=bearer(key[:-1] + "!")), "not known")
    assert not list(installation.settings.prediction_log.rglob("*.jsonl"))
    assert client.post(path, json=body, headers=bearer(key)).status_code == 200


def test_no_way_of_writing_a_path_goes_around(client: TestClient):
    for path in ("//predict", "/predict/", "/health/../predict", "/health/%2e%2e/predict", "/PREDICT"):
        assert client.post(path, json=GOOD, follow_redirects=False).status_code == 401, path
    assert client.options("/predict").status_code == 401


@pytest.mark.parametrize(
    "headers", [{"authorization": "Basic YTpi"}, {"authorization": "Bearer"}, {"x-api-key": ""}]
)
def test_what_is_no_key_is_told_how_to_send_one(client: TestClient, headers: dict[str, str]):
    answer = client.get("/", headers=headers)
    is_refused(answer, "an API key is required")
    assert "invalid_token" not in answer.headers["www-authenticate"]


def test_keys_come_and_go_without_a_restart(client: TestClient, file: KeyFile, key: str):
    _, another = file.create("another", Settings.wall_clock())
    past = Settings.wall_clock() - timedelta(seconds=1)
    _, expired = file.create("old", past - timedelta(days=1), past)
    file.revoke("tests", Settings.wall_clock())
    eventually(lambda: client.get("/", headers=bearer(another)).status_code == 200)
    answer = client.get("/", headers=bearer(key))
    is_refused(answer, "'tests'", "is revoked")
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    is_refused(client.get("/", headers=bearer(expired)), "'old'", "is expired")


def eventually(holds) -> None:
    import time

    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_damaged_file_is_503_readiness_says_why_and_mending_it_helps(
    client: TestClient, file: KeyFile, key: str
):
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:40])
    eventually(lambda: client.get("/", headers=bearer(key)).status_code == 503)
    assert client.post("/predict", json=GOOD, headers=bearer(key)).status_code == 503
    assert client.post("/predict", json=GOOD).status_code == 503
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "unready")
    [reason] = ready.json()["reasons"]
    assert "api_keys.json cannot be read" in reason
    assert client.get("/health/live").status_code == 200
    file.path.write_bytes(whole)
    eventually(lambda: client.get("/", headers=bearer(key)).status_code == 200)
    assert client.get("/health/ready").status_code == 200


def test_an_installation_without_keys_is_open_and_says_so(
    installation: Installation, caplog: pytest.LogCaptureFixture
):
    with running(installation) as client:
        for path in CLOSED:
            assert client.get(path).status_code in (200, 404)
    [told] = [r for r in caplog.records if "every endpoint is open" in r.message]
    assert (told.levelname, str(installation.settings.api_keys_path) in told.message) == ("WARNING", True)


def test_an_installation_with_keys_does_not_call_itself_open(
    client: TestClient, caplog: pytest.LogCaptureFixture
):
    assert not [r for r in caplog.records if "is open" in r.message]


@pytest.mark.parametrize(
    ("setting", "opened"),
    [
        ("metrics_open", {"/metrics"}),
        ("docs_open", {"/docs", "/redoc", "/openapi.json", "/docs-files/swagger-ui.css"}),
    ],
)
def test_metrics_and_docs_can_be_opened(installation: Installation, key: str, setting: str, opened: set[str]):
    with running(installation, **{setting: True}) as client:
        assert {path for path in CLOSED if client.get(path).status_code == 200} == opened


def test_the_document_declares_keys_exactly_while_they_are_required(
    installation: Installation, file: KeyFile
):
    with running(installation) as client:
        open_document = client.get("/openapi.json").json()
        _, key = file.create("first", Settings.wall_clock())
        eventually(lambda: client.get("/openapi.json").status_code == 401)
        document = client.get("/openapi.json", headers=bearer(key)).json()
    assert "security" not in open_document["paths"]["/predict"]["post"]
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert ("security" in operation) == (path not in OPEN), path
            assert ("401" in operation["responses"]) == (path not in OPEN), path
    assert {"413", "415", "422"} <= set(document["paths"]["/predict"]["post"]["responses"])


# --- Rate limits ------------------------------------------------------------------------------


def test_each_key_has_its_own_limit(installation: Installation, file: KeyFile):
    keys = [file.create(name, Settings.wall_clock())[1] for name in ("a", "b")]
    with running(installation, rate_limit="5/minute") as client:
        statuses = [client.post("/predict", json=GOOD, headers=bearer(keys[0])).status_code for _ in range(7)]
        assert statuses == [200] * 5 + [429] * 2
        answer = client.post("/predict", json=GOOD, headers=bearer(keys[0]))
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert "5 per 1 minute" in answer.json()["detail"]
        assert client.post("/predict", json=GOOD, headers=bearer(keys[1])).status_code == 200
        assert {client.get(path).status_code for path in OPEN * 5} == {200}, "probes are not limited"


def test_without_keys_an_address_has_the_limit_and_waiting_helps(installation: Installation):
    with running(installation, rate_limit="2/second") as client:
        statuses = [client.get("/").status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        eventually(lambda: client.get("/").status_code == 200)
        assert "429" in client.app.openapi()["paths"]["/predict"]["post"]["responses"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("rate", ["often", "0/minute", "-1/minute", "5", "5/fortnight"])
def test_what_is_no_rate_is_refused_at_the_start(rate: str):
    with pytest.raises(ValueError, match="is no rate"):
        Settings(rate_limit=rate)
