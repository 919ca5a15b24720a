"""Shadow scoring by real processes: whatever a shadow does, the answers stay the same to the last byte."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from selfheal_assets.core.decision import Action
from selfheal_assets.serving import shadow as shadows
from selfheal_assets.serving.metrics import Metrics
from selfheal_assets.serving.shadow import NICENESS, Shadow, Target
from selfheal_assets.settings import Settings
from selfheal_assets.stores import log_ingestion
from selfheal_assets.stores.model_registry import QUARANTINED
from selfheal_assets.stores.prediction_log import Role
from selfheal_assets.stores.tables import create_tables
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets_tests.serving import test_hot_swap
from selfheal_assets_tests.serving.conftest import YAML, Installation, generate
from selfheal_assets_tests.serving.test_hot_swap import Server, wait_until

SINGLE, BATCHES, BATCH_ROWS = 460, 40, 5
ROWS = SINGLE + BATCHES * BATCH_ROWS
NOTICED_WITHIN_S = 150  # a shadow steps back where the machine is busy

# Python runs this at the start of every process that finds it; it spoils the shadow's scoring alone.
SPOILED = """
import sys
if "selfheal_assets.serving.shadow_worker" in sys.orig_argv:
    import os, time
    from selfheal_assets.core.bundle import Bundle
    def score_matrix(self, matrix):
        {misdeed}
    Bundle.score_matrix = score_matrix
"""
MISDEEDS = {"raises": "raise RuntimeError('no')", "sleeps": "time.sleep(30)", "exits": "os._exit(3)"}


def settings_with_shadow(installation: Installation, folder: Path, who: str) -> Settings:
    folder.mkdir(parents=True, exist_ok=True)
    use_case = folder / "subscriptions.yaml"
    use_case.write_text(f"{YAML}serving: {{shadow: {who}}}\n")
    uri = installation.settings.tracking_uri
    return Settings(use_case=str(use_case), home=folder / "home", project=folder, mlflow_tracking_uri=uri)


@contextmanager
def serving(settings: Settings, misdeed: str | None = None) -> Iterator[Server]:
    """A service with a shadow that does something wrong; it is told to end, and does."""
    path = os.environ.get("PYTHONPATH", "")
    if misdeed:
        spoil = settings.project / "spoil"
        spoil.mkdir()
        (spoil / "sitecustomize.py").write_text(SPOILED.format(misdeed=MISDEEDS[misdeed]))
        path = f"{spoil}{os.pathsep}{path}"
    with test_hot_swap.serving(settings, settings.project, PYTHONPATH=path) as server:
        yield server
        server.process.terminate()
        server.process.wait(30)


def answers_of(server: Server) -> list[str]:
    """500 requests' answers, but for the ids that are drawn anew for each row."""
    cases = generate(ROWS, 5).drop("label", "event_time").to_dicts()
    bodies: list[tuple[str, Any]] = [("/predict", case) for case in cases[:SINGLE]]
    bodies += [
        ("/predict/batch", {"cases": cases[i : i + BATCH_ROWS]}) for i in range(SINGLE, ROWS, BATCH_ROWS)
    ]
    with httpx.Client(base_url=server.url, timeout=10) as client:
        answers = [client.post(path, json=body) for path, body in bodies]
    assert {a.status_code for a in answers} == {200}
    return [re.sub(r'"[0-9a-f]{32}-\d+"', '"id"', a.text) for a in answers]


def shadow_of(server: Server) -> dict[str, Any]:
    return httpx.get(f"{server.url}/health").json()["shadow"]


def children(process: int) -> list[int]:
    """Processes that a process has started."""
    listed = [p.read_text().split() for p in Path(f"/proc/{process}/task").glob("*/children")]
    return [int(child) for each in listed for child in each]


def ingested(settings: Settings) -> Warehouse:
    warehouse = Warehouse(settings.warehouse_path, settings.published)
    create_tables(warehouse, settings.case)
    log_ingestion.ingest(warehouse, settings.case, settings.prediction_log)
    assert log_ingestion.ingest(warehouse, settings.case, settings.prediction_log).rows_added == 0
    return warehouse


@pytest.fixture(scope="module")
def alone(registered: Installation, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What is answered where nobody scores in shadow."""
    registered.registry.move_champion(registered.versions[0])
    with serving(settings_with_shadow(registered, tmp_path_factory.mktemp("alone"), "nobody")) as server:
        assert shadow_of(server) is None
        assert children(server.process.pid) == []
        return answers_of(server)


@pytest.mark.integration
def test_a_challenger_scores_the_same_rows_and_changes_no_answer(
    alone: list[str], installation: Installation, tmp_path: Path
):
    champion, challenger = installation.versions
    settings = settings_with_shadow(installation, tmp_path, "challenger")
    with serving(settings) as server:
        assert answers_of(server) == alone
        wait_until(lambda: shadow_of(server)["rows_scored"] == ROWS, NOTICED_WITHIN_S)
        (child,) = children(server.process.pid)
        assert os.getpriority(os.PRIO_PROCESS, child) == NICENESS
        assert shadow_of(server) == {
            "role": "challenger",
            "model_version": challenger,
            "rows_scored": ROWS,
            "rows_dropped": 0,
            "failures": 0,
            "problem": None,
        }
    assert list((settings.prediction_log / "open").glob("*")) == [], "both have sealed their segments"

    warehouse = ingested(settings)
    rows = warehouse.query(
        """select c.*, s.prediction_id as shadow_id, s.probability as theirs, s.prediction as their_prediction,
                  s.threshold as their_threshold, s.model_version as their_version, s.role as their_role,
                  s.model_fingerprint as their_fingerprint
           from prediction_log c join prediction_log s
             on s.prediction_id = c.prediction_id || '~' || s.model_version
                and s.entity_id = c.entity_id and s.predicted_at = c.predicted_at
                and s.monthly_fee = c.monthly_fee and s.city = c.city"""
    )
    assert rows.height == ROWS
    assert warehouse.query("select count(*) as n from prediction_log")["n"][0] == 2 * ROWS
    assert set(rows["role"]) == {"champion"}
    assert set(rows["model_version"]) == {champion}
    bundle = installation.bundles[1]
    assert set(rows["their_role"]) == {"challenger"}
    assert set(rows["their_version"]) == {challenger}
    assert set(rows["their_fingerprint"]) == {bundle.fingerprint}
    np.testing.assert_array_equal(rows["theirs"], bundle.score(rows))
    np.testing.assert_array_equal(rows["their_prediction"], rows["theirs"] >= bundle.threshold)
    assert (rows["theirs"] != rows["probability"]).any()
    cases = warehouse.query("select * from labelled_cases(timestamp '9999-01-01')")
    assert cases.height == ROWS, "a case is no case twice for having been scored twice"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("misdeed", "told"),
    [
        pytest.param("raises", "it cannot score: RuntimeError: no", marks=pytest.mark.long),
        pytest.param("sleeps", "it did not answer within 10 s", marks=pytest.mark.long),
        ("exits", "its process ended (exit code 3)"),
    ],
)
def test_a_challenger_that_fails_changes_no_answer(
    alone: list[str], installation: Installation, tmp_path: Path, misdeed: str, told: str
):
    settings = settings_with_shadow(installation, tmp_path, "challenger")
    with serving(settings, misdeed) as server:
        assert answers_of(server) == alone
        wait_until(lambda: shadow_of(server)["failures"] > 0, NOTICED_WITHIN_S)
        assert answers_of(server) == alone
        status = shadow_of(server)
        assert status["problem"] == told
        assert status["rows_scored"] == 0
        assert status["rows_dropped"] > 0
        assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    assert set(ingested(settings).query("select role from prediction_log")["role"]) == {"champion"}


@pytest.mark.integration
@pytest.mark.long
def test_a_killed_shadow_is_started_again_and_goes_on(installation: Installation, tmp_path: Path):
    with serving(settings_with_shadow(installation, tmp_path, "challenger")) as server:
        answers_of(server)
        wait_until(lambda: shadow_of(server)["rows_scored"] == ROWS, NOTICED_WITHIN_S)
        (child,) = children(server.process.pid)
        os.kill(child, signal.SIGKILL)
        answers_of(server)
        wait_until(lambda: shadow_of(server)["failures"] == 1, NOTICED_WITHIN_S)
        seen = shadow_of(server)["rows_scored"] + shadow_of(server)["rows_dropped"]
        answers_of(server)
        wait_until(lambda: shadow_of(server)["rows_scored"] > seen, NOTICED_WITHIN_S)
        assert shadow_of(server)["problem"] is None


@pytest.mark.integration
@pytest.mark.long
def test_a_shadow_does_not_outlive_its_server_even_if_it_hangs(installation: Installation, tmp_path: Path):
    with serving(settings_with_shadow(installation, tmp_path, "challenger"), "sleeps") as server:
        answers_of(server)
        wait_until(lambda: children(server.process.pid), NOTICED_WITHIN_S)
        time.sleep(2)
        (child,) = children(server.process.pid)
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not is_running(child), 20)


def is_running(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


# --- Who scores in shadow ---------------------------------------------------------------------


class StubRegistry:
    """Aliases and tags in memory."""

    def __init__(self, **aliases: int) -> None:
        self.aliases, self.quarantined = aliases, {}

    def aliased(self, alias: str) -> int | None:
        return self.aliases.get(alias)

    def champion(self) -> int | None:
        return self.aliased("champion")

    def tags(self, version: int) -> dict[str, str]:
        return {QUARANTINED: self.quarantined[version]} if version in self.quarantined else {}


@pytest.fixture
def registry() -> StubRegistry:
    return StubRegistry(champion=3, challenger=4, previous_champion=2)


def shadow(registry: StubRegistry, folder: Path, who: str) -> Shadow:
    (folder / "case.yaml").write_text(f"{YAML}serving: {{shadow: {who}}}\n")
    settings = Settings(use_case=str(folder / "case.yaml"), home=folder / "home", project=folder)
    return Shadow(settings, registry, Metrics(settings.wall_clock()))  # pyright: ignore


def chosen(registry: StubRegistry, folder: Path, who: str) -> int | None:
    followed = shadow(registry, folder, who)
    followed.refresh()
    return followed.status()["model_version"]


def publish_decisions(folder: Path, *decisions: tuple[int, Action]) -> None:
    published = folder / "home" / "subscriptions" / "published"
    published.mkdir(parents=True)
    rows = [{"challenger": version, "action": action.value} for version, action in decisions]
    pl.DataFrame(rows).write_parquet(published / "decisions.parquet")


def test_the_use_case_says_who(registry: StubRegistry, tmp_path: Path):
    assert [chosen(registry, tmp_path, who) for who in ("challenger", "predecessor", "nobody")] == [
        4,
        2,
        None,
    ]


def test_a_promoted_challenger_is_no_challenger(registry: StubRegistry, tmp_path: Path):
    registry.aliases["challenger"] = 3
    assert chosen(registry, tmp_path, "challenger") is None


@pytest.mark.parametrize("who", ["challenger", "predecessor"])
def test_a_quarantined_version_does_not_score(registry: StubRegistry, tmp_path: Path, who: str):
    registry.quarantined = {2: "harm", 4: "harm"}
    assert chosen(registry, tmp_path, who) is None


def test_a_rejected_challenger_does_not_score_and_an_undecided_one_does(
    registry: StubRegistry, tmp_path: Path
):
    publish_decisions(tmp_path, (3, Action.reject), (4, Action.inconclusive))
    assert chosen(registry, tmp_path, "challenger") == 4
    registry.aliases |= {"challenger": 3, "champion": 1}
    assert chosen(registry, tmp_path, "challenger") is None


def test_the_last_decision_about_a_challenger_counts(registry: StubRegistry, tmp_path: Path):
    publish_decisions(tmp_path, (4, Action.reject), (4, Action.inconclusive))
    assert chosen(registry, tmp_path, "challenger") == 4


def test_a_registry_that_fails_is_told_once(
    registry: StubRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    followed = shadow(registry, tmp_path, "challenger")
    followed.refresh()
    found, registry.aliased = registry.aliased, lambda alias: 1 / 0  # type: ignore[method-assign]
    followed.refresh()
    followed.refresh()
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1
    status = followed.status()
    assert "ZeroDivisionError" in status["problem"]
    assert status["model_version"] == 4, "whoever scored goes on"
    registry.aliased = found  # type: ignore[method-assign]
    followed.refresh()
    assert followed.status()["problem"] is None


def test_what_a_slow_shadow_cannot_take_is_dropped_and_counted(
    registry: StubRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shadows, "MAX_QUEUED_ROWS", 10)
    waiting = shadow(registry, tmp_path, "challenger")
    waiting.offer(b"nobody scores yet", 3)
    waiting.refresh()
    assert Target(Role.challenger, 4) == waiting._target
    for _ in range(5):
        waiting.offer(b"line", 3)
    assert (len(waiting._queue), waiting.status()["rows_dropped"]) == (3, 6)
