"""The two decisions about a model: is a challenger promoted, and is a promotion taken back?

What production measures and a backtest cannot is taken to be in order: the serving trial. A promotion that would wait
for a person's approval is taken to be approved at once.
"""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from selfheal_assets.backtest.shared import Shared
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.decision import Action, decide
from selfheal_assets.core.gate_evidence import Servability
from selfheal_assets.core.gate_inputs import gate_inputs, ineligible
from selfheal_assets.core.gates import evaluate_gates
from selfheal_assets.core.maturity import aged_cases
from selfheal_assets.core.metrics import UndefinedMetric
from selfheal_assets.core.rollback import RollbackEvidence, judge_promotion
from selfheal_assets.stores.gate_rows import compared, gate_cases
from selfheal_assets.use_case import UseCase

SERVES = Servability(loads=True, largest_difference=0.0, latency_ms=0.0, size_mb=0.0)


@dataclass(frozen=True)
class Question:
    """What a decision is about: the challenger's number, the champion's, why the former is quarantined (if it is),
    and when a model was last promoted."""

    challenger: int
    champion: int | None
    quarantined: str | None
    last_promotion: datetime | None


@dataclass(frozen=True)
class Verdict:
    """PROMOTE, REJECT or INCONCLUSIVE, and why."""

    action: Action
    reason: str


def verdict_on(
    shared: Shared, case: UseCase, champion: Bundle, challenger: Bundle, question: Question
) -> Verdict:
    """The gates' answer, as of the challenger's day."""
    warehouse = shared.known.warehouse
    rows = gate_cases(warehouse, case, champion, challenger)
    found = []
    if question.champion != question.challenger:
        try:
            found = compared(warehouse, case, rows, champion, challenger)
        except UndefinedMetric:
            found = []
    inputs = gate_inputs(
        challenger,
        rows,
        found,
        case.policy.gates,
        case.segments,
        last_promotion=question.last_promotion,
        servability=SERVES,
        has_champion=True,
        ineligible=ineligible(question.challenger, challenger, question.champion, question.quarantined),
    )
    return Verdict(*decide(evaluate_gates(inputs, case.policy.gates)))


def taken_back(
    shared: Shared, case: UseCase, since: datetime, as_of: datetime, champion: Bundle, predecessor: Bundle
) -> RollbackEvidence:
    """What the cases since a promotion say of it."""
    rows = shared.known.labelled(since, as_of)
    scored = aged_cases(rows, champion.score(rows)).rename({"probability": "champion"})
    both = scored.with_columns(predecessor=pl.Series(predecessor.score(rows)))
    return judge_promotion(both, shared.curve(since), case.policy.rollback, case.policy.probation_days)
