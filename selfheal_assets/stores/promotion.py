"""Carry out what the ledger decided: a journal of named steps in the warehouse, finished by whoever opens it next.

The ledger leads: its newest PROMOTE or ROLL_BACK says who is champion, and is the promise. The journal says how far
it has been carried out, and who was champion when that began. Each step can be done again without harm, so a process
that dies anywhere is made good by doing the steps that are not journalled. The warehouse's lock is held throughout:
promoters exclude each other, and the kernel frees the lock of one that dies.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from selfheal_assets.core.decision import Action, Decision
from selfheal_assets.stores import decision_ledger
from selfheal_assets.stores.model_registry import QUARANTINED, ModelRegistry
from selfheal_assets.stores.warehouse import Warehouse

logger = logging.getLogger(__name__)


class Step(StrEnum):
    """The steps of a promotion or a rollback, in their order."""

    intent = "intent"
    predecessor = "predecessor_named"
    champion = "champion_moved"
    quarantine = "taken_back_version_quarantined"
    published = "ledger_published"
    done = "done"


POINTS = tuple(f"{step}, {moment}" for step in Step for moment in ("to do", "not journalled", "journalled"))
"""Where a process may die in :func:`carry_out`, in order: before a step, after it, after its row in the journal."""


class ChampionChanged(RuntimeError):
    """The champion is another by now than the one that a challenger was compared with."""


@dataclass(frozen=True)
class Verdict:
    """The newest decision about who is champion."""

    decision: int
    action: Action
    version: int
    taken_back: int | None
    reason: str


def newest_verdict(warehouse: Warehouse) -> Verdict | None:
    """The newest PROMOTE or ROLL_BACK, or ``None`` before the first."""
    rows = warehouse.query(
        """select id, action, champion, challenger, reason from decisions where action in (?, ?)
           order by id desc limit 1""",
        [Action.promote.value, Action.roll_back.value],
    )
    if rows.is_empty():
        return None
    number, action, champion, challenger, reason = rows.row(0)
    return Verdict(
        number, Action(action), challenger, champion if action == Action.roll_back else None, reason
    )


def record(warehouse: Warehouse, decision: Decision) -> int:
    """Record a decision about who becomes champion, unless another was taken since it was prepared.

    Raises:
        ChampionChanged: by the ledger another version is champion than the one that the decision starts from.
    """
    with warehouse.kept_open():
        last = newest_verdict(warehouse)
        if last and last.version != decision.champion:
            raise ChampionChanged(
                f"version {last.version} is champion by decision {last.decision}, and version {decision.challenger} "
                f"was compared with version {decision.champion}: compare it again (materialize shadow_evaluation "
                "and promotion_decision)"
            )
        return decision_ledger.record(warehouse, decision)


def carry_out(
    warehouse: Warehouse, registry: ModelRegistry, reached: Callable[[str], None] = lambda point: None
) -> tuple[int | None, int | None]:
    """Make the version that the newest verdict names the champion; returns (before, after).

    Running it again changes nothing. An alias that was moved by hand, past the ledger, is moved back.

    Args:
        warehouse: has ledger and journal.
        registry: has the aliases.
        reached: told each of :data:`POINTS` that is come to.

    Raises:
        NoSuchVersion: the registry does not have the version; no alias was moved.
    """
    with warehouse.kept_open():
        verdict, now = newest_verdict(warehouse), registry.champion()
        if verdict is None:
            return now, now
        journalled = _journalled(warehouse, verdict)
        if Step.done in journalled:
            if now == verdict.version:
                return now, now
            journalled = {}
        registry.require(verdict.version)
        before = journalled.get(Step.intent, now)
        for step, effect in _effects(warehouse, registry, verdict, before):
            if step not in journalled:
                reached(f"{step}, to do")
                effect()
                reached(f"{step}, not journalled")
                _journal(warehouse, verdict, step, before)
                reached(f"{step}, journalled")
        return now, verdict.version


def _effects(
    warehouse: Warehouse, registry: ModelRegistry, verdict: Verdict, before: int | None
) -> list[tuple[Step, Callable[[], object]]]:
    def predecessor() -> None:
        if before is not None and before != verdict.version:
            registry.name_predecessor(before)

    def quarantine() -> None:
        if verdict.taken_back is not None:
            registry.tag(verdict.taken_back, QUARANTINED, verdict.reason)

    def nothing() -> None: ...

    return [
        (Step.intent, nothing),
        (Step.predecessor, predecessor),
        (Step.champion, lambda: registry.move_champion(verdict.version)),
        (Step.quarantine, quarantine),
        (Step.published, lambda: decision_ledger.catch_up(warehouse)),
        (Step.done, nothing),
    ]


def _journalled(warehouse: Warehouse, verdict: Verdict) -> dict[Step, int | None]:
    """The steps of a verdict that are behind us, each with who was champion when they began."""
    rows = warehouse.query(
        "select step, previous from promotion_journal where decision = ? order by reached_at",
        [verdict.decision],
    )
    return {Step(step): previous for step, previous in rows.iter_rows()}


def _journal(warehouse: Warehouse, verdict: Verdict, step: Step, before: int | None) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    with warehouse.write() as connection:
        connection.execute(
            "insert into promotion_journal values (?, ?, ?, ?, ?)",
            [verdict.decision, step.value, now, verdict.version, before],
        )


def unfinished(warehouse: Warehouse) -> int | None:
    """Number of the newest verdict if it has not been carried out to its end."""
    verdict = newest_verdict(warehouse)
    return verdict.decision if verdict and Step.done not in _journalled(warehouse, verdict) else None


def recover(warehouse: Warehouse, registry: ModelRegistry) -> str:
    """Finish what a process that died left unfinished; says what was done, or why it could not be; empty if nothing.

    A registry that cannot be asked is no reason to keep anybody from the warehouse: the next one tries again.
    """
    number = unfinished(warehouse)
    if number is None:
        return ""
    from mlflow.exceptions import MlflowException

    try:
        before, after = carry_out(warehouse, registry)
    except (MlflowException, LookupError, OSError) as error:
        told = f"decision {number} cannot be carried out yet ({type(error).__name__}: {error})"
        logger.error(told)
        return told
    return f"decision {number} is carried out: the champion was version {before} and is version {after}"
