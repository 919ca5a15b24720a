"""Shadow scoring: challenger or predecessor score what the champion answered, and change no answer.

The shadow lives in a process of its own (``shadow_worker``). What the log has just written is put into a bounded
queue, and a thread hands it over some ten times a second; where the shadow is slow, hangs, raises or dies, rows are
dropped and counted, and it is started again later.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from selfheal_assets.core.decision import Action
from selfheal_assets.serving.metrics import Metrics
from selfheal_assets.serving.shadow_worker import BUNDLE_FILES, receive_message, send_message
from selfheal_assets.settings import Settings
from selfheal_assets.stores.model_registry import CHALLENGER, PREDECESSOR, QUARANTINED, ModelRegistry
from selfheal_assets.stores.prediction_log import Role
from selfheal_assets.stores.snapshots import read_rows

MAX_QUEUED_ROWS, MAX_BATCH_ROWS = 50_000, 5_000
NICENESS = 10  # a tenth of the service's share: at 19 a busy machine would never let it start
LOOKED_THROUGH = 50  # of the newest decisions
logger = logging.getLogger(__name__)

_COMMAND = (sys.executable, "-m", "selfheal_assets.serving.shadow_worker")
_ALIASES = {Role.challenger: CHALLENGER, Role.predecessor: PREDECESSOR}


@dataclass(frozen=True)
class Patience:
    """How long a shadow is waited for, in seconds.

    ``period``: between two hand-overs; ``start``: until it can score, on a busy machine; ``answer``: for a batch;
    ``first_pause``: after a failure, doubled with each further one up to ``longest_pause``; ``end``: to finish.
    """

    period: float = 0.1
    start: float = 120.0
    answer: float = 10.0
    first_pause: float = 1.0
    longest_pause: float = 60.0
    end: float = 3.0


@dataclass(frozen=True)
class Target:
    """Who is to score in shadow."""

    role: Role
    version: int


class ShadowFailed(RuntimeError):
    """The shadow's process did not do what it was asked; says what happened."""


class Shadow:
    """Has what the champion answered scored again, in another process. Safe to share between threads.

    Args:
        settings: the use case says who scores; the log folder is written to.
        registry: has the versions and their aliases.
        counters: get ``shadow_rows_scored``, ``shadow_rows_dropped`` and ``shadow_failures``.
        patience: how long to wait.
    """

    def __init__(
        self, settings: Settings, registry: ModelRegistry, counters: Metrics, patience: Patience = Patience()
    ) -> None:
        self._settings, self._registry, self._counters, self._patience = (
            settings,
            registry,
            counters,
            patience,
        )
        wanted = settings.case.serving.shadow
        self._role = None if wanted == "nobody" else Role(wanted)
        self._target: Target | None = None
        self._queue: deque[tuple[bytes, int]] = deque()
        self._offering = threading.Lock()
        self._offered = self._taken = 0  # rows
        self._child: _Child | None = None
        self._failures_in_a_row, self._not_before = 0, 0.0
        self._problem: str | None = None
        self._registry_problem: str | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    @property
    def wanted(self) -> bool:
        """Whether the use case asks for a shadow."""
        return self._role is not None

    def start(self) -> None:
        """Begin to hand over, if the use case asks for a shadow."""
        if self.wanted:
            self._thread.start()

    def stop(self) -> None:
        """Hand over what waits, then end the shadow's process, with force if need be."""
        if not self._thread.is_alive():
            return
        self._stopped.set()
        self._thread.join(self._patience.end)
        if self._thread.is_alive() and (child := self._child):
            child.kill()
        self._thread.join()

    def status(self) -> dict[str, Any]:
        """For ``/health``: who scores, how many rows were scored and dropped, and the last failure."""
        target, counts = self._target, self._counters.read()
        return {
            "role": self._role,
            "model_version": target.version if target else None,
            "rows_scored": counts.get("shadow_rows_scored", 0),
            "rows_dropped": counts.get("shadow_rows_dropped", 0),
            "failures": counts.get("shadow_failures", 0),
            "problem": self._registry_problem or self._problem,
        }

    def offer(self, line: bytes, rows: int) -> None:
        """Take a line that the champion has logged; costs a microsecond, and waits for nothing else."""
        if self._target is None:
            return
        with self._offering:
            dropped = self._offered - self._taken + rows > MAX_QUEUED_ROWS
            if not dropped:
                self._queue.append((line, rows))
                self._offered += rows
        if dropped:
            self._counters.add("shadow_rows_dropped", rows)

    def refresh(self) -> None:
        """Follow the registry's aliases; where that fails, whoever scores goes on."""
        try:
            target = self._chosen()
        except Exception as error:  # no failure of the registry may stop the caller
            problem = f"cannot follow the registry: {type(error).__name__}: {error}"
            if problem != self._registry_problem:
                logger.exception("shadow: %s", problem)
            self._registry_problem = problem
            return
        self._registry_problem = None
        if target != self._target:
            logger.info("shadow is %s", f"{target.role} version {target.version}" if target else "nobody")
            self._target, self._problem = target, None

    def _chosen(self) -> Target | None:
        """The version with the role's alias, unless it is champion, quarantined, or a rejected challenger."""
        if self._role is None:
            return None
        version = self._registry.aliased(_ALIASES[self._role])
        if version is None or version == self._registry.champion():
            return None
        if QUARANTINED in self._registry.tags(version):
            return None
        if self._role is Role.challenger and self._is_rejected(version):
            return None
        return Target(self._role, version)

    def _is_rejected(self, version: int) -> bool:
        """Whether the last decision about a challenger, as far as one is published, was a refusal."""
        for row in read_rows(self._settings.published, "decisions", LOOKED_THROUGH):
            if row["challenger"] == version:
                return row["action"] == Action.reject.value
        return False

    def _run(self) -> None:
        while not self._stopped.wait(self._patience.period):
            self._step()
        if self._child:
            self._step()
        if self._child:
            self._child.end(self._patience.end)

    def _step(self) -> None:
        target = self._target
        if self._child and self._child.target != target:
            self._child.end(self._patience.end)
            self._child, self._failures_in_a_row, self._not_before = None, 0, 0.0
        if target is None:
            self._take(MAX_QUEUED_ROWS)
            return
        if time.monotonic() < self._not_before:
            return
        batch: list[tuple[bytes, int]] = []
        try:
            child = self._child or self._started(target)
            while batch := self._take(MAX_BATCH_ROWS):
                self._counters.add("shadow_rows_scored", child.score([line for line, _ in batch]))
                self._failures_in_a_row, self._problem = 0, None
        except Exception as error:  # whatever a shadow does, the next one is tried
            logger.exception("shadow: version %d fails", target.version)
            self._failed(error, sum(rows for _, rows in batch))

    def _started(self, target: Target) -> "_Child":
        files = self._registry.load(target.version).to_files()
        self._child = _Child(target, self._settings.prediction_log, self._patience)
        self._child.prepare(files)
        return self._child

    def _failed(self, error: Exception, rows: int) -> None:
        if self._child:
            self._child.kill()
        told = str(error) if isinstance(error, ShadowFailed) else f"{type(error).__name__}: {error}"
        self._child, self._problem = None, told
        self._counters.add("shadow_failures")
        self._counters.add("shadow_rows_dropped", rows)
        pause = self._patience.first_pause * 2 ** min(self._failures_in_a_row, 20)
        self._not_before = time.monotonic() + min(pause, self._patience.longest_pause)
        self._failures_in_a_row += 1

    def _take(self, most: int) -> list[tuple[bytes, int]]:
        batch: list[tuple[bytes, int]] = []
        rows = 0
        while self._queue and (not batch or rows + self._queue[0][1] <= most):
            batch.append(self._queue.popleft())
            rows += batch[-1][1]
        self._taken += rows
        return batch


class _Child:
    """The shadow's process, and the socket by which it is spoken to."""

    def __init__(self, target: Target, folder: Path, patience: Patience) -> None:
        self.target, self._folder, self._patience = target, folder, patience
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(_COMMAND, stdin=theirs.fileno(), stdout=subprocess.DEVNULL)
        with suppress(ProcessLookupError):  # it may have died already; the first message tells
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)

    def prepare(self, files: dict[str, bytes]) -> None:
        """Give it its bundle; returns when it can score.

        Raises:
            ShadowFailed: it cannot.
        """
        header = {"folder": str(self._folder), "version": self.target.version, "role": self.target.role}
        self._ask(self._patience.start, orjson.dumps(header), *(files[name] for name in BUNDLE_FILES))

    def score(self, lines: list[bytes]) -> int:
        """Have it score and log lines of the champion's; returns how many rows.

        Raises:
            ShadowFailed: it did not, or not in time.
        """
        answer = self._ask(self._patience.answer, b"\n".join(lines))
        if "failed" in answer:
            raise ShadowFailed(f"it cannot score: {answer['failed']}")
        return answer["scored"]

    def _ask(self, within_s: float, *messages: bytes) -> dict[str, Any]:
        self._socket.settimeout(within_s)
        try:
            for message in messages:
                send_message(self._socket, message)
            return orjson.loads(receive_message(self._socket))
        except TimeoutError as error:
            raise ShadowFailed(f"it did not answer within {within_s:g} s") from error
        except (EOFError, OSError) as error:
            raise ShadowFailed(f"its process ended ({self._exit()})") from error

    def _exit(self) -> str:
        try:
            return f"exit code {self._process.wait(1)}"
        except subprocess.TimeoutExpired:
            return "it closed its socket"

    def end(self, within_s: float) -> None:
        """Let it finish and seal its log, for so long."""
        self._socket.close()
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once; what it has logged stays, and the next ingestion adopts it."""
        self._process.kill()
        self._process.wait()
        self._socket.close()
