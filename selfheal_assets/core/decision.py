"""Decisions: what was decided, why, on which evidence, chained by hash to the decision before."""

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from selfheal_assets.core import fingerprint
from selfheal_assets.core.gates import GateResult, Verdict


class Action(StrEnum):
    """What the loop may decide; each is recorded, 'no' included."""

    promote = "PROMOTE"
    pending = "PENDING"
    reject = "REJECT"
    inconclusive = "INCONCLUSIVE"
    roll_back = "ROLL_BACK"
    hold = "HOLD"
    suppress = "SUPPRESS"
    fix_data = "FIX_DATA"


# About the loop itself, not about a model: nothing was trained, compared or moved.
WITHHELD = (Action.hold, Action.suppress, Action.fix_data)


@dataclass(frozen=True)
class Decision:
    """One row of the decisions ledger, before it is numbered and chained."""

    action: Action
    as_of: datetime
    reason: str
    champion: int | None
    challenger: int | None
    evidence: dict[str, Any]
    fingerprints: dict[str, str]

    def payload(self) -> dict[str, Any]:
        """The decision as JSON-like data; what the hash covers."""
        return asdict(self) | {"action": self.action.value, "as_of": self.as_of.isoformat()}


def chain_hash(previous: str, payload: dict[str, Any]) -> str:
    """Hash of a decision and of the hash before it: a later change of either is found."""
    return fingerprint.of_value({"previous": previous, "payload": payload})


def decide(results: list[GateResult]) -> tuple[Action, str]:
    """PROMOTE if all gates pass, INCONCLUSIVE if the sample cannot tell, else REJECT; with the reason."""
    if not results:
        return Action.reject, "no gate was evaluated"
    unclear = [r for r in results if r.verdict is Verdict.inconclusive]
    failed = [r for r in results if r.verdict is Verdict.failed]
    if unclear:
        return Action.inconclusive, "; ".join(f"{r.gate}: {r.reason}" for r in unclear)
    if failed:
        return Action.reject, "; ".join(f"{r.gate}: {r.reason}" for r in failed)
    by_name = {r.gate: r for r in results}
    winner = by_name.get("improvement")
    return Action.promote, winner.reason if winner else "first champion: " + results[-1].reason
