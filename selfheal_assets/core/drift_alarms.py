"""Drift alarms with an error budget: from counts of chunks to rows that say look, or act, or all quiet.

Two tiers share one budget, the chance of *any* false alarm in a year of monitoring over all features and looks
(``DriftAlarms``). ``warn``: a corrected χ² test of the newest chunk, failed by several of the last chunks on one
feature. ``act``: accumulated evidence (an e-process) beyond what Ville's inequality allows an unchanged stream. The
statistics and what they assume are in ``drift_evidence``.
"""

from dataclasses import dataclass

import polars as pl

from selfheal_assets.core.change_description import Change, describe_change, mass_moved
from selfheal_assets.core.change_point import ChangePoint, change_point
from selfheal_assets.core.drift_evidence import act_limit, log_evidence, two_sample_test, warn_level
from selfheal_assets.core.drift_state import DriftState, FeatureState, begin, chunks_of, merge
from selfheal_assets.core.evidence_policy import DriftAlarms
from selfheal_assets.core.monitoring import Finding, Status, unknown

SAID = 3  # features that a finding tells of in words; the rows have them all
ALARM_SCHEMA = {
    "chunk": pl.String,
    "feature": pl.String,
    "tier": pl.String,
    "status": pl.String,
    "statistic": pl.Float64,
    "limit": pl.Float64,
    "p_value": pl.Float64,
    "budget_spent": pl.Float64,
    "rows": pl.Int64,
    "rows_before": pl.Int64,
    "first_chunk": pl.String,
    "first_chunk_earliest": pl.String,
    "first_chunk_latest": pl.String,
    "first_chunk_score": pl.Float64,
    "direction": pl.String,
    "grown": pl.String,
    "shrunk": pl.String,
    "effect_size": pl.Float64,
    "shift_sd": pl.Float64,
    "mass_moved": pl.Float64,
    "prediction_mass_moved": pl.Float64,
    "reason": pl.String,
}


def drift_alarms(
    reference: pl.DataFrame, history: pl.DataFrame, policy: DriftAlarms, score: str | None = "probability"
) -> pl.DataFrame:
    """Alarm rows of every chunk of a history (see ``alarm_rows``)."""
    state, rows = begin(reference, policy), [pl.DataFrame(schema=ALARM_SCHEMA)]
    for chunk, part in chunks_of(history):
        state = merge(state, chunk, part, policy)
        rows.append(alarm_rows(state, policy, score))
    return pl.concat(rows)


@dataclass(frozen=True)
class Judgement:
    """One tier's answer for one feature and the newest chunk.

    ``beyond``: the statistic is beyond its limit; ``reason`` is why there is no statistic, else empty. ``chunk`` is
    the place of the change among the starts as far as this tier knows: the first chunk of its hits, or None.
    """

    tier: str
    beyond: bool
    statistic: float | None = None
    limit: float | None = None
    p_value: float | None = None
    reason: str = ""


def judge_feature(feature: FeatureState, policy: DriftAlarms, features: int) -> tuple[Judgement, Judgement]:
    """Both tiers' answers for a feature's newest chunk, of ``features`` that are watched."""
    if feature.reference_rows < policy.min_reference_rows:
        reason = (
            f"the reference has {feature.reference_rows} rows of this feature; "
            f"alarms ask for {policy.min_reference_rows}"
        )
        return Judgement("warn", False, reason=reason), Judgement("act", False, reason=reason)
    if not feature.newest(1)[0][1].sum():
        reason = "the chunk has no rows of this feature"
        return Judgement("warn", False, reason=reason), Judgement("act", False, reason=reason)
    return _warning(feature, policy, features), _action(feature, policy, features)


def _warning(feature: FeatureState, policy: DriftAlarms, features: int) -> Judgement:
    from scipy.special import chdtri

    level = warn_level(policy, features)
    tests = [two_sample_test(b, q, policy.min_expected) for b, q in feature.newest(policy.warn_window)]
    newest = tests[-1]
    if isinstance(newest, str):
        return Judgement("warn", False, reason=newest)
    hits = sum(not isinstance(t, str) and t.p_value <= level for t in tests)
    beyond = newest.p_value <= level and hits >= policy.warn_hits
    limit = float(chdtri(newest.degrees, level))
    return Judgement("warn", beyond, newest.statistic, limit, newest.p_value)


def _action(feature: FeatureState, policy: DriftAlarms, features: int) -> Judgement:
    evidence, limit = log_evidence(feature.before, feature.total, policy), act_limit(policy, features)
    return Judgement("act", evidence >= limit, evidence, limit)


def alarm_rows(state: DriftState, policy: DriftAlarms, score: str | None = "probability") -> pl.DataFrame:
    """Both tiers' answers for the newest chunk, one row for each feature and tier.

    Args:
        score: the feature that holds the predictions, for ``prediction_mass_moved``; None where there is none.

    Returns:
        ``chunk``, ``feature``, ``tier`` (warn, act), ``status`` (PASS, FAIL: an alarm, INSUFFICIENT_DATA),
        ``statistic`` and ``limit`` (χ² for warn, log evidence in nats for act), ``p_value`` (of this chunk alone;
        warn only), ``budget_spent`` (the chance that this tier would have raised any false alarm up to here, at
        most), ``rows`` (of the chunk), ``rows_before`` (reference and earlier chunks), and for an alarm: the change
        point (``first_chunk``, ``first_chunk_earliest`` and ``_latest``, ``first_chunk_score``), ``direction``,
        ``grown``, ``shrunk``, ``effect_size``, ``shift_sd``, ``mass_moved`` (see ``change_description.Change``)
        of the rows since that chunk against those before, and ``prediction_mass_moved`` (the same share for the
        scores); ``reason``: why there is no figure, or what the alarm says in words.
    """
    if not state.chunks:
        return pl.DataFrame(schema=ALARM_SCHEMA)
    scores = next((f for f in state.features if f.cells.feature == score), None)
    rows = [
        _row(state, feature, judgement, policy, scores)
        for feature in state.features
        for judgement in judge_feature(feature, policy, len(state.features))
    ]
    return pl.DataFrame(rows, schema=ALARM_SCHEMA, orient="row")


def _row(
    state: DriftState,
    feature: FeatureState,
    judged: Judgement,
    policy: DriftAlarms,
    scores: FeatureState | None,
) -> dict[str, object]:
    share = policy.warn_share if judged.tier == "warn" else 1 - policy.warn_share
    spent = policy.false_alarm_budget * share * state.chunks / policy.chunks_per_year
    before, newest = feature.newest(1)[0]
    row: dict[str, object] = dict.fromkeys(ALARM_SCHEMA) | {
        "chunk": feature.starts[-1],
        "feature": feature.cells.feature,
        "tier": judged.tier,
        "status": Status.insufficient.value if judged.statistic is None else Status.passed.value,
        "statistic": judged.statistic,
        "limit": judged.limit,
        "p_value": judged.p_value,
        "budget_spent": min(spent, 1.0),
        "rows": int(newest.sum()),
        "rows_before": int(before.sum()),
        "reason": judged.reason or None,
    }
    return row | _alarm(feature, judged, policy, scores) if judged.beyond else row


def _alarm(
    feature: FeatureState, judged: Judgement, policy: DriftAlarms, scores: FeatureState | None
) -> dict[str, object]:
    """The columns of a row whose statistic is beyond its limit."""
    point = change_point(feature.starts, feature.before, feature.total, policy.change_confidence)
    if point is None:
        return {"reason": "no chunk has rows before and after it: the change has no first chunk"}
    before = feature.before[point.index]
    change = describe_change(feature.cells, before, feature.total - before, policy.change_confidence)
    assert change is not None  # a change point has rows on both sides
    enough = change.mass_moved >= policy.min_mass_moved
    prediction, why = _prediction_mass(scores, point.index)
    return {
        "status": (Status.failed if enough else Status.passed).value,
        "first_chunk": point.first,
        "first_chunk_earliest": point.earliest,
        "first_chunk_latest": point.latest,
        "first_chunk_score": point.score,
        "direction": change.direction,
        "grown": change.grown,
        "shrunk": change.shrunk,
        "effect_size": change.effect_size,
        "shift_sd": change.shift_sd,
        "mass_moved": change.mass_moved,
        "prediction_mass_moved": prediction,
        "reason": _sentence(feature, judged, point, change, policy) + why,
    }


def _prediction_mass(scores: FeatureState | None, start: int) -> tuple[float | None, str]:
    if scores is None:
        return None, "; the scores are not among the features, so what the predictions moved is not known"
    before = scores.before[start]
    since = scores.total - before
    if not before.sum() or not since.sum():
        return None, "; there are no scores on one side of the change, so what they moved is not known"
    return mass_moved(before, since), ""


def _sentence(
    feature: FeatureState, judged: Judgement, point: ChangePoint, change: Change, policy: DriftAlarms
) -> str:
    said = "warns" if judged.tier == "warn" else "changed"
    moved = f"{change.direction}, {100 * change.mass_moved:.1f} % of rows moved"
    if change.shift_sd is not None:
        moved += f", mean {change.shift_sd:+.2f} SD"
    text = f"{feature.cells.feature} {said} since {point.first} ({point.earliest} to {point.latest}): {moved}"
    if change.mass_moved < policy.min_mass_moved:
        text += f"; certain, but less than the {100 * policy.min_mass_moved:g} % that the policy cares for"
    return text


def alarm_finding(rows: pl.DataFrame, check: str = "drift_within_limits") -> Finding:
    """The check's answer from one chunk's alarm rows: an alarm of either tier fails it, the acting tier first.

    The statistic is the worst feature's share of its limit; 1 or more is an alarm.
    """
    known = rows.filter(pl.col("statistic").is_not_null())
    if known.is_empty():
        why = rows["reason"].drop_nulls().to_list()
        return unknown(check, why[0] if why else "no chunk has been counted yet")
    worst = float((known["statistic"] / known["limit"]).max())  # type: ignore[arg-type]
    blank = rows.filter(pl.col("statistic").is_null())["feature"].n_unique()
    rest = f"; {blank} features not fully judged" if blank else ""
    alarms = rows.filter(pl.col("status") == Status.failed.value)
    if alarms.is_empty():
        reason = f"no alarm on {known['feature'].n_unique()} features{rest}"
        return Finding(check, Status.passed, reason, worst, 1.0)
    first = alarms.sort("tier", "mass_moved", descending=[False, True]).unique(
        "feature", keep="first", maintain_order=True
    )
    said = first["reason"].to_list()
    more = f"; {len(said) - SAID} more changed" if len(said) > SAID else ""
    return Finding(check, Status.failed, "; ".join(said[:SAID]) + more + rest, worst, 1.0)
