"""From monitoring figures to findings: what holds, what does not, what cannot be told.

A finding is the healthy truth's test: PASS, FAIL or INSUFFICIENT_DATA (unknown is not healthy), with the
statistic, its limit and the reason in words.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import polars as pl

from selfheal_assets.core.policies import AlarmPolicy
from selfheal_assets.core.spec import Feature


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


def chunk_shortage(
    policy: AlarmPolicy, rows: int, reference_rows: int | None, reference_positives: int | None = None
) -> str:
    """Why a chunk, or the reference it is held against, says nothing; empty where both are large enough.

    Args:
        policy: see :func:`reference_shortage`.
        rows: predictions of the chunk.
        reference_rows: of the champion's reference; ``None`` where nothing was served.
        reference_positives: among them; omitted where no label is needed.
    """
    if reference_rows is None or rows < policy.min_rows:
        return f"{rows} predictions in this chunk; alarms.min_rows asks for {policy.min_rows}"
    return reference_shortage(policy, reference_rows, reference_positives)


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


def estimate_finding(estimates: pl.DataFrame, reference_auc: float, policy: AlarmPolicy) -> Finding:
    """Whether the estimated ROC AUC has fallen by no more than the policy's drop below the reference's.

    An estimate that says itself that it is not to be trusted (``trusted`` false) answers nothing.
    """
    check = "estimated_performance_holds"
    known = estimates.filter((pl.col("metric") == "roc_auc") & pl.col("value").is_not_null())
    if known.is_empty():
        said = estimates.filter(pl.col("metric") == "roc_auc")["reason"].drop_nulls().to_list()
        why = said[0] if said else "too few predictions or no reference for the champion"
        return unknown(check, f"no estimate: {why}")
    row = known.row(0, named=True)
    limit = reference_auc - policy.max_auc_drop
    reason = f"estimated ROC AUC {row['value']:.3f}, reference {reference_auc:.3f}, limit {limit:.3f}"
    reason += f"; {row['reason']}" if row["reason"] else ""
    if row.get("trusted") is False:
        return unknown(check, f"not to be trusted: {reason}")
    status = Status.failed if row["value"] < limit else Status.passed
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
