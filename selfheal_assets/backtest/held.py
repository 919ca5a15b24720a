"""Training sets that must not be trained on, and the person who looks at what holds them, if there is one."""

from datetime import datetime

import polars as pl

from selfheal_assets.backtest.policies import BacktestPolicy
from selfheal_assets.core.column_faults import Fault
from selfheal_assets.core.label_soundness import Kept, training_faults
from selfheal_assets.core.periods import shift_chunks
from selfheal_assets.core.plan import TrainingPlan
from selfheal_assets.stores import cases
from selfheal_assets.stores.training_evidence import training_evidence
from selfheal_assets.stores.warehouse import Warehouse


class Soundness:
    """Which training sets one policy holds, and why.

    A fault is known by its cause and column. ``looked_at_after`` chunks after it first held a training set, it is
    found right and holds none any more, until a training set came without it. Another fault of the same cause and
    column, while the first is still in the training set, is taken for the first.

    Args:
        warehouse: of the history.
        policy: whose training sets.
    """

    def __init__(self, warehouse: Warehouse, policy: BacktestPolicy) -> None:
        self._warehouse, self._policy = warehouse, policy
        self._kept: Kept | None = None
        self._since: dict[tuple[str, str], datetime] = {}

    def judge(self, plan: TrainingPlan) -> tuple[str, str]:
        """Why the plan's training set is held; else (second) what somebody found right in it, if anything."""
        case = self._policy.case
        evidence = training_evidence(self._warehouse, case, plan, self._kept)
        faults = training_faults(evidence, case.policy.soundness)
        self._since = {key: self._since.get(key, plan.as_of) for key in map(_key, faults)}
        why = "; ".join(f.reason for f in faults)
        accepted = cases.fingerprint_of(evidence.rows) in case.policy.soundness.accepted
        if not faults or accepted or all(self._looked_at(f, plan.as_of) for f in faults):
            return "", why
        return f"the training set is held: {why}", ""

    def remember(self, rows: pl.DataFrame, plan: TrainingPlan) -> None:
        """What was trained on, as the next training set is compared with it."""
        columns = ["entity_id", "event_time", *self._policy.case.feature_names, "label"]
        old = rows.filter(pl.col("event_time") < plan.evaluate_from).select(columns)
        self._kept = Kept(old, plan.as_of, plan.evaluate_from)

    def _looked_at(self, fault: Fault, as_of: datetime) -> bool:
        chunks, period = self._policy.looked_at_after, self._policy.case.monitoring.chunk
        return chunks is not None and as_of >= shift_chunks(self._since[_key(fault)], period, chunks)


def _key(fault: Fault) -> tuple[str, str]:
    return fault.cause, str(fault.evidence.get("column", ""))
