"""Group commit: the cases of all requests that wait are scored, logged and made durable together.

A flush to disk, a call of the booster and a line of the log are shared by as many requests as there are. An answer
leaves only when its group is durable.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from selfheal_assets.core.encoding import ColumnEncoder
from selfheal_assets.serving.grouping import Grouped
from selfheal_assets.serving.scoring import Scored, ScoringService
from selfheal_assets.stores.prediction_log import CaseColumns

MAX_GROUP_ROWS = 4096


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
        return self.scored.model.encoder


class GroupCommit:
    """Answers the cases of many requests at a time.

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
        self._scoring, self._now, self._observe = scoring, now, observe
        self._group: Grouped[CaseColumns, Answered] = Grouped(
            "group-commit", self._commit, idle, most=MAX_GROUP_ROWS, weight=lambda cases: cases.rows
        )
        self.stop = self._group.stop

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to answer requests of ``loop``."""
        self._group.start(loop)

    async def answer(self, cases: CaseColumns) -> Answered:
        """Score and log; returns when the rows are durable.

        Raises:
            NoChampion, LogNotDurable: as :meth:`ScoringService.score` does.
        """
        return await self._group.done(cases)

    def _commit(self, parts: list[CaseColumns]) -> list[Answered]:
        cases = _joined(parts)
        self._observe(cases.rows, self._group.waiting)
        scored = self._scoring.score_columns(cases, self._now())
        answered, start = [], 0
        for part in parts:
            answered.append(Answered(cases, scored, start, part.rows))
            start += part.rows
        return answered


def _joined(parts: list[CaseColumns]) -> CaseColumns:
    if len(parts) == 1:
        return parts[0]
    return CaseColumns(
        [i for p in parts for i in p.entity_id],
        [t for p in parts for t in p.event_time],
        {name: [v for p in parts for v in p.features[name]] for name in parts[0].features},
    )
