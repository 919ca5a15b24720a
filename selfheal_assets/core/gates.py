"""The gates between a challenger and production. All must pass; a missing input fails closed.

Each gate is a pure function of evidence and policy and says what it measured, against which limit, on how
many rows. Nothing here knows where the evidence came from.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from math import ceil, isfinite
from typing import Any

from scipy.stats import norm

from selfheal_assets.core.evaluation import Approval, Comparison
from selfheal_assets.core.policies import GatePolicy

NAMES = {"f1": "F1", "roc_auc": "ROC AUC"}
NEVER = datetime.min  # last_promotion where there was none: None is 'unknown', and fails


class Verdict(StrEnum):
    """What one gate says."""

    passed = "PASS"
    failed = "FAIL"
    inconclusive = "INCONCLUSIVE"


@dataclass(frozen=True)
class GateResult:
    """One gate's answer with its evidence, as it is written into the decision."""

    gate: str
    verdict: Verdict
    reason: str
    value: float | None = None
    limit: float | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Servability:
    """What loading and running the registered bundle in the serving code gave."""

    loads: bool
    largest_difference: float
    latency_ms: float
    size_mb: float
    error: str = ""


@dataclass(frozen=True)
class GateInputs:
    """All evidence of one decision. ``None`` means it is missing, and its gate fails."""

    as_of: datetime | None
    overall: dict[str, Comparison] | None
    segments: list[Comparison] | None
    label_coverage: float | None
    last_promotion: datetime | None
    servability: Servability | None
    approvals: dict[str, dict[str, Approval]] | None
    has_champion: bool | None
    ineligible: str | None = ""


def _missing(gate: str, what: str) -> GateResult:
    return GateResult(gate, Verdict.failed, f"no {what}: a gate without its input fails")


def _compared(inputs: GateInputs, metric: str) -> Comparison | None:
    return (inputs.overall or {}).get(metric)


def _judge(
    gate: str, ok: bool, reason: str, value: float | None = None, limit: float | None = None, **evidence: Any
) -> GateResult:
    return GateResult(gate, Verdict.passed if ok else Verdict.failed, reason, value, limit, evidence)


def eligibility(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """The challenger is neither the champion itself nor quarantined after a rollback."""
    if inputs.ineligible is None:
        return _missing("eligibility", "word on whether the version may be promoted")
    return _judge("eligibility", not inputs.ineligible, inputs.ineligible or "a new version, not quarantined")


def sample_validity(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """Enough evaluated rows and positives for the comparison to mean something, else INCONCLUSIVE."""
    seen = _compared(inputs, policy.primary_metric)
    if seen is None:
        return GateResult("sample_validity", Verdict.inconclusive, "no comparison could be computed")
    evidence = {"rows": seen.rows, "positives": seen.positives, "min_positives": policy.min_positives}
    if seen.rows < policy.min_rows or seen.positives < policy.min_positives:
        reason = (
            f"{seen.rows} rows with {seen.positives} positives; "
            f"the policy asks for {policy.min_rows} and {policy.min_positives}"
        )
        return GateResult(
            "sample_validity", Verdict.inconclusive, reason, seen.rows, policy.min_rows, evidence
        )
    reason = f"{seen.rows} evaluated rows, {seen.positives} positives"
    return _judge("sample_validity", True, reason, seen.rows, policy.min_rows, **evidence)


def label_coverage(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """Share of the evaluation window's cases whose label is known."""
    share = inputs.label_coverage
    if share is None:
        return _missing("label_coverage", "label coverage")
    reason = f"{share:.0%} of the evaluation window is labelled (at least {policy.min_label_coverage:.0%})"
    return _judge(
        "label_coverage", share >= policy.min_label_coverage, reason, share, policy.min_label_coverage
    )


def cooldown(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """Days since the last promotion; a pass where there was none."""
    if inputs.last_promotion is None or inputs.as_of is None:
        return _missing("cooldown", "date of the decision, or of the last promotion")
    if inputs.last_promotion == NEVER:
        return _judge("cooldown", True, "no promotion yet")
    days = (inputs.as_of - inputs.last_promotion).total_seconds() / 86400
    reason = f"{days:.0f} days since the last promotion (at least {policy.cooldown_days})"
    return _judge("cooldown", days >= policy.cooldown_days, reason, days, policy.cooldown_days)


def improvement(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """Primary metric better by the policy's percentage, and the lower bound of the paired difference above 0.

    INCONCLUSIVE where these rows could hardly have shown such a gain, with the further labels that could.
    """
    seen = _compared(inputs, policy.primary_metric)
    if seen is None:
        return _missing("improvement", "comparison of both models")
    gain = 100 * seen.difference / seen.champion if seen.champion > 0 else float(seen.difference > 0) * 100
    reason = (
        f"{NAMES[seen.metric]} {seen.champion:.4f} → {seen.challenger:.4f} ({gain:+.1f} %, at least "
        f"+{policy.min_improvement_pct:g} %); {policy.confidence:.0%} lower bound of the gain {seen.lower:+.4f}"
    )
    ok = gain >= policy.min_improvement_pct and seen.lower > 0
    power, further = _power(seen, policy)
    evidence = {"lower": seen.lower, "upper": seen.upper, "rows": seen.rows, "power": power}
    if further is not None:
        reason += (
            f"; a gain of that size would have shown with a chance of {power:.0%}: {further:,} more labels"
        )
        evidence["further_labels"] = further
        limit = policy.min_improvement_pct
        return GateResult("improvement", Verdict.inconclusive, reason, gain, limit, evidence)
    return _judge("improvement", ok, reason, gain, policy.min_improvement_pct, **evidence)


def _power(seen: Comparison, policy: GatePolicy) -> tuple[float | None, int | None]:
    """Chance that the wanted gain, if true, had put the lower bound above 0; and the further labels it takes.

    The bounds are taken as normal: with standard error e the chance is Phi(gain / e - z(confidence)), and e falls
    with the root of the rows. No further labels are named where the rows have told already: the lower bound is
    above 0, the upper one below the wanted gain, or the power was at least ``min_power``.
    """
    wanted = seen.champion * policy.min_improvement_pct / 100
    z = float(norm.ppf(policy.confidence))
    error = (seen.upper - seen.lower) / (2 * z)
    if not (isfinite(error) and isfinite(wanted) and isfinite(seen.difference) and error > 0 and wanted > 0):
        return None, None
    power = float(norm.cdf(wanted / error - z))
    if seen.lower > 0 or seen.upper < wanted or power >= policy.min_power:
        return power, None
    needed = seen.rows * ((z + float(norm.ppf(policy.min_power))) * error / wanted) ** 2
    return power, max(ceil(needed) - seen.rows, 1)


def calibration(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """Brier score no worse than the limit, by the upper bound."""
    brier = _compared(inputs, "brier")
    if brier is None:
        return _missing("calibration", "comparison of both models")
    reason = (
        f"Brier {brier.champion:.4f} → {brier.challenger:.4f}; {policy.confidence:.0%} upper bound of the "
        f"change {brier.upper:+.4f} (at most +{policy.max_brier_degradation:g})"
    )
    ok = brier.upper <= policy.max_brier_degradation
    return _judge("calibration", ok, reason, brier.upper, policy.max_brier_degradation, rows=brier.rows)


def segments(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """No segment proved worse by more than the limit: by its upper bound at the level shared among all segments.

    An equal challenger is refused with probability at most 1 - confidence, however many segments there are. Where
    a loss of twice the limit would be missed half of the time, the segment is named: it had no power.
    """
    if inputs.segments is None:
        return _missing("segments", "comparison by segment")
    share, compared = policy.max_segment_degradation_pct / 100, len(inputs.segments)
    # Not '<': a bound that is not a number must fail.
    worse = {
        s.segment: 100 * s.difference / s.champion if s.champion else s.difference
        for s in inputs.segments
        if not (s.upper >= -share * s.champion and isfinite(s.difference))
    }
    weak = [s.segment for s in inputs.segments if s.upper - s.difference > share * s.champion]
    note = f"; no power to see a loss of twice that in {', '.join(weak)}" if weak else ""
    limit, evidence = -policy.max_segment_degradation_pct, {"worse": worse, "without_power": weak}
    if worse:
        name = min(worse, key=lambda s: worse[s])
        reason = f"{len(worse)} of {compared} segments proved worse than −{-limit:g} %: {name} {worse[name]:+.1f} %"
        return _judge("segments", False, reason + note, worse[name], limit, **evidence)
    reason = f"none of {compared} segments with enough rows is proved worse than {limit:g} %{note}"
    return _judge("segments", True, reason, None, limit, **evidence)


def fairness(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """Adverse impact ratio (lowest approval rate over highest) of each group the use case names.

    A group with too few rows is left out, and named; where it leaves nothing to compare with, nobody can tell.
    """
    if inputs.approvals is None or not all(inputs.approvals.values()):
        return _missing("fairness", "approval rates")
    if not inputs.approvals:
        return _judge("fairness", True, "the use case names no protected groups")
    ratios, small, unclear = {}, {}, []
    for name, groups in inputs.approvals.items():
        few = {f"{name}={g}": a.rows for g, a in groups.items() if a.rows < policy.min_segment_rows}
        rates = [a.rate for a in groups.values() if a.rows >= policy.min_segment_rows]
        small |= few
        if few and len(rates) < 2:
            unclear.append(name)
        else:
            ratios[name] = min(rates) / max(rates) if max(rates) > 0 else 0.0
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
    return _judge("fairness", not unfair, reason, ratios[name], limit, **evidence)


def servability(inputs: GateInputs, policy: GatePolicy) -> GateResult:
    """The registered bundle loads in the serving code and gives the trained scores, in time and size."""
    seen = inputs.servability
    if seen is None:
        return _missing("servability", "serving trial")
    if not seen.loads:
        return _judge("servability", False, f"the registered bundle does not load: {seen.error}")
    ok = (
        seen.largest_difference == 0
        and seen.latency_ms <= policy.max_latency_ms
        and seen.size_mb <= policy.max_size_mb
    )
    reason = (
        f"loads; scores differ by at most {seen.largest_difference:g}; {seen.latency_ms:.2f} ms a row "
        f"(at most {policy.max_latency_ms:g}); {seen.size_mb:.2f} MB (at most {policy.max_size_mb:g})"
    )
    return _judge("servability", ok, reason, seen.latency_ms, policy.max_latency_ms)


_FIRST_CHAMPION = (eligibility, servability)
_ALL = (
    eligibility,
    sample_validity,
    label_coverage,
    cooldown,
    improvement,
    calibration,
    segments,
    fairness,
    servability,
)


def evaluate_gates(inputs: GateInputs, policy: GatePolicy) -> list[GateResult]:
    """Every gate's result. A first champion has nothing to be compared with: only servability applies."""
    # 'is False': where nobody knows whether there is a champion, all gates apply.
    return [gate(inputs, policy) for gate in (_FIRST_CHAMPION if inputs.has_champion is False else _ALL)]
