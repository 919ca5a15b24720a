"""Should a promotion be taken back? The evidence of the cases since, read against the predecessor.

A gambler bets on each case that the predecessor judged it better. Where the champion is no worse, no bet gains on
average, so by Ville's inequality the wealth ever reaches 1/alpha with probability at most alpha, however often it is
looked at. Neither model needs to be calibrated: two models that are equally wrong are equally good. Two tests share
alpha:

- *ranking*: each positive, when it becomes known, is a bet on which model had ranked it higher among the cases of its
  cohort. It needs no timing curve, and each positive counts once;
- *likelihood*: each case is judged by what was known of it at a given age, once at each of a few ages. It also sees
  probabilities that are wrong in the right order. The same cases stand in the sequence of each age, so these wealths
  are martingales each in its own history only: they may not be averaged, and each is tested at an equal share.

Sources: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, 2023; Henzi and Ziegel,
Valid sequential inference on probability forecast performance, 2022.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from scipy.special import logsumexp

from selfheal_assets.core.maturity import TimingCurve, log_likelihood_ratios
from selfheal_assets.core.policies import RollbackPolicy

_DECIMALS = 6  # scores that differ by less are one value


@dataclass(frozen=True)
class RollbackEvidence:
    """What speaks for or against the champion since its promotion.

    ``log_wealth`` (nats) is that of the test that stands nearest to its ``limit``, or furthest above; at or above it
    the promotion is taken back.
    """

    roll_back: bool
    reason: str
    log_wealth: float
    limit: float
    rows: int
    positives: int


@dataclass(frozen=True)
class _Test:
    """One test's wealth and limit (nats), and what it was reached on."""

    log_wealth: float
    limit: float
    on: str


def technical_failure(scores: np.ndarray, policy: RollbackPolicy) -> str:
    """Why these scores cannot be those of a working model; empty where they can."""
    if not np.isfinite(scores).all():
        return f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite"
    if len(scores) < policy.min_scores:
        return ""
    values, counts = np.unique(np.round(scores, _DECIMALS), return_counts=True)
    if counts.max() > policy.max_equal_share * len(scores):
        return f"{counts.max()} of {len(scores)} scores are equal to {values[counts.argmax()]:g}"
    return ""


def log_wealth(gains: np.ndarray, policy: RollbackPolicy) -> float:
    """Log of the mean wealth of all bets after these gains, each in [-1, 1]; their order makes no difference."""
    grown = np.array([np.log1p(bet * gains).sum() for bet in policy.bets])
    return float(logsumexp(grown) - np.log(len(grown)))


def judge_promotion(
    cases: pl.DataFrame, curve: TimingCurve, policy: RollbackPolicy, probation_days: int
) -> RollbackEvidence:
    """Compare both models on the cases since the promotion, by what has become known of them so far.

    Args:
        cases: ``cohort`` (Datetime), ``champion``, ``predecessor`` (f64: probabilities), ``age_days`` (f64),
            ``positive_age_days`` (f64: age at which the positive label became known; null where none has); a case a
            row.
        curve: F(a) as of the promotion, the same at each look.
        policy: of the rollback.
        probation_days: no case is older when it is looked at for the last time.
    """
    rows, positives = cases.height, int(cases["positive_age_days"].count())
    champion, predecessor = cases["champion"].to_numpy(), cases["predecessor"].to_numpy()
    failure, other = technical_failure(champion, policy), technical_failure(predecessor, policy)
    if failure and not other:
        return RollbackEvidence(True, failure, 0.0, 0.0, rows, positives)
    if other:  # where neither tells the cases apart, the cases are at fault
        reason = f"there is no working predecessor to go back to: {other}"
        return RollbackEvidence(False, reason, 0.0, 0.0, rows, positives)
    tests = [_ranking(cases, policy), *_likelihoods(cases, curve, policy, probation_days)]
    nearest = max(tests, key=lambda t: t.log_wealth - t.limit)
    reason = (
        f"log wealth of the bets on the predecessor {nearest.log_wealth:+.2f} (rolls back from {nearest.limit:.2f}) "
        f"{nearest.on}; {rows} cases since the promotion, {positives} positive so far"
    )
    return RollbackEvidence(
        nearest.log_wealth >= nearest.limit, reason, nearest.log_wealth, nearest.limit, rows, positives
    )


def _ranking(cases: pl.DataFrame, policy: RollbackPolicy) -> _Test:
    """Each positive's rank among its cohort by the predecessor less that by the champion, as shares of the cohort."""
    gain = [pl.col(m).rank("average").over("cohort") for m in ("predecessor", "champion")]
    ranked = cases.select(
        gain=(gain[0] - gain[1]) / pl.len().over("cohort"), positive=pl.col("positive_age_days").is_not_null()
    )
    gains = ranked.filter("positive")["gain"].to_numpy()
    limit = float(-np.log(policy.alpha * policy.ranking_share))
    return _Test(log_wealth(gains, policy), limit, f"by the ranking of {len(gains)} positives")


def _likelihoods(
    cases: pl.DataFrame, curve: TimingCurve, policy: RollbackPolicy, probation_days: int
) -> list[_Test]:
    ages = judged_ages(policy, curve.horizon_days, probation_days)
    if not ages:
        return []
    limit = float(np.log(len(ages) / (policy.alpha * (1 - policy.ranking_share))))
    return [_likelihood(cases, age, curve, limit, policy) for age in ages]


def judged_ages(policy: RollbackPolicy, horizon_days: float, probation_days: int) -> list[float]:
    """The ages (days) at which cases are judged: those of the policy, and the horizon, that a probation can see."""
    young = [float(age) for age in policy.ages_days if age < min(horizon_days, probation_days)]
    return [*young, horizon_days] if horizon_days < probation_days else young


def _likelihood(
    cases: pl.DataFrame, age: float, curve: TimingCurve, limit: float, policy: RollbackPolicy
) -> _Test:
    """The evidence of the cases that have reached an age, by what was known of them at that age.

    Ratios are cut on both sides alike, so that which of two equally good models is champion makes no difference.
    """
    reached = cases.filter(pl.col("age_days") >= age)
    positive = (reached["positive_age_days"] <= age).fill_null(False).to_numpy().astype(int)
    due = curve.known_by(np.full(len(positive), age))
    ratios = log_likelihood_ratios(
        reached["champion"].to_numpy(), reached["predecessor"].to_numpy(), positive, due
    )
    largest = np.log(policy.largest_ratio)
    wealth = log_wealth(np.clip(ratios, -largest, largest) / largest, policy)
    on = f"by the likelihood of {len(positive)} cases at the age of {age:.0f} days, {positive.sum()} positive by then"
    return _Test(wealth, limit, on)


def in_probation(promoted_at: datetime, as_of: datetime, days: int) -> bool:
    """Whether a promotion is recent enough to be taken back by itself."""
    return (as_of - promoted_at).days < days
