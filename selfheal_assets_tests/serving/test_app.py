"""The service over HTTP, in process: answers, refusals, labels, monitoring."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient

from selfheal_assets.serving.app import create_app
from selfheal_assets.serving.schemas import INT64_MAX
from selfheal_assets.stores import label_ledger, log_ingestion
from selfheal_assets.stores.tables import create_tables
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets_tests.serving.conftest import GOOD, Installation, settings_in

pytestmark = pytest.mark.integration


def open_warehouse(installation: Installation) -> Warehouse:
    settings = installation.settings
    assert not settings.warehouse_path.exists(), "the service opened the warehouse"
    warehouse = Warehouse(settings.warehouse_path, settings.published)
    create_tables(warehouse, installation.case)
    return warehouse


def post(client: TestClient, path: str, body: str | bytes) -> Any:
    return client.post(path, content=body, headers={"content-type": "application/json"})


def refused_fields(answer: Any) -> list[list[Any]]:
    assert answer.status_code == 422, answer.text
    return [problem["loc"] for problem in answer.json()["detail"]]


# --- Answers ----------------------------------------------------------------------------------


def test_about_and_docs(client: TestClient):
    about = client.get("/").json()
    assert about["use_case"] == "subscriptions"
    for path in about["links"].values():
        assert client.get(path).status_code in (200, 405)


def test_health_and_model_info(client: TestClient, installation: Installation):
    health = client.get("/health").json()
    assert (health["status"], health["log_durability"]) == ("ok", "fsync")
    info = client.get("/model/info").json()
    bundle = installation.bundles[0]
    assert health["model_version"] == info["model_version"] == installation.versions[0]
    assert info["model_fingerprint"] == bundle.fingerprint
    assert info["threshold"] == bundle.threshold
    assert info["trained"] == {"from": "2020-01-01T00:00:00", "until": "2020-06-01T00:00:00"}
    assert [f["name"] for f in info["features"]] == installation.case.feature_names
    assert info["use_case"]["horizon_months"] == 3


def test_predict_answers_what_the_bundle_says(client: TestClient, installation: Installation):
    answer = client.post("/predict", json=GOOD | {"entity_id": "s-1"}).json()
    bundle = installation.bundles[0]
    expected = float(bundle.score(pl.DataFrame([GOOD]))[0])
    assert answer == {
        "prediction_id": answer["prediction_id"],
        "entity_id": "s-1",
        "probability": expected,
        "prediction": int(expected >= bundle.threshold),
        "threshold": bundle.threshold,
        "model_version": installation.versions[0],
        "model_fingerprint": bundle.fingerprint,
        "warnings": [],
    }


def test_nullable_features_may_be_left_out(client: TestClient):
    short = {name: GOOD[name] for name in ("monthly_fee", "plan", "age")}
    blank = GOOD | {"visits": None, "city": None, "balance": None}
    answers = [client.post("/predict", json=body).json() for body in (short, blank)]
    assert answers[0]["probability"] == answers[1]["probability"]
    assert answers[0]["entity_id"] != answers[1]["entity_id"]


def test_an_unseen_category_is_missing_and_named(client: TestClient):
    unseen = client.post("/predict", json=GOOD | {"city": "Xanadu"}).json()
    missing = client.post("/predict", json=GOOD | {"city": None}).json()
    assert unseen["probability"] == missing["probability"]
    (warning,) = unseen["warnings"]
    assert warning.startswith("city: category 'Xanadu'")
    assert missing["warnings"] == []


def test_request_id_is_echoed_or_made(client: TestClient):
    assert client.get("/", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    assert len(client.get("/").headers["X-Request-ID"]) == 32
    assert len(client.get("/", headers={"X-Request-ID": "x" * 500}).headers["X-Request-ID"]) == 32
    assert client.post("/predict", json={}, headers={"X-Request-ID": "bad"}).headers["X-Request-ID"] == "bad"


def test_openapi_describes_the_use_case(client: TestClient):
    case = client.get("/openapi.json").json()["components"]["schemas"]["Case"]
    fee, plan, age = (case["properties"][name] for name in ("monthly_fee", "plan", "age"))
    assert (age["type"], age["minimum"], age["maximum"]) == ("integer", -INT64_MAX, INT64_MAX)
    assert (fee["minimum"], fee["maximum"], fee["description"]) == (0, 500, "Fee (EUR)")
    assert plan["enum"] == ["basic", "family"]
    assert case["required"] == ["monthly_fee", "plan", "age"]
    assert case["additionalProperties"] is False


# --- Log and ingestion ------------------------------------------------------------------------


def test_answers_and_ingested_rows_agree(client: TestClient, installation: Installation):
    moment = "2021-02-03T04:05:06.789012+02:00"
    odd = {"city": "Łódź\u0001 '\"", "balance": 1e-300, "visits": None, "age": -INT64_MAX}
    cases = [GOOD | {"entity_id": "a", "event_time": moment}, GOOD | odd, GOOD | {"balance": 1 / 3}]
    answers = client.post("/predict/batch", json={"cases": cases}).json()["predictions"]
    answers.append(client.post("/predict", json=GOOD).json())
    folder = installation.settings.prediction_log
    warehouse = open_warehouse(installation)
    first = log_ingestion.ingest(warehouse, installation.case, folder)
    again = log_ingestion.ingest(warehouse, installation.case, folder)
    client.__exit__(None, None, None)
    sealed = log_ingestion.ingest(warehouse, installation.case, folder)
    last = log_ingestion.ingest(warehouse, installation.case, folder)
    assert [i.rows_added for i in (first, again, sealed, last)] == [4, 0, 0, 0]
    assert list(folder.rglob("*.jsonl")) == []

    rows = {r["prediction_id"]: r for r in warehouse.query("select * from prediction_log").to_dicts()}
    for answer, case in zip(answers, [*cases, GOOD], strict=True):
        row = rows.pop(answer["prediction_id"])
        shared = ("entity_id", "probability", "prediction", "threshold", "model_version", "model_fingerprint")
        assert {k: row[k] for k in shared} == {k: answer[k] for k in shared}
        assert {n: row[n] for n in installation.case.feature_names} == {
            n: case.get(n) for n in installation.case.feature_names
        }
        assert row["role"] == "champion"
        if "event_time" in case:
            assert row["event_time"] == datetime(2021, 2, 3, 2, 5, 6, 789012)
        else:
            assert row["event_time"] == row["predicted_at"]
    assert rows == {}


def test_a_torn_tail_is_reported_and_the_rows_before_it_kept(client: TestClient, installation: Installation):
    for _ in range(3):
        client.post("/predict", json=GOOD)
    client.__exit__(None, None, None)
    folder = installation.settings.prediction_log
    (segment,) = (folder / "ready").glob("*.jsonl")
    *lines, _seal = segment.read_bytes().splitlines(keepends=True)
    whole, last = b"".join(lines), lines[-1]
    (folder / "open" / segment.name).write_bytes(whole[:-5])  # as a writer leaves it that died half-way
    segment.unlink()
    warehouse = open_warehouse(installation)
    done = log_ingestion.ingest(warehouse, installation.case, folder)
    assert (done.rows_added, done.torn_bytes) == (2, len(last) - 5)
    noted = warehouse.query("select * from ingested_segments").to_dicts()
    assert noted == [{"segment_file": segment.name, "rows_added": 2, "torn_bytes": len(last) - 5}]


def test_a_full_disk_is_503_and_nothing_is_logged(
    client: TestClient, installation: Installation, monkeypatch: pytest.MonkeyPatch
):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fdatasync", full)
        answer = client.post("/predict", json=GOOD)
    assert answer.status_code == 503
    assert "cannot be written (No space left on device)" in answer.json()["detail"]
    kept = client.post("/predict", json=GOOD).json()
    warehouse = open_warehouse(installation)
    log_ingestion.ingest(warehouse, installation.case, installation.settings.prediction_log)
    logged = warehouse.query("select prediction_id from prediction_log")["prediction_id"].to_list()
    assert logged == [kept["prediction_id"]]


# --- Refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ('"monthly_fee": "49"', "monthly_fee"),
        ('"monthly_fee": true', "monthly_fee"),
        ('"monthly_fee": null', "monthly_fee"),
        ('"monthly_fee": NaN', "monthly_fee"),
        ('"monthly_fee": Infinity', "monthly_fee"),
        ('"monthly_fee": -Infinity', "monthly_fee"),
        ('"monthly_fee": 500.01', "monthly_fee"),
        ('"monthly_fee": -1', "monthly_fee"),
        ('"balance": 1e39', "balance"),
        ('"balance": 1e400', "balance"),
        (f'"balance": 1{"0" * 400}', "balance"),
        ('"visits": 1.5', "visits"),
        ('"visits": "3"', "visits"),
        ('"age": 9223372036854775808', "age"),
        ('"plan": "gold"', "plan"),
        ('"plan": 1', "plan"),
        ('"city": ""', "city"),
        ('"city": "\\ud800"', "city"),
        ('"entity_id": 7', "entity_id"),
        ('"event_time": "yesterday"', "event_time"),
        ('"event_time": 1700000000', "event_time"),
        ('"event_time": "0001-01-01T00:00:00+14:00"', "event_time"),
        ('"fee": 1', "fee"),
    ],
)
def test_a_wrong_field_is_named(client: TestClient, change: str, field: str):
    body = json.dumps(GOOD)[:-1] + f", {change}}}"
    assert refused_fields(post(client, "/predict", body)) == [["body", field]]
    assert refused_fields(post(client, "/predict/batch", f'{{"cases": [{json.dumps(GOOD)}, {body}]}}')) == [
        ["body", "cases", 1, field]
    ]


def test_a_missing_field_is_named(client: TestClient):
    assert refused_fields(client.post("/predict", json={"age": 3, "plan": "basic"})) == [
        ["body", "monthly_fee"]
    ]


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"x"', b"null", b'{"\\ud800": 1}'])
def test_what_is_not_a_case_is_422(client: TestClient, body: bytes):
    assert post(client, "/predict", body).status_code == 422


@pytest.mark.parametrize(
    ("body", "kind", "where", "words"),
    [
        (b'{"city": "\xff"}', "invalid_utf8", ["body", 10], "byte 10 is 0xff"),
        (b"[" * 100_000, "nested_too_deeply", ["body"], "3 levels"),
        (b'{"age": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested_too_deeply", ["body"], "3 levels"),
        (b'{"age": ' + b"9" * 5_000 + b"}", "number_too_long", ["body"], "4,300 digits"),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/labels"])
def test_what_cannot_be_parsed_says_why(
    client: TestClient, path: str, body: bytes, kind: str, where: list[Any], words: str
):
    answer = post(client, path, body)
    assert refused_fields(answer) == [where]
    (problem,) = answer.json()["detail"]
    assert problem["type"] == kind
    assert words in problem["msg"]


def test_broken_json_says_where(client: TestClient):
    (problem,) = post(client, "/predict", b'{"age": }').json()["detail"]
    assert problem["loc"] == ["body", 8]
    assert "Expecting value" in problem["msg"]


def test_a_batch_has_limits(client: TestClient):
    answer = client.post("/predict/batch", json={"cases": [GOOD] * 10_001})
    assert refused_fields(answer) == [["body", "cases"]]
    assert "at most 10000" in answer.json()["detail"][0]["msg"]
    assert refused_fields(client.post("/predict/batch", json={"cases": []})) == [["body", "cases"]]
    whole = client.post("/predict/batch", json={"cases": [GOOD] * 10_000}).json()
    assert whole["count"] == len({p["prediction_id"] for p in whole["predictions"]}) == 10_000


def test_a_thoroughly_wrong_batch_gets_a_short_answer(client: TestClient):
    answer = client.post("/predict/batch", json={"cases": [{"age": "x" * 5000}] * 1000})
    assert len(refused_fields(answer)) == 100
    assert len(answer.content) < 50_000


def test_a_refused_batch_logs_nothing(client: TestClient, installation: Installation):
    client.post("/predict/batch", json={"cases": [GOOD, {}]})
    assert not list(installation.settings.prediction_log.rglob("*.jsonl"))


# --- Labels -----------------------------------------------------------------------------------


def test_labels_reach_the_ledger(client: TestClient, installation: Installation):
    answer = client.post("/predict", json=GOOD | {"entity_id": "known"}).json()
    one = {"prediction_id": answer["prediction_id"], "label": 1, "occurred_at": "2021-03-01T10:00:00Z"}
    many = [{"entity_id": "b", "label": 0, "source": "crm"}, {"entity_id": "c", "label": 1}]
    accepted = [client.post("/labels", json=body) for body in (one, {"labels": many})]
    assert [(a.status_code, a.json()) for a in accepted] == [(202, {"accepted": 1}), (202, {"accepted": 2})]

    warehouse = open_warehouse(installation)
    log_ingestion.ingest(warehouse, installation.case, installation.settings.prediction_log)
    done = label_ledger.ingest(warehouse, installation.settings.label_landing)
    assert (done.rows_added, done.rows_rejected) == (3, 0)
    known = warehouse.query(
        "select * from labels_as_of(timestamp '9999-01-01') order by entity_id"
    ).to_dicts()
    assert [(k["entity_id"], k["label"], k["source"]) for k in known] == [
        ("b", 0, "crm"),
        ("c", 1, "api"),
        ("known", 1, "api"),
    ]
    assert known[2]["occurred_at"] == datetime(2021, 3, 1, 10)
    assert known[0]["occurred_at"] == known[0]["recorded_at"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"entity_id": "a", "label": 2}, ["body", "single", "label"]),
        ({"entity_id": "a", "label": True}, ["body", "single", "label"]),
        ({"entity_id": "a", "label": "1"}, ["body", "single", "label"]),
        ({"entity_id": "a"}, ["body", "single", "label"]),
        ({"label": 1}, ["body", "single"]),
        ({"entity_id": "a", "label": 1, "occured_at": "2021-01-01"}, ["body", "single", "occured_at"]),
        ({"entity_id": "a", "label": 1, "occurred_at": "soon"}, ["body", "single", "occurred_at"]),
        ({"entity_id": "a", "label": 1, "occurred_at": "2999-01-01"}, ["body", "single", "occurred_at"]),
        ({"labels": [{"entity_id": "a", "label": 1}, {"label": 0}]}, ["body", "batch", "labels", 1]),
        ({"labels": []}, ["body", "batch", "labels"]),
        ([], ["body", "single"]),
    ],
)
def test_a_wrong_label_is_named_and_nothing_lands(
    client: TestClient, installation: Installation, body: Any, where: list[Any]
):
    assert refused_fields(client.post("/labels", json=body)) == [where]
    assert not installation.settings.label_landing.exists()


# --- Monitoring -------------------------------------------------------------------------------


def test_monitoring_before_anything_was_published(client: TestClient):
    client.post("/predict/batch", json={"cases": [GOOD, GOOD | {"city": "Xanadu"}]})
    client.post("/predict", json={})
    stats = client.get("/monitoring/stats").json()
    assert (stats["health"], stats["decisions"]) == (None, [])
    assert (stats["predictions"], stats["open_alarms"]) == (None, None)
    counts = stats["service"]["counts"]
    assert {
        k: counts[k] for k in ("requests", "predictions", "predictions_with_warnings", "refused_requests")
    } == {
        "requests": 1,
        "predictions": 2,
        "predictions_with_warnings": 1,
        "refused_requests": 1,
    }


def test_monitoring_tells_what_was_published(client: TestClient, installation: Installation):
    published = installation.settings.published
    published.mkdir(parents=True)
    chunks = pl.DataFrame({"label": ["2021-01", "2021-02"], "estimated_auc": [0.7, float("nan")]})
    chunks.write_parquet(published / "health_report.parquet")
    decisions = pl.DataFrame({"id": range(12), "as_of": [datetime(2021, 1, 1)] * 12})
    decisions.write_parquet(published / "decisions.parquet")
    stats = client.get("/monitoring/stats").json()
    assert stats["health"] == {"label": "2021-02", "estimated_auc": None}
    assert [d["id"] for d in stats["decisions"]] == list(range(11, 1, -1))


# --- No champion, imports ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service whose registry holds nothing."""
    with TestClient(create_app(settings_in(tmp_path_factory.mktemp("empty")))) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/health", None),
        ("GET", "/model/info", None),
        ("POST", "/predict", GOOD),
        ("POST", "/predict/batch", {"cases": [GOOD]}),
    ],
)
def test_without_a_champion_it_is_503_with_the_mend(
    empty_client: TestClient, method: str, path: str, body: Any
):
    answer = empty_client.request(method, path, json=body)
    assert answer.status_code == 503
    assert "selfheal replay" in answer.json()["detail"]


def test_without_a_champion_labels_are_still_taken(empty_client: TestClient):
    assert empty_client.post("/labels", json={"entity_id": "a", "label": 1}).status_code == 202


def test_serving_imports_neither_dagster_nor_nannyml():
    program = (
        "import sys, mlflow.artifacts, selfheal_assets.serving.run, selfheal_assets.stores.bundle_flavor\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'dagster', 'dagster_dbt', 'dagster_mlflow', 'nannyml', 'dbt'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
