"""The gates that read labels so far, of ``policy.gates.evidence: partial``; the others are ``gates``."""

from math import ceil, inf, isfinite, log

from selfheal_assets.core.evaluation import Comparison
from selfheal_assets.core.gate_evidence import GateInputs, GateResult, Verdict, compared, judge, missing
from selfheal_assets.core.partial_comparison import count_bounds
from selfheal_assets.core.policies import GatePolicy
from selfheal_assets.core.power import power_and_need


def improvement_so_far(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """The log loss of labels so far is lower by its bound, and ROC AUC not lower by more than the limit, by its own.

    INCONCLUSIVE where these labels could hardly have shown a gain of ``min_improvement_pct`` of the loss, with the
    further positives that could; and where they could hardly have shown that an equal ranking is equal.
    """
    loss, ranking = compared(inputs, "log_loss"), compared(inputs, "roc_auc")
    if loss is None or ranking is None:
        return missing("improvement", "comparison of both models on labels so far")
    gained, ranks = loss.upper < 0, ranking.lower > -policy.max_ranking_loss
    reason = (
        f"log loss so far {loss.champion:.4f} → {loss.challenger:.4f}; {policy.confidence:.0%} lower bound of the "
        f"gain {-loss.upper:+.5f}; ROC AUC so far {ranking.champion:.4f} → {ranking.challenger:.4f}, lower bound "
        f"{ranking.lower:+.4f} (at least −{policy.max_ranking_loss:g})"
    )
    evidence = {"lower": -loss.upper, "upper": -loss.lower, "rows": loss.rows, "positives": loss.positives}
    evidence |= {"ranking_lower": ranking.lower, "ranking_upper": ranking.upper}
    wanted = loss.champion * policy.min_improvement_pct / 100
    further = 0
    if not gained and -loss.lower >= wanted:  # else the gain is proved to be smaller than that
        further = _further_positives(loss, wanted, policy)
    elif gained and not ranks and ranking.upper >= 0:  # else it is proved to rank worse
        further = _further_positives(ranking, policy.max_ranking_loss, policy)
    if further:
        reason += f"; too few positives so far to tell: {further:,} more"
        evidence["further_labels"] = further
        return GateResult("improvement", Verdict.inconclusive, reason, -loss.upper, 0.0, evidence)
    return judge("improvement", gained and ranks, reason, -loss.upper, 0.0, **evidence)


def _further_positives(seen: Comparison, wanted: float, policy: GatePolicy) -> int:
    """Positives that it takes to tell a difference of ``wanted`` from none; 0 where so many should have told."""
    _, times = power_and_need(seen, wanted, policy)
    return max(ceil(seen.positives * (times - 1)), 0) if times is not None else 0


def calibration_so_far(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """Expected over observed is no farther from 1 than the champion's by more than the limit, by the upper bound."""
    seen = compared(inputs, "expected_over_observed")
    if seen is None:
        return missing("calibration", "comparison of both models on labels so far")
    farther = farther_off(seen, policy.confidence)
    limit = policy.max_calibration_loss
    reason = (
        f"expected/observed so far {seen.champion:.2f} → {seen.challenger:.2f}; {policy.confidence:.0%} upper bound "
        f"of how much farther from 1 (in logs) {farther:+.3f} (at most +{limit:g})"
    )
    return judge("calibration", farther <= limit, reason, farther, limit, positives=seen.positives)


def farther_off(seen: Comparison, confidence: float) -> float:
    """Upper bound of |log(e₂/m)| − |log(e₁/m)| with e expected by each model, m the mean of the observed count.

    It is monotone in m, so that its bound is at one of the exact bounds of m; for equal models it is near 0 whatever
    was observed. Infinite where a figure is missing.
    """
    if not (seen.positives > 0 and min(seen.champion, seen.challenger) > 0):
        return inf
    means = count_bounds(seen.positives, confidence)
    one, other = (seen.positives * r for r in (seen.champion, seen.challenger))
    farther = [abs(log(other / m)) - abs(log(one / m)) for m in means]
    return max(farther) if isfinite(sum(farther)) else inf
