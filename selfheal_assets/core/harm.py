"""From evidence of harm to a finding and a row: of realized losses (``betting``) and of labels so far.

A finding here is of severity ERROR: unlike drift, harm is about outcomes. Each alarm says what it saw, what it
allows itself, since when, which way and how much.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
from scipy.stats import norm

from selfheal_assets.core import betting, metrics
from selfheal_assets.core.betting import LossBet
from selfheal_assets.core.evidence_policy import HarmAlarms
from selfheal_assets.core.monitoring import Finding, Status, unknown
from selfheal_assets.core.partial_labels import PartialAlarm

ALARM_SCHEMA = {
    "evidence": pl.String,
    "status": pl.String,
    "statistic": pl.Float64,
    "limit": pl.Float64,
    "budget": pl.Float64,
    "budget_spent": pl.Float64,
    "first_chunk": pl.Datetime("us"),
    "direction": pl.String,
    "effect": pl.Float64,
    "effect_lower": pl.Float64,
    "effect_upper": pl.Float64,
    "reason": pl.String,
}


def partial_row(alarm: PartialAlarm, policy: HarmAlarms) -> pl.DataFrame:
    """One row of :data:`ALARM_SCHEMA` of the partial labels' alarm.

    ``statistic`` is the log e-value, ``limit`` log(1 / alpha), ``budget`` the alpha of a year, ``budget_spent`` the
    part staked so far (over all years), ``first_chunk`` the first cohort of the change, ``effect`` observed over
    expected since then.
    """
    return _row(
        "partial", _partial_status(alarm), alarm.log_e, alarm.limit, policy.partial_alpha, alarm.budget_spent,
        alarm.first_cohort, alarm.direction, (alarm.ratio, alarm.lower, alarm.upper), alarm.reason,
    )  # fmt: skip


def realized_row(bet: LossBet, chunks: list[datetime], loss: str) -> pl.DataFrame:
    """One row of :data:`ALARM_SCHEMA` of the realized losses' alarm.

    Args:
        bet: the books.
        chunks: start of each chunk seen, as many as the books hold.
        loss: name of the loss in words, such as ``error rate``.
    """
    status, reason = _realized(bet, loss)
    effect = betting.effect_size(bet)
    spent = float(np.exp(betting.start_weights(len(bet.seen), bet.policy)).sum()) * bet.policy.realized_alpha
    told = status is not Status.insufficient
    return _row(
        "realized", status, bet.log_e if told else None, bet.limit, bet.policy.realized_alpha, spent,
        chunks[bet.first_chunk] if told and bet.first_chunk is not None else None, "more" if told else None,
        (effect.ratio, effect.lower, effect.upper), "; ".join(filter(None, [reason, effect.reason])),
    )  # fmt: skip


def unjudged_row(evidence: str, budget: float, reason: str) -> pl.DataFrame:
    """One row of :data:`ALARM_SCHEMA` of a chunk about which the ``evidence`` says nothing, and why."""
    return _row(
        evidence, Status.insufficient, None, float("inf"), budget, None, None, None, (None, None, None), reason
    )  # fmt: skip


def _row(
    evidence: str,
    status: Status,
    statistic: float | None,
    limit: float,
    budget: float,
    spent: float | None,
    first: datetime | None,
    direction: str | None,
    effect: tuple[float | None, float | None, float | None],
    reason: str,
) -> pl.DataFrame:
    # A limit of infinity is a test that may spend nothing: there is none.
    finite = limit if np.isfinite(limit) else None
    values = (evidence, status.value, statistic, finite, budget, spent, first, direction, *effect, reason)
    return pl.DataFrame([values], schema=ALARM_SCHEMA, orient="row")


def partial_harm_finding(alarm: PartialAlarm) -> Finding:
    """``calibration_holds`` by the anytime-valid test: do the positives so far agree with those expected?"""
    check, status = "calibration_holds", _partial_status(alarm)
    if status is Status.insufficient:
        return unknown(check, alarm.reason)
    return Finding(check, status, alarm.reason, alarm.log_e, alarm.limit)


def _partial_status(alarm: PartialAlarm) -> Status:
    if alarm.insufficient:
        return Status.insufficient
    return Status.failed if alarm.harmful else Status.passed


def realized_harm_finding(bet: LossBet, loss: str = "error rate") -> Finding:
    """``realized_performance_holds`` by betting: are the realized losses no higher than the reference's?"""
    check = "realized_performance_holds"
    status, reason = _realized(bet, loss)
    if status is Status.insufficient:
        return unknown(check, reason)
    return Finding(check, status, reason, bet.log_e, bet.limit)


def _realized(bet: LossBet, loss: str) -> tuple[Status, str]:
    policy, rows = bet.policy, sum(c.rows for c in bet.seen)
    if policy.realized_alpha == 0:
        return Status.insufficient, "harm.partial_share leaves no budget to realized losses"
    if bet.reference.rows < policy.min_rows:
        return Status.insufficient, (
            f"{bet.reference.rows} labelled rows in the reference; min_rows asks for {policy.min_rows}"
        )
    if rows < policy.min_rows:
        return Status.insufficient, f"{rows} labelled rows so far; min_rows asks for {policy.min_rows}"
    since = bet.since_change
    reason = (
        f"{loss} {since.mean:.4f} on {since.rows} labelled rows of the last {len(bet.seen) - (bet.first_chunk or 0)} "
        f"chunks, reference {bet.reference.mean:.4f} on {bet.reference.rows}; log evidence of harm "
        f"{bet.log_e:.1f}, limit {bet.limit:.1f}"
    )
    return (Status.failed if bet.harmful else Status.passed), reason


def ranking_finding(
    label: np.ndarray,
    probability: np.ndarray,
    reference_auc: float,
    max_drop: float,
    alpha: float,
    reference_error: float = 0.0,
) -> Finding:
    """``realized_performance_holds`` by ranking: is the ROC AUC of a matured cohort no further below the reference's?

    A one-sided upper bound by DeLong's standard errors of cohort and reference: a reference that was lucky must not
    alarm for the rest of its life. Each cohort is tested once, at the share of a year's budget that falls to it
    (Bonferroni over the year's looks).

    Args:
        label: 0/1, shape (rows,).
        probability: the champion's, same shape.
        reference_auc: ROC AUC on its reference.
        max_drop: how far below is no harm yet.
        alpha: chance of a false alarm in this one look.
        reference_error: standard error of ``reference_auc``; 0 where it is known.
    """
    check, limit = "realized_performance_holds", reference_auc - max_drop
    try:
        value = metrics.roc_auc(label, probability)
        error = float(np.hypot(metrics.roc_auc_error(label, probability), reference_error))
    except metrics.UndefinedMetric as undefined:
        return unknown(check, str(undefined))
    upper = min(1.0, value + float(norm.isf(alpha)) * error)
    known = f" (standard error {reference_error:.3f})" if reference_error else ""
    reason = (
        f"realized ROC AUC {value:.3f} on {len(label)} matured cases, at most {upper:.3f} "
        f"but for a chance of {alpha:.2g}; reference {reference_auc:.3f}{known}, limit {limit:.3f}"
    )
    status = Status.failed if upper < limit else Status.passed
    return Finding(check, status, reason, value, limit)


def joint_finding(parts: Sequence[Finding]) -> Finding:
    """One check's answer from several tests of it: any failure fails it, and it is known where one test is known.

    Raises:
        ValueError: there is no test.
    """
    if not parts:
        raise ValueError("no test to answer by")
    order = {Status.failed: 0, Status.passed: 1, Status.insufficient: 2}
    first, *others = sorted(parts, key=lambda f: order[f.status])
    return replace(first, reason="; ".join([first.reason, *(f.reason for f in others)]))
