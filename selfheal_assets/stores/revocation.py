"""A rollback by hand: the ledger records it, and it is carried out as the loop's are."""

from datetime import datetime

from selfheal_assets.core.decision import Action, Decision
from selfheal_assets.stores import cases, decision_ledger, promotion
from selfheal_assets.stores.model_registry import QUARANTINED, ModelRegistry
from selfheal_assets.stores.warehouse import Warehouse


class NotRolledBack(ValueError):
    """The rollback cannot be done; the message says why, and what would help."""


def checked(warehouse: Warehouse, registry: ModelRegistry, to: int) -> int:
    """The champion that going back ``to`` a version would quarantine.

    Raises:
        NotRolledBack: there is no champion, or the version is none to go back to.
    """
    champion = promotion.carry_out(warehouse, registry)[1]
    if champion is None:
        raise NotRolledBack("there is no champion, so nothing can be taken back")
    served = _once_champion(warehouse)
    if to not in served:
        shown = ", ".join(map(str, sorted(served - {champion}))) or "none"
        raise NotRolledBack(
            f"version {to} was never champion, and a rollback promotes nobody: versions to go back to are {shown}"
        )
    if to == champion:
        raise NotRolledBack(f"version {to} is the champion: --to must name the version that answers instead")
    if reason := registry.tags(to).get(QUARANTINED):
        raise NotRolledBack(
            f"version {to} is quarantined ({reason}): choose another, or remove its tag '{QUARANTINED}' in MLflow"
        )
    return champion


def _once_champion(warehouse: Warehouse) -> set[int]:
    """All versions that a decision made champion."""
    moves = (Action.promote.value, Action.roll_back.value)
    rows = decision_ledger.history(warehouse)
    return {row["challenger"] for row in rows.iter_rows(named=True) if row["action"] in moves}


def by_hand(
    warehouse: Warehouse,
    registry: ModelRegistry,
    champion: int,
    to: int,
    reason: str,
    account: str,
    as_of: datetime,
    rows_of: tuple[datetime, datetime] | None = None,
) -> int:
    """Record the rollback and carry it out; returns its number.

    Args:
        warehouse: has the ledger.
        registry: has the versions.
        champion: who is taken back and quarantined.
        to: who answers again.
        reason: why.
        account: who did it.
        as_of: the time the decision stands at.
        rows_of: cases of [start, end) are kept out of training sets from ``as_of`` on.
    """
    evidence = {"by_hand": True, "account": account, "reason": reason}
    if rows_of:
        evidence["quarantined_rows"] = [day.isoformat() for day in rows_of]
    prints = {"champion": registry.fingerprint(champion), "challenger": registry.fingerprint(to)}
    decision = Decision(Action.roll_back, as_of, f"by hand: {reason}", champion, to, evidence, prints)
    with warehouse.kept_open():
        number = promotion.record(warehouse, decision)
        if rows_of:
            cases.quarantine_rows(warehouse, number, as_of, *rows_of, reason)
        promotion.carry_out(warehouse, registry)
    return number
