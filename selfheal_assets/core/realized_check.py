"""The check ``realized_performance_holds``: what the labels of a cohort that has just matured say of the champion.

Losses by betting and ranking by DeLong share the budget of realized outcomes half and half. The books of losses are
frames, which the caller keeps by champion.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from selfheal_assets.core import harm, metrics, monitoring
from selfheal_assets.core.betting import LossSums, bet_on, loss_sums
from selfheal_assets.core.evidence_policy import HarmAlarms
from selfheal_assets.core.maturity import chunks_in_horizon
from selfheal_assets.core.monitoring import Finding, Status
from selfheal_assets.core.periods import shift_chunks
from selfheal_assets.core.policies import AlarmPolicy
from selfheal_assets.core.spec import ChunkPeriod, LabelSpec

CHECK = "realized_performance_holds"
_LOSS = "squared error (Brier)"
LOSS_SCHEMA = {
    "seen_in": pl.Datetime("us"),
    "rows": pl.Int64,
    "total": pl.Float64,
    "squares": pl.Float64,
}


@dataclass(frozen=True)
class HeldOut:
    """The champion on its own reference: 0/1 labels, its probabilities, and their ROC AUC (``None``: one class)."""

    label: np.ndarray
    probability: np.ndarray
    auc: float | None


def matured_cohort(start: datetime, period: ChunkPeriod, label: LabelSpec) -> tuple[datetime, datetime]:
    """Begin and end of the cohort that becomes mature in the chunk that begins at ``start``."""
    begin = shift_chunks(start, period, -chunks_in_horizon(label, period))
    return begin, shift_chunks(begin, period, 1)


def with_losses(
    books: pl.DataFrame, seen_in: datetime, label: np.ndarray, probability: np.ndarray
) -> pl.DataFrame:
    """The champion's books (:data:`LOSS_SCHEMA`) with those of the cohort that matured in the chunk ``seen_in``."""
    sums = loss_sums(np.square(probability - label))
    now = {"seen_in": [seen_in], "rows": [sums.rows], "total": [sums.total], "squares": [sums.squares]}
    return pl.concat([books, pl.DataFrame(now, schema=LOSS_SCHEMA)])


def realized_check(
    label: np.ndarray,
    probability: np.ndarray,
    books: pl.DataFrame,
    reference: HeldOut,
    alarms: AlarmPolicy,
    policy: HarmAlarms,
) -> tuple[Finding, pl.DataFrame]:
    """The finding, and a row of ``harm.ALARM_SCHEMA``.

    The books may fail any chunk, but certify none that has fewer labels or positives than the policy asks for: where
    labels stop coming, implicit negatives look like a champion without losses.

    Args:
        label: 0/1 of the cohort.
        probability: the champion's.
        books: with this cohort in them.
        reference: the champion on its reference.
        alarms: what a cohort must have, and how far ROC AUC may fall.
        policy: the budget.
    """
    held_out = loss_sums(np.square(reference.probability - reference.label))
    seen = [LossSums(*row) for row in books.select("rows", "total", "squares").iter_rows()]
    bet = bet_on(held_out, seen, _of_losses(policy), counts=False)
    row = harm.realized_row(bet, books["seen_in"].to_list(), _LOSS)
    short = monitoring.reference_shortage(alarms, len(reference.label), int(reference.label.sum()))
    if short or reference.auc is None:
        return monitoring.unknown(CHECK, short), row
    ranking = _ranking(label, probability, reference, alarms, policy)
    losses = harm.realized_harm_finding(bet, _LOSS)
    if ranking.status is Status.insufficient and losses.status is Status.passed:
        return ranking, row
    return harm.joint_finding([ranking, losses]), row


def unjudged(policy: HarmAlarms, why: str) -> tuple[Finding, pl.DataFrame]:
    """The finding and the row of a chunk that nobody answered."""
    row = harm.unjudged_row("realized", _of_losses(policy).realized_alpha, why)
    return monitoring.unknown(CHECK, why), row


def _of_losses(policy: HarmAlarms) -> HarmAlarms:
    """The policy with the losses' half of the realized outcomes' budget."""
    return policy.model_copy(update={"partial_share": (1 + policy.partial_share) / 2})


def _ranking(
    label: np.ndarray, probability: np.ndarray, reference: HeldOut, alarms: AlarmPolicy, policy: HarmAlarms
) -> Finding:
    if len(label) < alarms.min_rows or int(label.sum()) < alarms.min_positives or reference.auc is None:
        return monitoring.unknown(
            CHECK,
            f"{len(label)} matured labels with {int(label.sum())} positives; alarms.min_rows and "
            f"alarms.min_positives ask for {alarms.min_rows} and {alarms.min_positives}",
        )
    alpha = policy.realized_alpha / 2 / policy.horizon_chunks
    error = metrics.roc_auc_error(reference.label, reference.probability)
    return harm.ranking_finding(label, probability, reference.auc, alarms.max_auc_drop, alpha, error)
