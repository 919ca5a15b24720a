"""From monitoring figures to findings: what holds, what does not, what cannot be told.

A finding is the healthy truth's test: PASS, FAIL or INSUFFICIENT_DATA (unknown is not healthy), with the
statistic, its limit and the reason in words.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import polars as pl
from scipy.stats import norm

from selfheal_assets.core.spec import AlarmPolicy, Feature


class Status(StrEnum):
    """Outcome of a check."""

    passed = "PASS"
    failed = "FAIL"
    insufficient = "INSUFFICIENT_DATA"


@dataclass(frozen=True)
class Finding:
    """What one check found in one chunk."""

    check: str
    status: Status
    reason: str
    statistic: float | None = None
    limit: float | None = None


def finding_frame(findings: list[Finding]) -> pl.DataFrame:
    """Findings as rows: ``check``, ``status``, ``statistic``, ``limit``, ``reason``."""
    schema = {
        "check": pl.String,
        "status": pl.String,
        "statistic": pl.Float64,
        "limit": pl.Float64,
        "reason": pl.String,
    }
    rows = [(f.check, f.status.value, f.statistic, f.limit, f.reason) for f in findings]
    return pl.DataFrame(rows, schema=schema, orient="row")


def unknown(check: str, reason: str) -> Finding:
    """The finding of a check that cannot tell."""
    return Finding(check, Status.insufficient, reason)


def reference_shortage(policy: AlarmPolicy, rows: int, positives: int | None = None) -> str:
    """Why a champion's reference of this size judges nothing; empty where it is large enough.

    Args:
        policy: asks for ``min_rows``, and for ``min_positives`` of each class where labels matter.
        rows: of the reference.
        positives: among them; omitted where no label is needed, as for drift.
    """
    short = rows < policy.min_rows
    held, asked = f"{rows} rows", f"min_rows = {policy.min_rows}"
    if positives is not None:
        short |= min(positives, rows - positives) < policy.min_positives
        held += f" with {positives} positives"
        asked += f" and min_positives = {policy.min_positives} of each class"
    return f"the champion's reference has {held}; policy.alarms asks for {asked}" if short else ""


PROXY_SCHEMA = {"metric": pl.String, "value": pl.Float64, "unit": pl.String, "reason": pl.String}
_PROXY_UNITS = {
    "mean_score": "probability",
    "positive_rate": "share",
    "score_entropy": "bits",
    "missing_share": "share",
}


def proxy_metrics(predictions: pl.DataFrame, features: tuple[Feature, ...]) -> pl.DataFrame:
    """Figures that need no label and no reference.

    Args:
        predictions: ``probability`` (f64), ``prediction`` (0/1) and the features.

    Returns:
        ``metric``, ``value``, ``unit``, ``reason`` (null exactly where there is a value): volume (rows), mean score,
        positive rate (shares), score entropy (mean binary entropy in bits), missing share over all feature values.
        Without rows, all but the volume are unknown; so are those of the scores where one is no probability.
    """
    rows = predictions.height
    figures: dict[str, float | None] = dict.fromkeys(_PROXY_UNITS)
    why = "no predictions in this chunk"
    if rows:
        scores = predictions["probability"]
        lost = rows - int(scores.is_between(0, 1).sum())
        why = f"{lost} of {rows} scores are no probabilities (missing, or not in 0..1)"
        figures["positive_rate"] = float(predictions["prediction"].to_numpy().mean())
        figures["missing_share"] = sum(_missing(predictions[f.name]) for f in features) / (
            rows * len(features)
        )
        if not lost:
            p = np.clip(scores.to_numpy(), 1e-12, 1 - 1e-12)
            figures["mean_score"] = float(scores.to_numpy().mean())
            figures["score_entropy"] = float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean())
    table = [("volume", float(rows), "rows", None)]
    table += [(m, figures[m], unit, why if figures[m] is None else None) for m, unit in _PROXY_UNITS.items()]
    return pl.DataFrame(table, schema=PROXY_SCHEMA, orient="row")


def _missing(values: pl.Series) -> int:
    """Empty values; of numbers NaN too, which is no value either."""
    return values.null_count() + (int(values.is_nan().sum()) if values.dtype.is_float() else 0)


def drift_finding(drift: pl.DataFrame, policy: AlarmPolicy) -> Finding:
    """Whether enough features moved further than the policy's distance and than the reference's own scatter."""
    check = "drift_within_limits"
    measured = drift.filter(pl.col("value").is_not_null())
    if measured.is_empty():
        return unknown(check, "no feature's drift could be measured: is univariate_drift materialized?")
    limit = pl.max_horizontal(pl.lit(policy.jensen_shannon), pl.col("threshold"))
    moved = measured.filter(pl.col("value") > limit).sort("value", descending=True)
    names = ", ".join(f"{f} {v:.2f}" for f, v in moved.select("feature", "value").iter_rows())
    blank = drift.height - measured.height
    unmeasured = f"; {blank} more could not be measured" if blank else ""
    worst = float(measured["value"].max())  # type: ignore[arg-type]
    if moved.height >= policy.min_drifted_features:
        reason = (
            f"{moved.height} of {measured.height} measured features drifted (Jensen–Shannon distance): "
            f"{names}{unmeasured}"
        )
        return Finding(check, Status.failed, reason, worst, policy.jensen_shannon)
    reason = (
        f"{moved.height} of {measured.height} measured features beyond {policy.jensen_shannon:g}{unmeasured}"
    )
    return Finding(check, Status.passed, reason, worst, policy.jensen_shannon)


def estimate_finding(estimates: pl.DataFrame, reference_auc: float, policy: AlarmPolicy) -> Finding:
    """Whether the estimated ROC AUC stays near the reference's: the lower of NannyML's and the policy's limits."""
    check = "estimated_performance_holds"
    known = estimates.filter((pl.col("metric") == "roc_auc") & pl.col("value").is_not_null())
    if known.is_empty():
        said = estimates.filter(pl.col("metric") == "roc_auc")["reason"].drop_nulls().to_list()
        why = said[0] if said else "too few predictions or no reference for the champion"
        return unknown(check, f"no estimate: {why}")
    row = known.row(0, named=True)
    limit = min(row["threshold_lower"] or 1.0, reference_auc - policy.max_auc_drop)
    reason = f"estimated ROC AUC {row['value']:.3f}, reference {reference_auc:.3f}, limit {limit:.3f}"
    reason += f"; {row['reason']}" if row["reason"] else ""
    status = Status.failed if row["value"] < limit else Status.passed
    return Finding(check, status, reason, row["value"], limit)


def calibration_finding(cohorts: pl.DataFrame, policy: AlarmPolicy) -> Finding:
    """Whether the positives observed so far agree with those expected so far, over all cohorts.

    Fails when the ratio leaves the policy's band and chance is an unlikely reason: normal approximation of the
    Poisson-binomial count, two-sided at the policy's level.
    """
    check = "calibration_holds"
    expected, observed = float(cohorts["expected"].sum()), float(cohorts["observed"].sum())
    if max(expected, observed) < policy.min_positives:
        reason = (
            f"{expected:.0f} positives expected and {observed:.0f} observed so far; "
            f"alarms.min_positives asks for {policy.min_positives}"
        )
        return unknown(check, reason)
    if expected == 0 and not cohorts["share_known"].sum():
        reason = (
            f"{observed:.0f} positives observed so far, but the timing curve expects none to be known at this "
            f"age: no mature positive tells how early they come"
        )
        return unknown(check, reason)
    ratio = expected / max(observed, 1.0)
    z = (observed - expected) / max(float(cohorts["variance"].sum()), 1e-12) ** 0.5
    low, high = policy.calibration_ratio
    p = 2 * float(norm.sf(abs(z)))
    outside, surprising = not low <= ratio <= high, p < policy.calibration_alpha
    where = f"outside {low:g}–{high:g}" if outside else f"within {low:g}–{high:g}"
    if outside and not surprising:
        where += f", but not significantly: p = {p:.2g}, limit {policy.calibration_alpha:g}"
    reason = (
        f"{expected:.0f} positives expected so far, {observed:.0f} observed: expected/observed {ratio:.2f} "
        f"({where}), z = {z:+.1f}"
    )
    failed = outside and surprising
    return Finding(
        check, Status.failed if failed else Status.passed, reason, ratio, low if ratio < 1 else high
    )


def realized_finding(realized: pl.DataFrame, reference_auc: float, policy: AlarmPolicy) -> Finding:
    """Whether the realized ROC AUC of the newest matured cohort is clearly below the reference's.

    Args:
        realized: as ``core.realized`` returns it.
        reference_auc: ROC AUC on the champion's reference.
        policy: how far below is too far.
    """
    check = "realized_performance_holds"
    auc = realized.filter(pl.col("metric") == "roc_auc", pl.col("segment") == "all")
    if auc.is_empty():
        return unknown(check, "no matured cohort among the champion's predictions yet")
    row = auc.row(0, named=True)
    if row["value"] is None:
        return unknown(check, row["reason"])
    limit = reference_auc - policy.max_auc_drop
    reason = (
        f"realized ROC AUC {row['value']:.3f} (95 % interval {row['lower']:.3f}–{row['upper']:.3f}) on "
        f"{row['rows']} matured cases, reference {reference_auc:.3f}, limit {limit:.3f}"
    )
    status = Status.failed if row["upper"] < limit else Status.passed
    return Finding(check, status, reason, row["value"], limit)


# Their evidence is outcomes. What drift and label-free estimates say may start a look; it certifies nothing, as the
# relation between features and outcome can change while neither moves.
OUTCOME_CHECKS = frozenset({"calibration_holds", "realized_performance_holds"})


def health(findings: list[Finding]) -> tuple[Status, str]:
    """The chunk's health in one word and one sentence.

    Any failure is unhealthy; healthy is what outcomes certify; everything else is unknown.
    """
    failed = [f for f in findings if f.status is Status.failed]
    if failed:
        return Status.failed, "; ".join(f"{f.check}: {f.reason}" for f in failed)
    hold = [f for f in findings if f.status is Status.passed]
    if any(f.check in OUTCOME_CHECKS for f in hold):
        others = "" if len(hold) == len(findings) else ", the others have too little data"
        return Status.passed, f"{len(hold)} of {len(findings)} checks hold{others}"
    unclear = [f"{f.check}: {f.reason}" for f in findings if f.status is Status.insufficient]
    if hold:
        unclear.insert(0, f"{', '.join(sorted(f.check for f in hold))} hold, which no outcome confirms yet")
    return Status.insufficient, "; ".join(unclear)
