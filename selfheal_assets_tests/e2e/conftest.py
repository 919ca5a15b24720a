"""Programs as a user starts them, and the shipped loans after the README's lines, with DAGSTER_HOME and without."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from selfheal_assets.settings import Settings, prepare_environment
from selfheal_assets_tests.conftest import environment
from selfheal_assets_tests.toy import PROJECT

if TYPE_CHECKING:
    from selfheal_assets.defs.resources import Stores

prepare_environment()  # before Dagster and XGBoost are imported

MATERIALIZE = "dagster asset materialize -m selfheal_assets.definitions --select"
REFERENCE = f"{MATERIALIZE} reference_data"
MONITOR = f"{MATERIALIZE} 'prediction_log,labels,drift_report' --partition 2002-01-01"
RETRAIN = f"{MATERIALIZE} 'shadow_models,shadow_evaluation,promotion_decision,production_model'"
README = PROJECT / "README.md"
ENDS_WITHIN_S, STARTS_WITHIN_S = 180, 60


@dataclass
class Program:
    """A running command line and what it has printed so far."""

    line: str
    process: subprocess.Popen[bytes]
    log: Path

    def printed(self, characters: int = 4000) -> str:
        """The end of its output, for a failure's message."""
        return f"$ {self.line}\n{self.log.read_text(errors='replace')[-characters:]}"


@contextmanager
def started(line: str, log: Path, **values: str) -> Iterator[Program]:
    """Run a line in a shell, in the checkout; whatever it started has ended when this does."""
    own = environment(**values)
    own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), own["PATH"]])
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {line}"],
            cwd=PROJECT,
            env=own,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a group of its own, so that its children can be ended with it
        )
        try:
            yield Program(line, process, log)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def shell(line: str, log: Path, **values: str) -> str:
    """Run a line to its end, which must be a success; returns what it printed."""
    with started(line, log, **values) as program:
        try:
            code = program.process.wait(timeout=ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"not done within {ENDS_WITHIN_S} s:\n{program.printed()}")
        assert code == 0, f"exit code {code}:\n{program.printed()}"
    return log.read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(holds: Callable[[], object], seconds: float, program: Program) -> None:
    """Return when ``holds()``; fail after ``seconds``, or when the program has ended, with what it printed."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert program.process.poll() is None, f"ended too early:\n{program.printed()}"
        assert time.monotonic() < deadline, f"not within {seconds} s:\n{program.printed()}"
        time.sleep(0.1)


def answers(url: str) -> bool:
    """Whether the address answers with success."""
    try:
        return httpx.get(url, timeout=10).is_success
    except httpx.TransportError:
        return False


@dataclass(frozen=True)
class Installation:
    """One home after the three lines: what each printed, and the champion that they left."""

    settings: Settings
    folder: Path
    values: dict[str, str]
    printed: list[str]
    champion: int | None

    @property
    def stores(self) -> "Stores":
        """Opened anew, since other processes write in between."""
        from selfheal_assets.defs.resources import Stores

        return Stores(self.settings)


def settings_of(home: Path, use_case: str = "sba_loans", project: Path = PROJECT) -> Settings:
    """The settings that the programs find in their environment."""
    return Settings(use_case=use_case, home=home, project=project, as_of=None, mlflow_tracking_uri=None)


def after_three_lines(folder: Path, **values: str) -> Installation:
    """The README's lines one after another, on an empty home under ``folder``."""
    from selfheal_assets.defs.resources import Stores

    settings = settings_of(folder / "home")
    values = {"SELFHEAL_HOME": str(folder / "home"), **values}
    lines = (REFERENCE, MONITOR, RETRAIN)
    printed = [shell(line, folder / f"line_{n}.log", **values) for n, line in enumerate(lines, 1)]
    return Installation(settings, folder, values, printed, Stores(settings).registry.champion())


@pytest.fixture(scope="session")
def without_dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return after_three_lines(tmp_path_factory.mktemp("unset"))


@pytest.fixture(scope="session")
def with_dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The user's own Dagster home: an empty folder."""
    folder = tmp_path_factory.mktemp("set")
    (folder / "dagster").mkdir()
    return after_three_lines(folder, DAGSTER_HOME=str(folder / "dagster"))
