"""Bad input: a 4xx that names the field's path and the limit, on every way in, and never a 500."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from selfheal_assets.serving.app import create_app
from selfheal_assets.settings import Settings
from selfheal_assets.stores import log_ingestion
from selfheal_assets_tests.serving.conftest import GOOD, YAML, Installation
from selfheal_assets_tests.serving.test_app import open_warehouse, refused_fields

pytestmark = pytest.mark.integration

# The hot path, and the ways around it.
WAYS = [
    {},
    {"params": {"explain": "false"}},
    {"headers": {"idempotency-key": "k"}},
]
# The same, the plain one alone in `make test`.
BUSY_WAYS = [WAYS[0], *(pytest.param(way, marks=pytest.mark.long) for way in WAYS[1:])]


def post(client: TestClient, path: str, body: str | bytes, way: dict[str, Any]) -> Any:
    headers = {"content-type": "application/json"} | way.get("headers", {})
    return client.post(path, content=body, headers=headers, params=way.get("params"))


def changed(change: str) -> str:
    """A good case with its last word about a field; a name given before is left out."""
    name = json.loads(f"{{{change.replace('NaN', '0').replace('-Infinity', '0').replace('Infinity', '0')}}}")
    rest = {k: v for k, v in GOOD.items() if k not in name}
    return f"{json.dumps(rest)[:-1]}, {change}}}"


BAD = [
    ('"monthly_fee": "49"', "monthly_fee", "number"),
    ('"monthly_fee": NaN', "monthly_fee", "finite"),
    ('"monthly_fee": Infinity', "monthly_fee", "finite"),
    ('"monthly_fee": -Infinity', "monthly_fee", "finite"),
    ('"monthly_fee": 1e400', "monthly_fee", "finite"),
    ('"monthly_fee": 500.01', "monthly_fee", "less than or equal to 500"),
    ('"monthly_fee": -1e-9', "monthly_fee", "greater than or equal to 0"),
    ('"visits": -1', "visits", "greater than or equal to 0"),
    ('"visits": 1.5', "visits", "integer"),
    ('"visits": [3]', "visits", "integer"),
    ('"plan": "gold"', "plan", "'basic' or 'family'"),
    ('"city": {}', "city", "string"),
    (f'"city": "{"x" * 201}"', "city", "at most 200"),
    ('"city": "Os\\u0000lo"', "city", "pattern"),
    ('"entity_id": "a\\u0000"', "entity_id", "pattern"),
    ('"entity_id": ""', "entity_id", "at least 1"),
    ('"fee": 1', "fee", "not permitted"),
]


@pytest.mark.parametrize("way", WAYS, ids=["plain", "query", "key"])
@pytest.mark.parametrize(("change", "field", "limit"), BAD, ids=[b[0][:30] for b in BAD])
def test_a_bad_field_is_named_with_its_limit_on_every_way(
    client: TestClient, installation: Installation, way: dict[str, Any], change: str, field: str, limit: str
):
    single = post(client, "/predict", changed(change), way)
    batch = post(client, "/predict/batch", f'{{"cases": [{json.dumps(GOOD)}, {changed(change)}]}}', way)
    assert refused_fields(single) == [["body", field]]
    assert refused_fields(batch) == [["body", "cases", 1, field]]
    for answer in (single, batch):
        assert limit in answer.json()["detail"][0]["msg"]
    assert list(installation.settings.prediction_log.rglob("*.jsonl")) == []


@pytest.mark.parametrize("way", WAYS, ids=["plain", "query", "key"])
@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/predict", json.dumps(GOOD)[:-1] + ', "age": 42}', ["age"]),
        ("/predict", json.dumps(GOOD)[:-1] + ', "\\u0061ge": 42}', ["age"]),
        ("/predict", '{"city": "a", "city": "b"}', ["city"]),
        (
            "/predict/batch",
            f'{{"cases": [{json.dumps(GOOD)}, {json.dumps(GOOD)[:-1]}, "plan": "basic"}}]}}',
            ["cases", 1, "plan"],
        ),
        ("/predict/batch", f'{{"cases": [], "cases": [{json.dumps(GOOD)}]}}', ["cases"]),
        ("/labels", '{"entity_id": "a", "label": 1, "label": 0}', ["label"]),
        (
            "/labels",
            '{"labels": [{"entity_id": "a", "entity_id": "b", "label": 1}]}',
            ["labels", 0, "entity_id"],
        ),
    ],
)
def test_a_key_given_twice_is_named(client: TestClient, way, path, body, where):
    answer = post(client, path, body, way)
    assert refused_fields(answer) == [["body", *where]]
    assert "given twice" in answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize("way", WAYS, ids=["plain", "query", "key"])
@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/labels"])
@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (b"{", {422}),
        (b"", {422}),
        (b"null", {422}),
        (b"[]", {422}),
        (b"7", {422}),
        (b'{"cases": 3}', {422}),
        (b'{"cases": [3, null, [], "x"]}', {422}),
        (b"[" * 100_000, {422}),
        (b'{"cases": [' + b"[" * 900 + b"]" * 900 + b"]}", {422}),
        (b'{"city": "\xff"}', {422}),
        (b'{"cases": "' + b"x" * 9_999_990 + b'"}', {413}),
        pytest.param(b'{"cases": [' + b"{}," * 1_000_000 + b"{}]}", {422}, marks=pytest.mark.long),
    ],
    ids=[
        "open",
        "empty",
        "null",
        "list",
        "number",
        "no list",
        "no cases",
        "deep",
        "deep case",
        "UTF-8",
        "10 MB",
        "1,000,001",
    ],
)
def test_what_is_no_request_is_refused_shortly(
    client: TestClient, way, path: str, body: bytes, statuses: set
):
    answer = post(client, path, body, way)
    assert answer.status_code in statuses, answer.text[:500]
    assert len(answer.content) < 50_000


@pytest.mark.parametrize("way", BUSY_WAYS)
def test_a_million_and_one_rows_are_told_the_limit(client: TestClient, way: dict[str, Any]):
    answer = post(client, "/predict/batch", b'{"cases": [' + b"{}," * 1_000_000 + b"{}]}", way)
    assert refused_fields(answer) == [["body", "cases"]]
    assert "at most 10000 items" in answer.json()["detail"][0]["msg"]


def test_a_body_that_is_too_large_is_told_the_limit(client: TestClient):
    answer = post(client, "/predict/batch", b" " * 10_000_000, {})
    assert answer.status_code == 413
    assert "8,000,000 bytes" in answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize("way", WAYS, ids=["plain", "query", "key"])
def test_a_whole_number_is_an_integer_however_it_is_written(client: TestClient, way: dict[str, Any]):
    answers = [
        post(client, "/predict", changed(f'"visits": {n}'), way | {"headers": {}})
        for n in ("3", "3.0", "3e0")
    ]
    assert len({a.json()["probability"] for a in answers}) == 1
    assert client.post("/labels", json={"entity_id": "a", "label": 1.0}).status_code == 202


def test_on_error_has_two_words(client: TestClient):
    answer = client.post("/predict/batch?on_error=ignore", json={"cases": [GOOD]})
    assert refused_fields(answer) == [["query", "on_error"]]
    assert "'reject_all' or 'skip'" in answer.json()["detail"][0]["msg"]


# --- on_error=skip ----------------------------------------------------------------------------

MIXED = [
    GOOD,
    GOOD | {"monthly_fee": 501, "age": "x"},
    GOOD | {"age": 20},
    7,
    {},
    GOOD | {"entity_id": "last"},
]


def skipped(client: TestClient, cases: list[Any], **options: Any) -> Any:
    return client.post("/predict/batch?on_error=skip", json={"cases": cases}, **options)


def letters(installation: Installation) -> list[dict[str, Any]]:
    folder = installation.settings.prediction_log / "rejected"
    return [
        json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()
    ]


def test_the_valid_rows_are_answered_and_the_others_told(client: TestClient, installation: Installation):
    answer = skipped(client, MIXED)
    assert answer.status_code == 200
    told = answer.json()
    assert (told["count"], told["indices"], told["rejected_count"]) == (3, [0, 2, 5], 3)
    assert told["predictions"][2]["entity_id"] == "last"
    expected = [client.post("/predict", json=MIXED[i]).json()["probability"] for i in told["indices"]]
    assert [p["probability"] for p in told["predictions"]] == expected
    assert [(r["index"], r["loc"], r["problems"]) for r in told["rejected"]] == [
        (1, ["body", "cases", 1, "monthly_fee"], 2),
        (3, ["body", "cases", 3], 1),
        (4, ["body", "cases", 4, "monthly_fee"], 3),
    ]
    assert "less than or equal to 500" in told["rejected"][0]["msg"]

    kept = letters(installation)
    assert [(k["index"], k["case"]) for k in kept] == [(i, MIXED[i]) for i in (1, 3, 4)]
    assert "cases.1.monthly_fee: Input should be less than or equal to 500" in kept[0]["reason"]
    assert "cases.1.age:" in kept[0]["reason"]
    warehouse = open_warehouse(installation)
    log_ingestion.ingest(warehouse, installation.case, installation.settings.prediction_log)
    assert set(warehouse.query("select prediction_id from prediction_log")["prediction_id"]) >= {
        p["prediction_id"] for p in told["predictions"]
    }


def test_nothing_wrong_and_nothing_right(client: TestClient, installation: Installation):
    whole = skipped(client, [GOOD, GOOD]).json()
    assert (whole["count"], whole["indices"], whole["rejected_count"], whole["rejected"]) == (
        2,
        [0, 1],
        0,
        [],
    )
    assert not (installation.settings.prediction_log / "rejected").exists()
    none = skipped(client, [{}, {"age": "x" * 5000}])
    assert (none.status_code, none.json()["count"], none.json()["rejected_count"]) == (200, 0, 2)
    assert none.json()["predictions"] == []


def test_a_batch_of_nothing_or_too_much_is_refused_all_the_same(client: TestClient):
    for cases in ([], [GOOD] * 10_001):
        assert refused_fields(skipped(client, cases)) == [["body", "cases"]]


def test_ten_thousand_bad_rows_get_an_answer_of_bounded_size(client: TestClient, installation: Installation):
    answer = skipped(client, [{"age": "x" * 500, "city": 1, "plan": 2}] * 10_000)
    assert answer.json()["rejected_count"] == 10_000
    assert len(answer.content) < 3_000_000
    assert len(letters(installation)) == 10_000


def test_numbers_that_json_cannot_hold_reach_the_dead_letters_as_text(
    client: TestClient, installation: Installation
):
    rows = [
        changed(c)
        for c in ('"monthly_fee": NaN', '"balance": 1e400', f'"age": {10**30}', '"city": "\\ud800"')
    ]
    answer = post(client, "/predict/batch?on_error=skip", f'{{"cases": [{", ".join(rows)}]}}', {})
    assert answer.json()["rejected_count"] == 4
    kept = [k["case"] for k in letters(installation)]
    assert (kept[0]["monthly_fee"], kept[1]["balance"], kept[2]["age"]) == ("nan", "inf", 10**30)


def test_a_key_gives_the_rejected_rows_again(client: TestClient, installation: Installation):
    first, again = (skipped(client, MIXED, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.content == again.content
    assert len(letters(installation)) == 3


def test_a_used_id_is_a_bad_row_too(client: TestClient):
    own = GOOD | {"prediction_id": "own"}
    client.post("/predict", json=own)
    told = skipped(client, [GOOD, own | {"age": 1}, own, own]).json()
    assert told["indices"] == [0]
    assert [(r["index"], r["type"]) for r in told["rejected"]] == [
        (1, "reused_id"),
        (2, "repeated_id"),
        (3, "repeated_id"),
    ]
    assert skipped(client, [own]).json()["predictions"][0]["prediction_id"] == "own"


def test_dead_letters_that_cannot_be_written_withhold_the_answer(
    client: TestClient, installation: Installation
):
    installation.settings.prediction_log.mkdir(parents=True, exist_ok=True)
    (installation.settings.prediction_log / "rejected").touch()
    answer = skipped(client, MIXED)
    assert answer.status_code == 503
    assert "nothing was answered" in answer.json()["detail"]
    assert list(installation.settings.prediction_log.rglob("*.jsonl")) == []


# --- Unseen categories ------------------------------------------------------------------------

UNSEEN = GOOD | {"city": "Xanadu"}


@pytest.fixture
def refusing(installation: Installation, tmp_path: Path) -> Iterator[TestClient]:
    """The same installation, whose use case refuses unseen categories."""
    use_case = tmp_path / "refusing.yaml"
    use_case.write_text(YAML + "serving: {unseen_category: refuse}\n")
    settings = Settings(
        use_case=str(use_case),
        home=installation.settings.home,
        project=tmp_path,
        mlflow_tracking_uri=installation.settings.tracking_uri,
    )
    with TestClient(create_app(settings)) as client:
        yield client


def counts(client: TestClient) -> dict[str, int]:
    return client.get("/monitoring/stats").json()["service"]["counts"]


@pytest.mark.parametrize("way", WAYS, ids=["plain", "query", "key"])
def test_an_unseen_category_is_refused_where_the_use_case_says_so(refusing: TestClient, way: dict[str, Any]):
    single = post(refusing, "/predict", json.dumps(UNSEEN), way)
    batch = post(refusing, "/predict/batch", json.dumps({"cases": [GOOD, UNSEEN]}), way)
    assert refused_fields(single) == [["body", "city"]]
    assert refused_fields(batch) == [["body", "cases", 1, "city"]]
    assert single.json()["detail"][0]["type"] == "unseen_category"
    assert "not seen in training" in single.json()["detail"][0]["msg"]
    assert single.json()["detail"][0]["input"] == "Xanadu"
    assert counts(refusing)["unseen_categories_refused"] == 2
    assert post(refusing, "/predict", json.dumps(GOOD), way).status_code == 200


def test_a_skipped_unseen_category(refusing: TestClient):
    told = skipped(refusing, [UNSEEN, GOOD]).json()
    assert (told["indices"], told["rejected"][0]["loc"]) == ([1], ["body", "cases", 0, "city"])


@pytest.mark.parametrize("way", WAYS, ids=["plain", "query", "key"])
def test_else_it_is_missing_with_a_warning_and_counted(client: TestClient, way: dict[str, Any]):
    answer = post(client, "/predict", json.dumps(UNSEEN), way)
    (warning,) = answer.json()["warnings"]
    assert "'Xanadu' was not seen" in warning
    assert counts(client)["unseen_categories_as_missing"] == 1


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("model_verson=2", ["query", "model_verson"]),
        ("on_error=skip", ["query", "on_error"]),  # of batches only
        ("explain=true&explain=false", ["query", "explain"]),
    ],
)
def test_an_option_that_would_silently_not_apply_is_refused(client: TestClient, query: str, place: list[str]):
    answer = client.post(f"/predict?{query}", json=GOOD)
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, place)


def test_two_keys_for_one_request_are_refused(client: TestClient):
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = client.post("/predict", json=GOOD, headers=headers)
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["header", "Idempotency-Key"])
