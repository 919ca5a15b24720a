"""Four eyes: a challenger that passed its gates waits in the ledger until somebody else approves it.

A PENDING decision carries the gates' evidence and who asked; the approval is a PROMOTE that names it. Names are as
they are stated: nobody's identity is proved here. The account that the command ran under is recorded beside them.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from selfheal_assets.core.decision import Action, Decision
from selfheal_assets.core.policies import GatePolicy
from selfheal_assets.stores import decision_ledger, promotion
from selfheal_assets.stores.model_registry import QUARANTINED, ModelRegistry
from selfheal_assets.stores.warehouse import Warehouse

REQUESTED_BY, LOOP = "requested_by", "selfheal"


class NotApproved(ValueError):
    """The approval cannot be given; the message says why, and what would help."""


@dataclass(frozen=True)
class Waiting:
    """A promotion that waits: the decision, who asked for it, until when it may be approved, and what is in the way.

    ``obstacle`` is empty where it may be approved.
    """

    decision: int
    challenger: int
    champion: int | None
    requested_by: str
    expires_at: datetime
    reason: str
    obstacle: str


def pending(
    warehouse: Warehouse, registry: ModelRegistry, policy: GatePolicy, now: datetime
) -> list[Waiting]:
    """The promotions that were never approved, oldest first; ``now`` is the wall clock's time, naive UTC."""
    decided = decision_ledger.recorded(warehouse)
    approved = {d["payload"]["evidence"].get("approves") for d in decided}
    return [
        _waiting(row, decided, registry, policy, now)
        for row in decided
        if row["action"] == Action.pending.value and row["id"] not in approved
    ]


def _waiting(
    row: dict[str, Any],
    decided: list[dict[str, Any]],
    registry: ModelRegistry,
    policy: GatePolicy,
    now: datetime,
) -> Waiting:
    expires = row["recorded_at"] + timedelta(days=policy.approval_days)
    moves = (Action.pending.value, Action.promote.value, Action.roll_back.value)
    later = [d for d in decided if d["id"] > row["id"] and d["action"] in moves]
    obstacle = ""
    if later:
        obstacle = f"decision {later[-1]['id']} ({later[-1]['action']}) has taken its place"
    elif now >= expires:
        obstacle = (
            f"it expired at {expires:%Y-%m-%d %H:%M} UTC (policy.gates.approval_days: {policy.approval_days})"
        )
    elif reason := registry.tags(row["challenger"]).get(QUARANTINED):
        obstacle = f"version {row['challenger']} is quarantined: {reason}"
    asked = row["payload"]["evidence"][REQUESTED_BY]
    return Waiting(row["id"], row["challenger"], row["champion"], asked, expires, row["reason"], obstacle)


def approve(
    warehouse: Warehouse,
    registry: ModelRegistry,
    policy: GatePolicy,
    number: int,
    by: str,
    account: str,
    as_of: datetime,
    now: datetime,
) -> int:
    """Approve a waiting promotion and carry it out; returns the number of the PROMOTE.

    Args:
        warehouse: has the ledger.
        registry: has the versions.
        policy: how long an approval may be waited for.
        number: the PENDING decision.
        by: who approves; must not be who asked.
        account: under which the command runs; only recorded.
        as_of: the time the decision stands at; never before the one that it approves.
        now: the wall clock's, naive UTC.

    Raises:
        NotApproved: nothing was changed.
    """
    with warehouse.kept_open():
        waiting = {w.decision: w for w in pending(warehouse, registry, policy, now)}
        known = {d["id"]: d for d in decision_ledger.recorded(warehouse)}
        _refuse(number, by, waiting, known)
        asked = known[number]
        decision = Decision(
            Action.promote,
            max(as_of, asked["as_of"]),
            f"decision {number} approved by {by}: {asked['reason']}",
            asked["champion"],
            asked["challenger"],
            asked["payload"]["evidence"] | {"approves": number, "approved_by": by, "account": account},
            asked["payload"]["fingerprints"],
        )
        made = promotion.record(warehouse, decision)
        promotion.carry_out(warehouse, registry)
    return made


def _refuse(number: int, by: str, waiting: dict[int, Waiting], known: dict[int, dict[str, Any]]) -> None:
    if number not in known:
        raise NotApproved(f"there is no decision {number}: `selfheal pending` lists what waits")
    if number not in waiting:
        said = (
            "was approved already" if known[number]["action"] == Action.pending.value else "waits for nobody"
        )
        raise NotApproved(
            f"decision {number} ({known[number]['action']}) {said}: `selfheal pending` lists what does"
        )
    if obstacle := waiting[number].obstacle:
        raise NotApproved(
            f"decision {number} can no longer be approved: {obstacle}. The next retraining asks anew"
        )
    name = by.strip().casefold()
    if not name or name == LOOP:
        raise NotApproved("--by must name a person: the loop does not approve what it asked for")
    if name == waiting[number].requested_by.strip().casefold():
        raise NotApproved(f"{by} asked for decision {number}, so somebody else must approve it: --by NAME")
