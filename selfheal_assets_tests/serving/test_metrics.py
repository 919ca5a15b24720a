"""Health, metrics and the statistics that the service tells: what is counted, once, by one process and by several."""

import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from selfheal_assets.serving.app import create_app
from selfheal_assets_tests.conftest import environment
from selfheal_assets_tests.serving.conftest import GOOD, Installation, settings_in

pytestmark = pytest.mark.integration

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    return {
        (s.name.removeprefix("selfheal_"), tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def asked(client: TestClient) -> None:
    """Three answered rows, one of them with a warning, a label, two refusals, and one thing that is not there."""
    assert client.post("/predict", json=GOOD).status_code == 200
    cases = [GOOD, GOOD | {"city": "Xanadu"}]
    assert client.post("/predict/batch", json={"cases": cases}).status_code == 200
    assert client.post("/labels", json={"entity_id": "a", "label": 1}).status_code == 202
    assert client.post("/predict", json={}).status_code == 422
    assert client.post("/predict", content=b"x", headers={"content-type": "text/plain"}).status_code == 415
    assert client.get("/nowhere/1").status_code == 404
    assert client.get("/nowhere/2").status_code == 404


def test_metrics_agree_with_what_was_asked(client: TestClient, installation: Installation):
    asked(client)
    client.get("/openapi.json")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = samples(answer.text)
    counts = {"prediction_requests": 2, "predictions": 3, "predictions_with_warnings": 1, "labels": 1}
    for name, count in (counts | {"refused_requests": 4, "unavailable_answers": 0}).items():
        assert value(found, f"{name}_total") == count, name
    for route, status, count in [
        ("/predict", "200", 1),
        ("/predict/batch", "200", 1),
        ("/predict", "422", 1),
        ("/predict", "415", 1),
        ("/labels", "202", 1),
        ("other", "404", 2),
        ("/openapi.json", "200", 1),
    ]:
        assert value(found, "request_seconds_count", route=route, status=status) == count
        assert 0 < value(found, "request_seconds_sum", route=route, status=status) < 10
    assert (value(found, "group_rows_count"), value(found, "group_rows_sum")) == (2, 3)
    assert value(found, "log_append_seconds_count") == 2
    assert value(found, "queued_requests") == 0
    assert value(found, "champion_version") == installation.versions[0]
    age = installation.settings.now() - installation.bundles[0].trained_until
    assert value(found, "champion_age_seconds") == pytest.approx(age.total_seconds(), abs=60)
    assert not [name for name, labels in found if "nowhere" in str(labels)], "clients make no series"


def test_the_statistics_give_the_same_counts(client: TestClient):
    asked(client)
    counts = client.get("/monitoring/stats").json()["service"]["counts"]
    expected = {
        "requests": 2,
        "predictions": 3,
        "predictions_with_warnings": 1,
        "labels": 1,
        "refused_requests": 4,
        "unavailable_answers": 0,
    }
    assert {name: counts[name] for name in expected} == expected


def test_each_application_counts_by_itself(installation: Installation):
    with (
        TestClient(create_app(installation.settings)) as one,
        TestClient(create_app(installation.settings)) as other,
    ):
        asked(one)
        assert value(samples(other.get("/metrics").text), "predictions_total") == 0


def test_without_a_champion_its_version_is_0_and_its_age_unknown(tmp_path: Path):
    with TestClient(create_app(settings_in(tmp_path))) as client:
        assert client.post("/predict", json=GOOD).status_code == 503
        found = samples(client.get("/metrics").text)
    assert value(found, "champion_version") == 0
    assert value(found, "champion_age_seconds") != value(found, "champion_age_seconds"), "NaN"
    assert value(found, "unavailable_answers_total") == 1


WORKER = """
import os, sys
from fastapi.testclient import TestClient
from selfheal_assets.serving.app import create_app
from selfheal_assets.settings import Settings
from selfheal_assets_tests.serving.conftest import GOOD
with TestClient(create_app(Settings())) as client:
    for line in sys.stdin:
        for _ in range(int(line)):
            assert client.post("/predict", json=GOOD).status_code == 200
        counts = client.get("/monitoring/stats").json()["service"]["counts"]
        print(repr((counts["predictions"], client.get("/metrics").text)), flush=True)
"""


@pytest.mark.long
def test_one_of_several_workers_answers_for_all_and_counts_its_own(
    installation: Installation, tmp_path: Path
):
    """The parent shares the folder, as a supervisor of workers does, and each worker is a process of its own."""
    settings = installation.settings
    program = "from selfheal_assets.settings import share_metrics; from pathlib import Path; import os, sys;"
    program += (
        "share_metrics(Path(sys.argv[1])); os.execv(sys.executable, [sys.executable, '-c', sys.argv[2]])"
    )
    values = {
        "SELFHEAL_HOME": str(settings.home),
        "SELFHEAL_USE_CASE": settings.use_case,
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
    }
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "gauge_livesum_1.db").write_bytes(b"left behind")
    first = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), WORKER],
        env=environment(**values),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    second = None
    try:
        assert answered(first, 2)[0] == 2
        second = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=environment(**values, PROMETHEUS_MULTIPROC_DIR=str(folder)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        own, text = answered(second, 3)
        assert own == 3
        found = samples(text)
        assert value(found, "predictions_total") == 5
        assert value(found, "request_seconds_count", route="/predict", status="200") == 5
        assert value(found, "group_rows_sum") == 5
        assert value(found, "champion_version") == installation.versions[0]
        assert value(found, "queued_requests") == 0
        assert len(list(folder.glob("gauge_livesum_*.db"))) == 2
        first.kill()
        first.wait()
        own, text = answered(second, 0)
        assert value(samples(text), "predictions_total") == 5, "what was counted stays counted"
        assert len(list(folder.glob("gauge_livesum_*.db"))) == 1, "a dead worker's queue is forgotten"
    finally:
        for process in filter(None, (first, second)):
            process.kill()
            process.communicate()


def answered(process: "subprocess.Popen[str]", requests: int) -> tuple[int, str]:
    import ast

    assert process.stdin and process.stdout
    process.stdin.write(f"{requests}\n")
    process.stdin.flush()
    return ast.literal_eval(process.stdout.readline())


# --- Health -----------------------------------------------------------------------------------


def test_live_and_ready(client: TestClient):
    live, ready = client.get("/health/live"), client.get("/health/ready")
    assert (live.status_code, live.json()) == (200, {"status": "live"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "reasons": []})


def test_without_a_champion_it_lives_but_is_not_ready(tmp_path: Path):
    with TestClient(create_app(settings_in(tmp_path))) as client:
        assert client.get("/health/live").status_code == 200
        ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "unready")
    [reason] = ready.json()["reasons"]
    assert "selfheal replay" in reason
