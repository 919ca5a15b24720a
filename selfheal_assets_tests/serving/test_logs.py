"""What the service logs: one object of JSON a line, under the request's id, and nothing for each prediction."""

import json
import logging
import logging.config
from typing import Any

import pytest
from fastapi.testclient import TestClient

from selfheal_assets.serving.app import create_app
from selfheal_assets.serving.logs import log_config
from selfheal_assets.settings import Settings
from selfheal_assets.stores.api_keys import KeyFile
from selfheal_assets_tests.serving.conftest import GOOD, Installation

pytestmark = pytest.mark.integration

FIELDS = {"time", "level", "logger", "message", "request_id"}


@pytest.fixture(autouse=True)
def restored():
    """Logging as it was: its configuration belongs to the whole process."""
    root, names = logging.getLogger(), ("uvicorn", "uvicorn.access")
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def access(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [line for line in logged(capsys) if line["logger"] == "selfheal.access"]


def serving(installation: Installation, **changes: Any) -> TestClient:
    logging.config.dictConfig(log_config("json", "INFO"))
    return TestClient(create_app(installation.settings.model_copy(update=changes)))


def ask(client: TestClient) -> None:
    """A good prediction, a good batch, a refusal, a probe, and something else."""
    assert client.post("/predict", json=GOOD, headers={"x-request-id": "good"}).status_code == 200
    assert client.post("/predict/batch", json={"cases": [GOOD]}).status_code == 200
    assert client.post("/predict", json={}, headers={"x-request-id": "bad"}).status_code == 422
    assert client.get("/health/ready").status_code == 200
    assert client.get("/model/info?token=secret", headers={"x-request-id": "info"}).status_code == 200


def test_by_default_only_what_is_seldom_or_wrong_has_a_line(
    installation: Installation, capsys: pytest.CaptureFixture[str]
):
    with serving(installation) as client:
        ask(client)
    lines = access(capsys)
    assert [(line["request_id"], line["status"]) for line in lines] == [("bad", 422), ("info", 200)]
    assert set(lines[0]) > FIELDS
    expected = {
        "method": "POST",
        "path": "/predict",
        "route": "/predict",
        "client": "testclient",
        "key": None,
    }
    assert {name: lines[0][name] for name in expected} == expected
    assert 0 < lines[0]["ms"] < 10_000
    assert lines[0]["time"].endswith(("Z", "+00:00"))
    assert "secret" not in json.dumps(lines), "queries may hold what no log should"


@pytest.mark.parametrize(("access_log", "count"), [("all", 5), ("quiet", 2), ("off", 0)])
def test_the_access_log_can_be_full_or_switched_off(
    installation: Installation, capsys: pytest.CaptureFixture[str], access_log: str, count: int
):
    with serving(installation, access_log=access_log) as client:
        ask(client)
    assert len(access(capsys)) == count


def test_a_slow_prediction_has_a_line(installation: Installation, capsys: pytest.CaptureFixture[str]):
    with serving(installation, slow_request_s=1e-9) as client:
        client.post("/predict", json=GOOD)
    [line] = access(capsys)
    assert (line["level"], line["status"]) == ("WARNING", 200)


def test_a_line_names_the_key_by_its_id_only(installation: Installation, capsys: pytest.CaptureFixture[str]):
    made, key = KeyFile(installation.settings.api_keys_path).create("crm", Settings.wall_clock())
    with serving(installation, access_log="all") as client:
        client.get("/model/info", headers={"x-api-key": key})
        client.get("/model/info", headers={"x-api-key": key + "x"})
    text = capsys.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(r["status"], r["key"]) for r in lines if r["logger"] == "selfheal.access"] == [
        (200, made.id),
        (401, None),
    ]
    assert key not in text


def test_a_failure_is_logged_whole_under_its_request(
    installation: Installation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def broken(*given: object) -> None:
        raise RuntimeError("why")

    with serving(installation) as client:
        monkeypatch.setattr("selfheal_assets.serving.scoring.ScoringService.score_columns", broken)
        client.post("/predict", json=GOOD, headers={"x-request-id": "r-1"})
    failure, line = [r for r in logged(capsys) if r["request_id"] == "r-1"]
    assert "RuntimeError: why" in failure["exc_info"]
    assert (line["status"], line["level"]) == (500, "ERROR")


def test_what_a_client_sends_cannot_forge_a_line(
    installation: Installation, capsys: pytest.CaptureFixture[str]
):
    logging.config.dictConfig(log_config("text", "INFO"))
    with TestClient(create_app(installation.settings)) as client:
        client.get("/x%0a2026-01-01 ERROR forged", headers={"x-request-id": "a b"})
    [line] = [text for text in capsys.readouterr().err.splitlines() if "selfheal.access" in text]
    assert "[a b] GET /x%0a" in line


def test_uvicorns_lines_look_like_ours(capsys: pytest.CaptureFixture[str]):
    logging.config.dictConfig(log_config("json", "INFO"))
    logging.getLogger("uvicorn.error").info("Started", extra={"color_message": "\x1b[32mStarted"})
    logging.getLogger("uvicorn.access").info("one line a request")
    [line] = logged(capsys)
    assert set(line) == FIELDS
    assert (line["logger"], line["message"], line["request_id"]) == ("uvicorn.error", "Started", None)
