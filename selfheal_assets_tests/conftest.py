"""One toy history, lived through by the command itself: killed twice, gone on with, and asked for once more."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from selfheal_assets.settings import Settings
from selfheal_assets_tests import toy

if TYPE_CHECKING:
    from selfheal_assets.defs.resources import Stores

COMMAND = [sys.executable, "-c", "from selfheal_assets.cli import main; main()"]


# Files whose tests stay in one process where several share them (pytest-xdist), as they share a fixture that takes a
# minute; the groups go first, the longest first, so that no process waits for another at the end.
_TOGETHER = {
    "lived": (
        "test_replay.py",
        "test_cli.py",
        "test_health.py",
        "test_no_future_label.py",
        "test_bad_chunks.py",
        "test_credit_view.py",
        "test_evidence_assets.py",
        "test_decisions.py",
        "test_status.py",
        "test_backtest.py",
    ),
    "shell": ("test_service.py", "test_shell.py", "test_ui.py", "test_runbook.py"),
    "openapi": ("test_openapi.py",),
    "shadow": ("test_shadow.py",),
}
_GROUP = {name: group for group, names in _TOGETHER.items() for name in names}


def _group(nodeid: str) -> str:
    path = nodeid.partition("::")[0]
    return _GROUP.get(path.rpartition("/")[2], path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long groups."""
    order = list(_TOGETHER)
    items.sort(key=lambda item: [*order, _group(item.nodeid)].index(_group(item.nodeid)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Processes take a group at a time: a file, or one of those above."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return ByGroup(config, log)


# What would redirect selfheal. MLflow sets variables of its own in a process in which it tracked a run.
REDIRECTING = ("SELFHEAL_", "MLFLOW_", "DAGSTER_HOME", "MONITORING_")


def environment(**values: str) -> dict[str, str]:
    """The process's environment without what would redirect selfheal, with these values."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(REDIRECTING)}
    path = os.pathsep.join(filter(None, [str(toy.PROJECT), kept.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path, "SELFHEAL_PROJECT": str(toy.PROJECT), "COLUMNS": "200"} | values


def selfheal(*arguments: str, **values: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], env=environment(**values), capture_output=True, text=True, timeout=240
    )


@dataclass(frozen=True)
class State:
    """What a replay leaves behind, as far as it must not change when it is run again."""

    predictions: pl.DataFrame
    labels: pl.DataFrame
    decisions: pl.DataFrame
    versions: list[dict[str, Any]]
    lived: list[Any]
    logged_segments: list[str]


def state_of(settings: Settings) -> State:
    """Read an installation that nobody writes."""
    from selfheal_assets.defs.resources import Stores

    stores = Stores(settings)
    query, lived = stores.warehouse.query, []
    if stores.warehouse.has("health_report"):
        lived = query("select chunk from health_report order by chunk")["chunk"].to_list()
    return State(
        query(
            "select entity_id, event_time, predicted_at, model_version, probability from prediction_log order by all"
        ),
        query("select entity_id, label, recorded_at from labels where source <> 'history' order by all"),
        query("select * from decisions order by id"),
        stores.registry.versions(),
        lived,
        sorted(p.name for p in settings.prediction_log.rglob("*.jsonl")),
    )


@dataclass(frozen=True)
class Lived:
    """The toy's history: ``states`` after each of two kills, after the end, and after asking again."""

    settings: Settings
    states: list[State]
    finished: subprocess.CompletedProcess[str]
    again: subprocess.CompletedProcess[str]

    def copied(self, home: Path) -> "Stores":
        """The installation as it was left, in another home, for tests that change it."""
        from selfheal_assets.defs.resources import Stores

        assert self.settings.home is not None
        shutil.copytree(self.settings.home, home)
        settings = self.settings.model_copy(update={"home": home})
        settings.__dict__.pop("root", None)  # cached for the first home, and copied with everything else
        assert settings.root.is_relative_to(home)
        return Stores(settings)


def _kill_when(ready: Callable[[], object], settings: Settings, **values: str) -> None:
    """Start a replay, and kill it outright as soon as ``ready`` holds."""
    log = settings.home / "killed.log"  # type: ignore[operator]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*COMMAND, "replay"], env=environment(**values), stdout=output, stderr=output
        )
        try:
            deadline = time.monotonic() + 120
            while not ready():
                assert process.poll() is None, f"ended before it could be killed:\n{log.read_text()}"
                assert time.monotonic() < deadline, f"never came that far:\n{log.read_text()}"
                time.sleep(0.002)
        finally:
            process.kill()
        assert process.wait() == -signal.SIGKILL


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """Killed with answers of the third chunk logged but not ingested, and while the first retraining trains."""
    folder = tmp_path_factory.mktemp("replayed")
    settings = toy.settings(folder)
    values = {"SELFHEAL_HOME": str(settings.home), "SELFHEAL_USE_CASE": settings.use_case}

    seen: set[str] = set()

    def third_chunk_is_logged() -> bool:
        seen.update(p.name for p in (settings.prediction_log / "ready").glob("*.jsonl"))
        return len(seen) == 3

    def second_model_is_trained() -> bool:
        return len(list(settings.artifact_root.glob("*/artifacts/model"))) == 2

    states = []
    for moment in (third_chunk_is_logged, second_model_is_trained):
        _kill_when(moment, settings, **values)
        states.append(state_of(settings))
    finished = selfheal("replay", **values)
    assert finished.returncode == 0, finished.stderr
    states.append(state_of(settings))
    again = selfheal("replay", **values)
    states.append(state_of(settings))
    return Lived(settings, states, finished, again)
