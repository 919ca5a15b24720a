"""Scoring with a named version, and reasons: what is asked by query, over HTTP, in process."""

import math
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient

from selfheal_assets.core.encoding import ColumnEncoder
from selfheal_assets.core.explanation import MAX_REASONS
from selfheal_assets.serving.app import create_app
from selfheal_assets.serving.models import Model, made_ready
from selfheal_assets.serving.requested import KEPT_VERSIONS, VersionUnavailable
from selfheal_assets.serving.scoring import ScoringService
from selfheal_assets.settings import Settings
from selfheal_assets.stores import log_ingestion
from selfheal_assets.stores.chunks import serving_version
from selfheal_assets.stores.model_registry import QUARANTINED, ModelRegistry
from selfheal_assets.stores.prediction_log import PredictionLog
from selfheal_assets.stores.tables import create_tables
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets_tests.serving.conftest import GOOD, Installation, generate, settings_in

pytestmark = pytest.mark.integration
HIGH = GOOD | {"monthly_fee": 480.0, "visits": 1}


def problem(answer: Any) -> tuple[int, dict[str, Any]]:
    (told,) = answer.json()["detail"]
    return answer.status_code, told


# --- ?model_version ---------------------------------------------------------------------------


def test_a_named_version_answers_by_its_own_bundle(client: TestClient, installation: Installation):
    for version, bundle in zip(installation.versions, installation.bundles, strict=True):
        answer = client.post(f"/predict?model_version={version}", json=GOOD).json()
        assert answer["model_version"] == version
        assert answer["model_fingerprint"] == bundle.fingerprint
        assert answer["probability"] == float(bundle.score(pl.DataFrame([GOOD]))[0])
        assert answer["threshold"] == bundle.threshold
    many = client.post(
        f"/predict/batch?model_version={installation.versions[1]}", json={"cases": [GOOD, HIGH]}
    )
    assert [a["model_version"] for a in many.json()["predictions"]] == [installation.versions[1]] * 2


def test_a_requested_answer_is_logged_and_is_no_production(client: TestClient, installation: Installation):
    champion, other = installation.versions
    ours = client.post("/predict", json=GOOD | {"entity_id": "production"}).json()
    asked = [client.post(f"/predict?model_version={v}", json=GOOD).json() for v in (champion, other)]
    client.__exit__(None, None, None)
    settings = installation.settings
    warehouse = Warehouse(settings.warehouse_path, settings.published)
    create_tables(warehouse, installation.case)
    log_ingestion.ingest(warehouse, installation.case, settings.prediction_log)
    rows = warehouse.query("select prediction_id, role, model_version from prediction_log").rows()
    assert sorted(rows) == sorted(
        [(ours["prediction_id"], "champion", champion)]
        + [(a["prediction_id"], "requested", a["model_version"]) for a in asked]
    ), "even where the champion was asked for by its number"
    cases = warehouse.query("select entity_id from labelled_cases(timestamp '9999-01-01')")
    assert cases["entity_id"].to_list() == ["production"]
    day = installation.settings.now().replace(year=2000), installation.settings.now().replace(year=2100)
    assert serving_version(warehouse, *day) == champion


def test_an_unknown_version_is_404_and_names_the_known(client: TestClient, installation: Installation):
    status, told = problem(client.post("/predict?model_version=99", json=GOOD))
    assert (status, told["type"], told["loc"]) == (404, "unknown_version", ["query", "model_version"])
    known = [str(found["version"]) for found in installation.registry.versions()]
    assert told["msg"].endswith(f"that there are: {', '.join(known)}")
    assert not installation.settings.prediction_log.joinpath("ready").exists()


def test_a_quarantined_version_is_409_as_soon_as_it_is_one(client: TestClient, installation: Installation):
    version, registry = installation.versions[1], installation.registry
    url = f"/predict?model_version={version}"
    assert client.post(url, json=GOOD).status_code == 200
    registry.tag(version, QUARANTINED, "it did harm")
    try:
        status, told = problem(client.post(url, json=GOOD))
    finally:
        registry._client.delete_model_version_tag(registry.model, str(version), QUARANTINED)
    assert (status, told["type"]) == (409, "quarantined_version")
    assert told["msg"] == f"version {version} is quarantined: it did harm"


@pytest.mark.parametrize("given", ["0", "-1", "two", "2147483648", "1.5"])
def test_what_is_no_version_is_refused(client: TestClient, given: str):
    status, told = problem(client.post(f"/predict?model_version={given}", json=GOOD))
    assert (status, told["loc"]) == (422, ["query", "model_version"])


def test_a_version_is_answered_without_any_champion(installation: Installation, tmp_path):
    """The rollback's drill: nothing is promoted, and a version can be looked at."""
    from selfheal_assets_tests.serving.conftest import fit, register

    settings = settings_in(tmp_path / "fresh")
    registry = ModelRegistry(settings)
    version = register(registry, settings, fit(settings.case, 1))
    with TestClient(create_app(settings)) as client:
        assert client.post("/predict", json=GOOD).status_code == 503
        assert client.post(f"/predict?model_version={version}", json=GOOD).status_code == 200


class CountingRegistry:
    """Versions in memory, and how often each was fetched."""

    def __init__(self, bundle) -> None:
        self.bundle, self.fetched, self.broken = bundle, [], False

    def versions(self) -> list[dict[str, Any]]:
        if self.broken:
            raise ConnectionError("gone")
        return [{"version": v} for v in range(1, 30)]

    def tags(self, version: int) -> dict[str, str]:
        return {}

    def fetch(self, version: int):
        self.fetched.append(version)
        return self.bundle


@pytest.fixture
def counting(registered: Installation) -> CountingRegistry:
    return CountingRegistry(registered.bundles[0])


@pytest.fixture
def service(counting: CountingRegistry, registered: Installation, tmp_path) -> ScoringService:
    return ScoringService(counting, PredictionLog(tmp_path), registered.case)  # pyright: ignore


def test_the_last_few_versions_stay_loaded(service: ScoringService, counting: CountingRegistry):
    for version in (*range(1, KEPT_VERSIONS + 1), 1, KEPT_VERSIONS + 1, 1, 2):
        assert service.requested(version).version == version
    assert counting.fetched == [*range(1, KEPT_VERSIONS + 2), 2], "2 was the one asked for longest ago"


def test_a_registry_that_fails_is_told(service: ScoringService, counting: CountingRegistry):
    counting.broken = True
    with pytest.raises(VersionUnavailable, match="ConnectionError: gone"):
        service.requested(1)


def test_a_version_is_warm_before_it_answers(monkeypatch: pytest.MonkeyPatch, registered: Installation):
    """Encoder, both ways of scoring and the reasons are tried when it is loaded: no request pays for it."""
    cold = Model(1, type(registered.bundles[0]).from_files(registered.bundles[0].to_files()))
    model = made_ready(cold, registered.case)
    assert isinstance(vars(model)["encoder"], ColumnEncoder)
    assert "_model" in vars(model.bundle)
    monkeypatch.setattr(type(model.bundle), "contributions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made_ready(model, registered.case)


# --- ?explain ---------------------------------------------------------------------------------


def assert_adds_up(answer: dict[str, Any]) -> None:
    given = answer["explanation"]
    total = given["base"] + sum(r["contribution"] for r in given["reasons"]) + given["rest"]
    assert abs(1 / (1 + math.exp(-total)) - answer["probability"]) < 1e-6
    assert abs(total - given["log_odds"]) < 1e-6


def test_reasons_add_up_to_the_score(client: TestClient):
    answer = client.post("/predict?explain=true", json=HIGH).json()
    assert_adds_up(answer)
    reasons = {r["feature"]: r for r in answer["explanation"]["reasons"]}
    assert (reasons["monthly_fee"]["value"], reasons["monthly_fee"]["text"]) == (480.0, "Fee (EUR)")
    assert (reasons["visits"]["value"], reasons["visits"]["text"]) == (1, "visits")
    assert all(r["contribution"] > 0 for r in reasons.values())


def test_each_case_of_a_batch_is_explained_by_its_own_values(client: TestClient, installation: Installation):
    cases = generate(60, 3).drop("label", "event_time").to_dicts()
    answers = client.post("/predict/batch?explain=true", json={"cases": cases}).json()["predictions"]
    for case, answer in zip(cases, answers, strict=True):
        assert_adds_up(answer)
        reasons = answer["explanation"]["reasons"]
        assert len(reasons) <= MAX_REASONS
        assert all(r["value"] == case[r["feature"]] for r in reasons)


def test_an_explained_answer_is_the_answer_and_reasons(client: TestClient):
    plain = client.post("/predict", json=HIGH | {"entity_id": "a"})
    asked = client.post("/predict?explain=true", json=HIGH | {"entity_id": "a"}).json()
    off = client.post("/predict?explain=false", json=HIGH | {"entity_id": "a"})
    assert "explanation" not in plain.json()
    del asked["explanation"]
    for answer in (asked, off.json()):
        assert answer | {"prediction_id": ""} == plain.json() | {"prediction_id": ""}


def test_a_named_version_explains_itself(client: TestClient, installation: Installation):
    asked = [
        client.post(f"/predict?explain=true&model_version={v}", json=HIGH).json()
        for v in installation.versions
    ]
    for answer in asked:
        assert_adds_up(answer)
    assert asked[0]["explanation"] != asked[1]["explanation"]


def test_missing_and_unseen_values_are_told_as_given(client: TestClient):
    for city in (None, "Xanadu"):
        answer = client.post("/predict?explain=true", json=HIGH | {"city": city}).json()
        assert_adds_up(answer)
        told = {r["feature"]: r["value"] for r in answer["explanation"]["reasons"]}
        assert told.get("city", city) == city


def test_the_use_case_words_the_reasons(installation: Installation, tmp_path):
    from selfheal_assets_tests.serving.conftest import YAML

    worded = YAML.replace("description: Fee (EUR)}", "description: Fee (EUR), reason: The fee is high}")
    (tmp_path / "worded.yaml").write_text(worded)
    uri = installation.settings.tracking_uri
    settings = Settings(
        use_case=str(tmp_path / "worded.yaml"), home=tmp_path / "h", project=tmp_path, mlflow_tracking_uri=uri
    )
    with TestClient(create_app(settings)) as client:
        answer = client.post("/predict?explain=true", json=HIGH).json()
    texts = {r["feature"]: r["text"] for r in answer["explanation"]["reasons"]}
    assert texts["monthly_fee"] == "The fee is high"
