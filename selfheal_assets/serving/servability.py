"""Whether a registered bundle serves: a process that trained nothing loads it as the service does, and scores.

The process is ``servability_worker``. It stays warm, as its imports take seconds, but loads each bundle anew.
Whatever goes wrong in it is the trial's answer: an error, garbage, silence or its death fails.
"""

import os
import select
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
import polars as pl

from selfheal_assets.core.gate_evidence import Servability
from selfheal_assets.settings import Settings

COMMAND = (sys.executable, "-m", "selfheal_assets.serving.servability_worker")
_PACKAGE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Trial:
    """What is tried: a version of an installation, on rows whose trained scores are known.

    ``fingerprint`` is the one that the bundle was registered with; the loaded bytes must have it.
    """

    settings: Settings
    version: int
    rows: pl.DataFrame
    trained: np.ndarray
    fingerprint: str | None

    def request(self) -> bytes:
        """As the process reads it."""
        columns = self.rows.select(f.name for f in self.settings.case.features).to_dict(as_series=False)
        given = self.settings.model_dump(mode="json")
        return orjson.dumps({"settings": given, "version": self.version, "columns": columns})


class TrialFailed(RuntimeError):
    """The process gave no usable answer; says what happened."""


class ServingTrials:
    """Runs trials in one process that is started when first needed, and anew after each failure. Safe for threads.

    Args:
        command: the process.
    """

    def __init__(self, command: tuple[str, ...] = COMMAND) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None

    def start(self) -> None:
        """Start the process, if none runs, so that its imports go on while the caller does something else."""
        with self._lock:
            self._started()

    def run(self, trial: Trial, timeout_s: float, size_mb: float) -> Servability:
        """The trial's outcome; it never raises for what the bundle or the process does."""
        try:
            with self._lock:
                answer = self._asked(trial.request(), timeout_s)
            difference, latency_ms = _judged(answer, trial)
        except TrialFailed as failure:
            return Servability(False, float("inf"), float("inf"), size_mb, str(failure))
        return Servability(True, difference, latency_ms, size_mb)

    def stop(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            path = os.pathsep.join(filter(None, [str(_PACKAGE), os.environ.get("PYTHONPATH")]))
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=os.environ | {"PYTHONPATH": path},
            )
            weakref.finalize(self, _ended, self._process)
        return self._process

    def _asked(self, request: bytes, timeout_s: float) -> dict[str, Any]:
        """The process's answer to a request; after a failure it is ended, so that the next trial begins afresh."""
        deadline = time.monotonic() + timeout_s
        try:
            process = self._started()
            # By a file: a pipe would hold up who writes to a process that does not read.
            with tempfile.NamedTemporaryFile(suffix=".json") as file:
                file.write(request)
                file.flush()
                assert process.stdin is not None
                process.stdin.write(file.name.encode() + b"\n")
                process.stdin.flush()
                line = self._line(process, deadline, timeout_s)
            answer = orjson.loads(line)
            if not isinstance(answer, dict):
                raise TrialFailed(f"the process answered {line[:80]!r}, which is no answer")
            return answer
        except (OSError, orjson.JSONDecodeError) as error:
            problem = self._death() or f"{type(error).__name__}: {error}"
            self._end()
            raise TrialFailed(f"no usable answer of the process: {problem}") from error
        except TrialFailed:
            self._end()
            raise

    def _line(self, process: subprocess.Popen[bytes], deadline: float, timeout_s: float) -> bytes:
        assert process.stdout is not None
        source, content = process.stdout.fileno(), b""
        while not content.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([source], [], [], left)[0]:
                raise TrialFailed(f"no answer within {timeout_s:g} s (serving_timeout_s)")
            part = os.read(source, 1 << 20)
            if not part:
                raise TrialFailed(self._death() or "the process closed its output")
            content += part
        return content

    def _death(self) -> str:
        """How the process ended and what it said last; empty while it lives."""
        if self._process is None or self._said is None:
            return ""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        if (code := self._process.poll()) is None:
            return ""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f"the process ended with exit code {code}" + (f": {lines[-1]}" if lines else "")

    def _end(self) -> None:
        if self._process is not None:
            _ended(self._process)
        if self._said is not None:
            self._said.close()
        self._process = self._said = None


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _judged(answer: dict[str, Any], trial: Trial) -> tuple[float, float]:
    """Largest difference from the trained scores, and milliseconds a row.

    Raises:
        TrialFailed: an error, or not what was asked for.
    """
    if error := answer.get("error"):
        raise TrialFailed(str(error))
    try:
        probability = np.asarray(answer["probability"], dtype=np.float64)
        latency_ms, loaded = float(answer["latency_ms"]), answer["fingerprint"]
    except (KeyError, TypeError, ValueError) as error:
        raise TrialFailed(f"the process's answer cannot be used: {type(error).__name__}: {error}") from error
    if loaded != trial.fingerprint:
        raise TrialFailed(f"it loads a bundle of fingerprint {loaded}; registered was {trial.fingerprint}")
    if probability.shape != trial.trained.shape:
        raise TrialFailed(f"{probability.size} scores came for {trial.trained.size} rows")
    if trial.trained.size == 0:
        raise TrialFailed("there is no row to score")
    # NaN, as null comes out, stays NaN here and fails the gate.
    return float(np.max(np.abs(probability - trial.trained))), latency_ms


TRIALS = ServingTrials()  # one process for all trials of this one
