"""Group commit and the compiled decoder: what they answer, share, refuse and leave to FastAPI."""

import json
import threading
from typing import Any

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient

from selfheal_assets.serving.app import create_app
from selfheal_assets.serving.compiled import CaseDecoder
from selfheal_assets.serving.middleware.bodies import MAX_BODY_BYTES
from selfheal_assets.stores.log_ingestion import read_segment
from selfheal_assets.stores.segments import DamagedSegment, segments
from selfheal_assets_tests.serving.conftest import GOOD, Installation

pytestmark = pytest.mark.integration

JSON = {"content-type": "application/json"}


def lines(installation: Installation) -> int:
    """Lines of the log, which are the groups that were committed."""
    folder = installation.settings.prediction_log
    return sum(p.read_bytes().count(b"\n") for place in ("open", "ready") for p in segments(folder, place))


def logged(installation: Installation) -> pl.DataFrame:
    folder = installation.settings.prediction_log
    paths = [p for place in ("open", "ready") for p in segments(folder, place)]
    return pl.concat([read_segment(p, installation.case)[0] for p in paths])


def test_a_plain_request_and_one_through_fastapi_are_answered_alike(client: TestClient):
    hot = client.post("/predict", json=GOOD | {"entity_id": "s-1"}).json()
    slow = client.post("/predict?explain=false", json=GOOD | {"entity_id": "s-1"}).json()
    assert hot | {"prediction_id": ""} == slow | {"prediction_id": ""}
    assert list(hot) == list(slow)


@pytest.mark.parametrize(
    "change",
    [
        {"monthly_fee": "49.5"},
        {"monthly_fee": True},
        {"monthly_fee": 500.5},
        {"monthly_fee": None},
        {"visits": 1.5},
        {"visits": 2**63},
        {"plan": "gold"},
        {"city": ""},
        {"unknown": 1},
        {"event_time": "yesterday"},
        {"entity_id": 7},
    ],
)
def test_the_decoder_leaves_what_is_not_plainly_valid_to_fastapi(
    change: dict[str, Any], client: TestClient, installation: Installation
):
    body = json.dumps(GOOD | change).encode()
    assert CaseDecoder(installation.case).single(body) is None
    answer = client.post("/predict", content=body, headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", *change]


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/predict", json.dumps(GOOD)[:-1] + ', "visits": 5}', ["body", "visits"]),
        (
            "/predict/batch",
            json.dumps({"cases": [GOOD]})[:-3] + ', "plan": "family"}]}',
            ["body", "cases", 0, "plan"],
        ),
        ("/predict", json.dumps(GOOD)[:-1] + ', "\\u0061ge": 5}', ["body", "age"]),
    ],
)
def test_a_key_given_twice_is_refused_with_its_path(
    client: TestClient, path: str, body: str, where: list[Any]
):
    answer = client.post(path, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, where)


def test_a_body_over_the_limit_is_not_parsed(client: TestClient):
    answer = client.post("/predict/batch", content=b" " * (MAX_BODY_BYTES + 1), headers=JSON)
    assert answer.status_code == 413
    assert f"{MAX_BODY_BYTES:,}" in answer.text


def test_requests_that_wait_share_a_line(client: TestClient, installation: Installation):
    before, many = lines(installation), 200
    answers: list[dict[str, Any]] = []

    def ask(first: int) -> None:
        for i in range(first, many, 20):
            answer = client.post("/predict", json=GOOD | {"entity_id": f"g{i}", "age": i})
            answers.append(answer.json())

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 0 < lines(installation) - before < many
    rows = {r["prediction_id"]: r for r in logged(installation).iter_rows(named=True)}
    assert len(rows) == many
    bundle = installation.bundles[0]
    for answer in answers:
        row = rows[answer["prediction_id"]]
        assert (row["entity_id"], row["probability"]) == (answer["entity_id"], answer["probability"])
        alone = bundle.score(pl.DataFrame([GOOD | {"age": row["age"]}]))
        np.testing.assert_allclose(answer["probability"], alone[0], rtol=1e-12)


def test_a_flipped_bit_is_found(client: TestClient, installation: Installation):
    client.post("/predict", json=GOOD)
    (path,) = segments(installation.settings.prediction_log, "open")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    copy = path.with_name("copy.jsonl")
    copy.write_bytes(content)
    with pytest.raises(DamagedSegment, match=r"line 1: .*checksum"):
        read_segment(copy, installation.case)
    copy.unlink()


@pytest.mark.parametrize("durability", ["fsync", "os", "none"])
def test_health_says_what_an_answer_waits_for(installation: Installation, durability: str):
    settings = installation.settings.model_copy(update={"durability": durability})
    with TestClient(create_app(settings)) as client:
        assert client.get("/health").json()["log_durability"] == durability
        client.post("/predict", json=GOOD)
    assert logged(installation).height == 1
