"""A real daemon: a failed check, one retraining, the gates, and the service on the new champion; also when killed."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from selfheal_assets.core.decision import WITHHELD
from selfheal_assets.defs.home import prepare_dagster_home, replay_instance
from selfheal_assets.defs.resources import WINDOW_TAG, Stores
from selfheal_assets.defs.retraining_rule import RETRAIN_JOB, next_retraining
from selfheal_assets.replay import Replay
from selfheal_assets.settings import Settings
from selfheal_assets.stores import decision_ledger
from selfheal_assets_tests import toy
from selfheal_assets_tests.e2e.conftest import (
    STARTS_WITHIN_S,
    Program,
    answers,
    free_port,
    started,
    wait_until,
)

pytestmark = [pytest.mark.e2e, pytest.mark.long]

NOW, WINDOW, HEALS_WITHIN_S = datetime(2021, 1, 1), "2020-10-01", 240


class Unhealed(Replay):
    """Serves and monitors, and leaves the healing to the daemon."""

    def _heal(self, as_of: datetime) -> dict[str, Any] | None:
        return None


class Home:
    """An installation whose world has turned round, with the failed checks in Dagster's own history."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.values = {
            "SELFHEAL_HOME": str(self.settings.home),
            "SELFHEAL_USE_CASE": self.settings.use_case,
            "SELFHEAL_AS_OF": NOW.isoformat(),
            "DAGSTER_HOME": str(prepare_dagster_home(self.settings.dagster_home)),
        }
        self.instance = replay_instance(self.settings.dagster_home)

    def retrainings(self) -> list[dg.DagsterRun]:
        """Those that the daemon started, newest first."""
        runs = self.instance.get_runs(dg.RunsFilter(job_name=RETRAIN_JOB))
        return [run for run in runs if WINDOW_TAG in run.tags]

    def ended(self, status: dg.DagsterRunStatus) -> list[dg.DagsterRun]:
        return [run for run in self.retrainings() if run.status is status]

    def dev(self, log: str):
        line = f"dagster dev -w workspace.yaml -h 127.0.0.1 -p {free_port()}"
        return started(line, self.folder / log, **self.values)


@pytest.fixture(scope="module")
def unhealed(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("unhealed")
    made = Home(toy.settings(folder), folder)
    replay = Unhealed(made.settings, made.instance)
    with replay.stores.warehouse.kept_open():
        for _ in replay.run():
            pass
    made.instance.dispose()
    return made.settings


@pytest.fixture(params=["left alone", "killed in mid-retraining"])
def home(unhealed: Settings, tmp_path: Path) -> Iterator[Home]:
    """A copy of it, with a Dagster home that knows where it lies now."""
    assert unhealed.home is not None
    shutil.copytree(unhealed.home, tmp_path / "home")
    settings = Settings(
        use_case=unhealed.use_case,
        home=tmp_path / "home",
        project=toy.PROJECT,
        as_of=None,
        mlflow_tracking_uri=None,
    )
    (settings.dagster_home / "dagster.yaml").unlink()
    made = Home(settings, tmp_path)
    yield made
    made.instance.dispose()


def kill_everything(program: Program) -> None:
    """The daemon, its code servers and its run workers at once, as when the power fails: a group of our own."""
    os.killpg(program.process.pid, signal.SIGKILL)
    program.process.wait()


def test_a_failed_check_leads_to_exactly_one_retraining_and_the_service_follows(
    home: Home, request: pytest.FixtureRequest
):
    due = next_retraining(home.instance, home.settings.case)
    assert getattr(due, "window", due) == WINDOW
    before = decision_ledger.history(Stores(home.settings).warehouse)

    if "killed" in request.node.callspec.params["home"]:
        with home.dev("killed.log") as program:
            wait_until(lambda: home.ended(dg.DagsterRunStatus.STARTED), HEALS_WITHIN_S, program)
            kill_everything(program)
        assert home.ended(dg.DagsterRunStatus.SUCCESS) == [], "it was killed before it was done"
    with home.dev("dev.log") as program:
        wait_until(lambda: home.ended(dg.DagsterRunStatus.SUCCESS), HEALS_WITHIN_S, program)
        time.sleep(20)  # another tick of the sensor at least, which finds nothing to do
    [done] = home.ended(dg.DagsterRunStatus.SUCCESS)
    others = [run.status for run in home.retrainings() if run.run_id != done.run_id]
    killed = "killed" in request.node.callspec.params["home"]
    assert others == [dg.DagsterRunStatus.FAILURE] * killed, "the one that was killed, and no other"
    assert done.tags[WINDOW_TAG] == WINDOW

    stores = Stores(home.settings)
    decided = decision_ledger.history(stores.warehouse)[before.height :].to_dicts()
    [decision] = [d for d in decided if d["action"] not in [a.value for a in WITHHELD]]
    assert decision["action"] in ("PROMOTE", "REJECT", "INCONCLUSIVE")
    champion = decision["challenger"] if decision["action"] == "PROMOTE" else decision["champion"]
    assert stores.registry.champion() == champion
    port = free_port()
    with started(f"selfheal serve --port {port}", home.folder / "serve.log", **home.values) as program:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/health"), STARTS_WITHIN_S, program)
        assert httpx.get(f"{url}/model/info").json()["model_version"] == champion
