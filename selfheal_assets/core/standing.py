"""How a use case stands, from what the loop has published: healthy, attention, or unknown, and what it waits for.

Unknown is not healthy: where nothing was monitored, where the newest chunk cannot be judged, or where monitoring has
fallen behind its calendar, that is what is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from selfheal_assets.core.decision import WITHHELD, Action
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.periods import chunk_end, chunk_label, chunk_start, shift_chunks
from selfheal_assets.core.policies import Policy
from selfheal_assets.core.spec import Monitoring

Row = dict[str, Any]
_MOVES = (Action.pending.value, Action.promote.value, Action.roll_back.value)


class State(IntEnum):
    """How it stands; the value is the exit code of `selfheal status`."""

    healthy = 0
    attention = 1
    unknown = 2


@dataclass(frozen=True)
class Standing:
    """How a use case stands.

    Attributes:
        state: the worst that is true.
        reasons: why, in words; empty where it is healthy.
        champion: its version, when it took over (``since``) and how old it is in ``days``; ``None`` before the first.
        waits: what the loop waits for, in words.
    """

    state: State
    reasons: tuple[str, ...]
    champion: Row | None
    waits: tuple[str, ...]


def stand(
    health: Sequence[Row],
    decisions: Sequence[Row],
    labels_waiting: int,
    monitoring: Monitoring,
    policy: Policy,
    now: datetime,
) -> Standing:
    """How it stands at ``now``.

    Args:
        health: rows of ``health_report``, newest first: ``chunk``, ``label``, ``status``, ``reason``,
            ``failed_checks``.
        decisions: rows of the ledger, newest first: ``id``, ``as_of``, ``action``, ``champion``, ``challenger``.
        labels_waiting: labels that have landed and are not in the ledger yet.
        monitoring: the calendar.
        policy: which checks start a retraining.
        now: naive UTC. A history that is over stands at the end of its newest chunk.
    """
    if not health:
        nothing = (
            "no chunk was monitored yet: `selfheal replay`, or `dagster asset materialize` of health_report"
        )
        return Standing(State.unknown, (nothing,), _champion(decisions, now), ())
    newest, period = health[0], monitoring.chunk
    end = chunk_end(newest["chunk"], period)
    seen = end if monitoring.until else now
    late = shift_chunks(end, period, 1) <= seen
    reasons, state = [], State.healthy
    if late:
        missed = chunk_label(chunk_start(shift_chunks(chunk_start(seen, period), period, -1), period), period)
        reasons.append(
            f"monitoring is behind: the newest chunk is {newest['label']}, {missed} has ended too: is the daemon up?"
        )
    if newest["status"] == Status.failed.value:
        state = State.attention
        reasons.append(f"{newest['label']}: {newest['reason']}")
    elif late or newest["status"] != Status.passed.value:
        state = State.unknown
        reasons += (
            [] if newest["status"] == Status.passed.value else [f"{newest['label']}: {newest['reason']}"]
        )
    waits = _waits(newest, decisions, policy, end, late)
    if labels_waiting:
        waits.append(f"{labels_waiting:,} labels that have landed, for the next ingestion")
    return Standing(state, tuple(reasons), _champion(decisions, seen), tuple(waits))


def _champion(decisions: Sequence[Row], seen: datetime) -> Row | None:
    """Whom the newest promotion or rollback made the champion."""
    for row in decisions:
        if row["action"] in (Action.promote.value, Action.roll_back.value):
            return {"version": row["challenger"], "since": row["as_of"], "days": (seen - row["as_of"]).days}
    return None


def _waits(newest: Row, decisions: Sequence[Row], policy: Policy, end: datetime, late: bool) -> list[str]:
    waits = _approvals(decisions)
    failed = [c for c in (newest["failed_checks"] or "").split(", ") if c in policy.retrain_on]
    decided = [row["as_of"] for row in decisions if row["action"] not in (Action.roll_back.value, *WITHHELD)]
    if not failed or (decided and max(decided) >= end):
        return waits if late else [*waits, "the end of the running chunk"]
    withheld = [row for row in decisions if row["action"] in WITHHELD and row["as_of"] == end]
    if withheld:
        return [*waits, f"a retraining for {newest['label']} is withheld: {withheld[0]['reason']}"]
    return [*waits, f"a retraining is due, as {', '.join(failed)} failed: the sensor starts it"]


def _approvals(decisions: Sequence[Row]) -> list[str]:
    """The promotion that waits for somebody, unless a later decision has taken its place."""
    moves = [row for row in decisions if row["action"] in _MOVES]
    if not moves or moves[0]["action"] != Action.pending.value:
        return []
    return [f"the approval of decision {moves[0]['id']}: selfheal approve {moves[0]['id']} --by NAME"]
