"""Group commit: the cases of all requests that wait are scored, logged and made durable together.

One thread takes what has gathered while it was busy with the group before, so that a flush to disk, a call of the
booster and a line of the log are shared by as many requests as there are. An answer leaves only when its group is
durable.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from selfheal_assets.core.encoding import ColumnEncoder
from selfheal_assets.serving.scoring import Scored, ScoringService
from selfheal_assets.stores.prediction_log import CaseColumns

MAX_GROUP_ROWS = 4096
_IDLE_S = 1.0


@dataclass(frozen=True)
class Answered:
    """One request's share of a group: rows ``start`` to ``start + rows`` of what was scored."""

    cases: CaseColumns
    scored: Scored
    start: int
    rows: int

    @property
    def encoder(self) -> ColumnEncoder:
        """Of the model that answered."""
        return self.scored.champion.encoder


@dataclass(frozen=True)
class _Waiting:
    cases: CaseColumns
    answer: "asyncio.Future[Answered]"


class GroupCommit:
    """Answers the cases of many requests at a time, from a thread of its own.

    Args:
        scoring: scores and logs.
        now: the time of an answer, naive UTC.
        idle: called about once a second while nothing is asked.
        observe: told the rows of each group, and how many requests wait behind it.
    """

    def __init__(
        self,
        scoring: ScoringService,
        now: Callable[[], datetime],
        idle: Callable[[], None] = lambda: None,
        observe: Callable[[int, int], None] = lambda rows, waiting: None,
    ) -> None:
        self._scoring, self._now, self._idle, self._observe = scoring, now, idle, observe
        self._waiting: deque[_Waiting] = deque()
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to answer; futures are resolved on ``loop``."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """Answer what waits, then end."""
        self._stopped = True
        self._wake.set()
        self._thread.join()

    async def answer(self, cases: CaseColumns) -> Answered:
        """Score and log; returns when the rows are durable.

        Raises:
            NoChampion, LogNotDurable: as :meth:`ScoringService.score` does.
        """
        future: asyncio.Future[Answered] = self._loop.create_future()
        self._waiting.append(_Waiting(cases, future))
        self._wake.set()
        return await future

    def _run(self) -> None:
        while True:
            if not self._wake.wait(_IDLE_S):
                self._idle()
                continue
            self._wake.clear()
            while group := self._take():
                self._commit(group)
            if self._stopped:
                return

    def _take(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        rows = 0
        while self._waiting and (not group or rows + self._waiting[0].cases.rows <= MAX_GROUP_ROWS):
            group.append(self._waiting.popleft())
            rows += group[-1].cases.rows
        return group

    def _commit(self, group: list[_Waiting]) -> None:
        cases = _joined([w.cases for w in group])
        self._observe(cases.rows, len(self._waiting))
        try:
            scored = self._scoring.score_columns(cases, self._now())
        except Exception as error:  # noqa: BLE001 - each request is told; the thread must go on
            failed = error
            self._loop.call_soon_threadsafe(lambda: [_fail(w.answer, failed) for w in group])
            return
        self._loop.call_soon_threadsafe(_resolve, group, cases, scored)


def _joined(parts: list[CaseColumns]) -> CaseColumns:
    if len(parts) == 1:
        return parts[0]
    return CaseColumns(
        [i for p in parts for i in p.entity_id],
        [t for p in parts for t in p.event_time],
        {name: [v for p in parts for v in p.features[name]] for name in parts[0].features},
    )


def _resolve(group: list[_Waiting], cases: CaseColumns, scored: Scored) -> None:
    start = 0
    for waiting in group:
        rows = waiting.cases.rows
        if not waiting.answer.done():  # its client may be gone
            waiting.answer.set_result(Answered(cases, scored, start, rows))
        start += rows


def _fail(future: "asyncio.Future[Answered]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
