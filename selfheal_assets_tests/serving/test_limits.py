"""What every answer carries and every body may be, on every path; and failures that nobody expected."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from selfheal_assets.serving.app import create_app
from selfheal_assets.serving.middleware.bodies import MAX_BODY_BYTES
from selfheal_assets_tests.serving.conftest import GOOD, Installation

pytestmark = pytest.mark.integration

JSON = {"content-type": "application/json"}
HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
POSTED = ["/predict", "/predict/batch", "/predict?explain=false", "/labels", "/nowhere"]


@pytest.fixture
def address(installation: Installation) -> Iterator[tuple[str, int]]:
    """Of a service on a real socket."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(installation.settings), log_config=None, ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listening.getsockname()
    server.should_exit = True
    thread.join()


def too_large(answer: httpx.Response) -> bool:
    return answer.status_code == 413 and f"{MAX_BODY_BYTES:,}" in answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize("path", POSTED)
def test_a_body_over_the_limit_is_refused_on_every_path(client: TestClient, path: str):
    assert too_large(client.post(path, content=b" " * (MAX_BODY_BYTES + 1), headers=JSON))

    def chunks() -> Iterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 1_000_000 + 1):
            yield b" " * 1_000_000

    assert too_large(client.post(path, content=chunks(), headers=JSON))
    at_the_limit = b" " * (MAX_BODY_BYTES - 2) + b"{}"
    assert client.post(path, content=at_the_limit, headers=JSON).status_code in (404, 422)


def test_a_declared_length_is_refused_before_a_byte_is_read(address: tuple[str, int]):
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(HEAD + b"content-length: 9999999999\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_body_without_end_is_refused_while_it_is_read(address: tuple[str, int]):
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(MAX_BODY_BYTES // 0x100000 + 2):
            connection.sendall(chunk)
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_large_upload_reads_its_refusal(address: tuple[str, int]):
    url = "http://{}:{}/labels".format(*address)
    answer = httpx.post(url, content=b" " * 3 * MAX_BODY_BYTES, headers=JSON, timeout=30)
    assert too_large(answer)


@pytest.mark.parametrize("path", POSTED)
@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"content-type": "text/csv"}, "not 'text/csv'"),
        ({"content-type": "application/x-www-form-urlencoded"}, "x-www-form-urlencoded"),
        ({"content-type": "application/jsonp"}, "application/jsonp"),
        ({}, "no content-type"),
        ({**JSON, "content-encoding": "gzip"}, "compressed"),
    ],
)
def test_what_is_not_said_to_be_json_is_415(
    client: TestClient, path: str, headers: dict[str, str], words: str
):
    answer = client.post(path, content=b"{}", headers=headers)
    [problem] = answer.json()["detail"]
    assert (answer.status_code, problem["loc"]) == (415, ["body"])
    assert words in problem["msg"]
    if "content-encoding" not in headers:
        assert "application/json" in problem["msg"]


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/case+json"]
)
def test_what_is_said_to_be_json_is_taken(client: TestClient, kind: str):
    import json

    answer = client.post("/predict", content=json.dumps(GOOD), headers={"content-type": kind})
    assert answer.status_code == 200, answer.text


ANSWERS = [
    ("GET", "/"),
    ("POST", "/predict"),
    ("POST", "/labels"),
    ("GET", "/nowhere"),
    ("PUT", "/predict"),
    ("GET", "/docs"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize(("method", "path"), ANSWERS)
def test_every_answer_has_the_security_headers_and_none_of_cors(client: TestClient, method: str, path: str):
    asked = {"origin": "https://elsewhere.example", "access-control-request-method": "POST"}
    for answer in (client.request(method, path, headers=asked), client.options(path, headers=asked)):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy
        assert len(answer.headers.get_list("content-security-policy")) == 1
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/predict", "/predict?explain=false", "/predict/batch"])
def test_an_unexpected_failure_shows_nothing_and_is_logged_under_its_id(
    installation: Installation,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
):
    def broken(*given: object) -> None:
        raise RuntimeError("a secret of the house")

    with TestClient(create_app(installation.settings)) as client:
        monkeypatch.setattr("selfheal_assets.serving.scoring.ScoringService.score_columns", broken)
        body = {"cases": [GOOD]} if "batch" in path else GOOD
        answer = client.post(path, json=body, headers={"x-request-id": "r-1"})
        assert client.get("/health/live").status_code == 200
    assert answer.status_code == 500
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "r-1"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "secret" not in answer.text and "Traceback" not in answer.text
    [told] = [r for r in caplog.records if "unexpected failure" in r.message]
    assert told.levelno == logging.ERROR and told.exc_info is not None
