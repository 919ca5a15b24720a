"""The gates between a challenger and production. All must pass; a missing input fails closed.

Each gate is a pure function of evidence and policy and says what it measured, against which limit, on how
many rows. Nothing here knows where the evidence came from.
"""

from math import ceil, isfinite

from selfheal_assets.core.evaluation import Approval, Comparison, impact_ratio
from selfheal_assets.core.gate_evidence import (
    NEVER,
    GateInputs,
    GateResult,
    Verdict,
    compared,
    judge,
    missing,
)
from selfheal_assets.core.partial_gates import calibration_so_far, improvement_so_far
from selfheal_assets.core.policies import GatePolicy
from selfheal_assets.core.power import power_and_need

NAMES = {"f1": "F1", "roc_auc": "ROC AUC"}
CHANCE = 0.5  # ROC AUC of scores that say nothing: no policy could ask for less


def eligibility(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """The challenger is neither the champion itself nor quarantined after a rollback."""
    if inputs.ineligible is None:
        return missing("eligibility", "word on whether the version may be promoted")
    return judge("eligibility", not inputs.ineligible, inputs.ineligible or "a new version, not quarantined")


def sample_validity(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """Enough evaluated rows and positives for the comparison to mean something, else INCONCLUSIVE."""
    so_far = " so far" if policy.evidence == "partial" else ""
    seen = compared(inputs, "log_loss" if so_far else policy.primary_metric)
    if seen is None:
        return GateResult("sample_validity", Verdict.inconclusive, "no comparison could be computed")
    evidence = {"rows": seen.rows, "positives": seen.positives, "min_positives": policy.min_positives}
    if seen.rows < policy.min_rows or seen.positives < policy.min_positives:
        evidence["further_labels"] = max(policy.min_positives - seen.positives, policy.min_rows - seen.rows)
        reason = (
            f"{seen.rows} rows with {seen.positives} positives{so_far}; "
            f"the policy asks for {policy.min_rows} and {policy.min_positives}"
        )
        return GateResult(
            "sample_validity", Verdict.inconclusive, reason, seen.rows, policy.min_rows, evidence
        )
    reason = f"{seen.rows} evaluated rows, {seen.positives} positives{so_far}"
    return judge("sample_validity", True, reason, seen.rows, policy.min_rows, **evidence)


def label_coverage(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """Share of the evaluation window's cases whose label is known; age-adjusted where labels so far decide.

    Then it is the share of the positives expected by their ages that have come: a feed that fell silent fails.
    """
    share = inputs.label_coverage
    if share is None:
        return missing("label_coverage", "label coverage")
    what = "of the evaluation window is labelled"
    if policy.evidence == "partial":
        what = "of the positives expected by their ages have been reported"
    reason = f"{share:.0%} {what} (at least {policy.min_label_coverage:.0%})"
    return judge(
        "label_coverage", share >= policy.min_label_coverage, reason, share, policy.min_label_coverage
    )


def cooldown(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """Days since the last promotion; a pass where there was none."""
    if inputs.last_promotion is None or inputs.as_of is None:
        return missing("cooldown", "date of the decision, or of the last promotion")
    if inputs.last_promotion == NEVER:
        return judge("cooldown", True, "no promotion yet")
    days = (inputs.as_of - inputs.last_promotion).total_seconds() / 86400
    reason = f"{days:.0f} days since the last promotion (at least {policy.cooldown_days})"
    return judge("cooldown", days >= policy.cooldown_days, reason, days, policy.cooldown_days)


def improvement(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """Primary metric better by the policy's percentage, and the lower bound of the paired difference above 0.

    INCONCLUSIVE where these rows could hardly have shown such a gain, with the further labels that could.
    """
    seen = compared(inputs, policy.primary_metric)
    if seen is None:
        return missing("improvement", "comparison of both models")
    gain = 100 * seen.difference / seen.champion if seen.champion > 0 else float(seen.difference > 0) * 100
    reason = (
        f"{NAMES[seen.metric]} {seen.champion:.4f} → {seen.challenger:.4f} ({gain:+.1f} %, at least "
        f"+{policy.min_improvement_pct:g} %); {policy.confidence:.0%} lower bound of the gain {seen.lower:+.4f}"
    )
    ok = gain >= policy.min_improvement_pct and seen.lower > 0
    power, further = _further_labels(seen, policy)
    evidence = {"lower": seen.lower, "upper": seen.upper, "rows": seen.rows, "power": power}
    if further is not None:
        reason += (
            f"; a gain of that size would have shown with a chance of {power:.0%}: {further:,} more labels"
        )
        evidence["further_labels"] = further
        limit = policy.min_improvement_pct
        return GateResult("improvement", Verdict.inconclusive, reason, gain, limit, evidence)
    return judge("improvement", ok, reason, gain, policy.min_improvement_pct, **evidence)


def _further_labels(seen: Comparison, policy: GatePolicy) -> tuple[float | None, int | None]:
    """Power for the wanted gain, and the further labels it takes.

    None are named where the rows have told already: the lower bound is above 0, the upper one below the wanted
    gain, or the power was at least ``min_power``.
    """
    wanted = seen.champion * policy.min_improvement_pct / 100
    power, needed = power_and_need(seen, wanted, policy)
    told = seen.lower > 0 or seen.upper < wanted
    if power is None or needed is None or told or power >= policy.min_power or not isfinite(seen.difference):
        return power, None
    return power, max(ceil(seen.rows * (needed - 1)), 1)


def ranking(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """The challenger itself ranks better than chance, as to be better than one that ranks backwards is not enough; or
    each case as the champion does: refusing a better level would keep the same ranking."""
    seen = compared(inputs, "roc_auc")
    if seen is None:
        return missing("ranking", "ROC AUC of the challenger")
    so_far = " so far" if policy.evidence == "partial" else ""
    reason = f"the challenger's ROC AUC{so_far} {seen.challenger:.4f} (above {CHANCE})"
    ok = seen.challenger > CHANCE
    if not ok and seen.lower == seen.upper == 0:
        ok, reason = True, f"{reason}, and that of the champion, which ranks each case alike"
    return judge("ranking", ok, reason, seen.challenger, CHANCE, rows=seen.rows)


def calibration(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """Brier score no worse than the limit, by the upper bound."""
    brier = compared(inputs, "brier")
    if brier is None:
        return missing("calibration", "comparison of both models")
    reason = (
        f"Brier {brier.champion:.4f} → {brier.challenger:.4f}; {policy.confidence:.0%} upper bound of the "
        f"change {brier.upper:+.4f} (at most +{policy.max_brier_degradation:g})"
    )
    ok = brier.upper <= policy.max_brier_degradation
    return judge("calibration", ok, reason, brier.upper, policy.max_brier_degradation, rows=brier.rows)


def segments(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """No segment worse by more than the limit, and proved to be worse at all.

    Proved: by its upper bound, at the level shared among all segments, so that an equal challenger is refused with
    probability at most 1 - confidence, however many segments there are. Where a loss of twice the limit would be
    missed half of the time, the segment is named: it had no power. A figure that is missing on one side fails.
    """
    if inputs.segments is None:
        return missing("segments", "comparison by segment")
    share, limit = policy.max_segment_degradation_pct / 100, -policy.max_segment_degradation_pct
    # Not '<' alone: a figure that is not a number must fail.
    worse = {
        s.segment: 100 * s.difference / s.champion if s.champion else s.difference
        for s in inputs.segments
        if not isfinite(s.upper + s.difference) or (s.difference < -share * s.champion and s.upper < 0)
    }
    weak = [s.segment for s in inputs.segments if s.upper - s.difference > 2 * share * s.champion]
    note = f"; no power to see a loss of twice that in {', '.join(weak)}" if weak else ""
    evidence, of = {"worse": worse, "without_power": weak}, f"of {len(inputs.segments)} segments"
    if worse:
        name = min(worse, key=lambda s: worse[s])
        reason = (
            f"{len(worse)} {of} proved worse, by more than {-limit:g} %: {name} {worse[name]:+.1f} %{note}"
        )
        return judge("segments", False, reason, worse[name], limit, **evidence)
    reason = f"none {of} with enough rows is proved worse, by more than {-limit:g} %{note}"
    return judge("segments", True, reason, None, limit, **evidence)


def fairness(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """Adverse impact ratio (lowest approval rate over highest) of each group the use case names.

    A group with too few rows is left out, and named; where it leaves nothing to compare with, nobody can tell.
    """
    if inputs.approvals is None or not all(inputs.approvals.values()):
        return missing("fairness", "approval rates")
    if not inputs.approvals:
        return judge("fairness", True, "the use case names no protected groups")
    ratios, small, unclear = {}, {}, []
    for name, groups in inputs.approvals.items():
        few = {f"{name}={g}": a.rows for g, a in groups.items() if a.rows < policy.min_segment_rows}
        large = [a for a in groups.values() if a.rows >= policy.min_segment_rows]
        small |= few
        if few and len(large) < 2:
            unclear.append(name)
        else:
            least, most = min(large, key=_rate), max(large, key=_rate)
            ratios[name] = impact_ratio(least, most) if most.rate > 0 else 0.0
    left_out = ", ".join(f"{group} has {rows}" for group, rows in small.items())
    note = (
        f"; too small to be compared (at least {policy.min_segment_rows} rows): {left_out}" if small else ""
    )
    limit, evidence = policy.min_adverse_impact_ratio, {"ratios": ratios, "too_small": small}
    # Not '<': a ratio that is not a number must fail.
    unfair = [name for name, ratio in ratios.items() if not ratio >= limit]
    if unclear and not unfair:
        reason = f"{', '.join(unclear)}: fewer than two groups can be compared{note}"
        return GateResult("fairness", Verdict.inconclusive, reason, None, limit, evidence)
    name = min(unfair or ratios, key=lambda n: ratios[n])
    reason = f"adverse impact ratio of {name} {ratios[name]:.2f} (at least {limit:.2f}){note}"
    return judge("fairness", not unfair, reason, ratios[name], limit, **evidence)


def _rate(group: Approval) -> float:
    return group.rate


def servability(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """The registered bundle loads in the serving code and gives the trained scores, in time and size."""
    seen = inputs.servability
    if seen is None:
        return missing("servability", "serving trial")
    if not seen.loads:
        return judge("servability", False, f"the registered bundle does not serve: {seen.error}")
    ok = (
        seen.largest_difference <= policy.max_score_difference
        and seen.latency_ms <= policy.max_latency_ms
        and seen.size_mb <= policy.max_size_mb
    )
    reason = (
        f"loads in a fresh process; scores differ by at most {seen.largest_difference:g}; "
        f"{seen.latency_ms:.2f} ms a row (at most {policy.max_latency_ms:g}); {seen.size_mb:.2f} MB (at most "
        f"{policy.max_size_mb:g})"
    )
    return judge("servability", ok, reason, seen.latency_ms, policy.max_latency_ms)


_FIRST_CHAMPION = (eligibility, servability)
_MATURED = (improvement, calibration)
_PARTIAL = (improvement_so_far, calibration_so_far)


def evaluate_gates(inputs: GateInputs, policy: GatePolicy) -> list[GateResult]:
    """Every gate's result. A first champion has nothing to be compared with: only servability applies."""
    better = _PARTIAL if policy.evidence == "partial" else _MATURED
    every = (
        eligibility,
        sample_validity,
        label_coverage,
        cooldown,
        *better,
        ranking,
        segments,
        fairness,
        servability,
    )
    # 'is False': where nobody knows whether there is a champion, all gates apply.
    return [gate(inputs, policy) for gate in (_FIRST_CHAMPION if inputs.has_champion is False else every)]
