"""From two models and the rows they were compared on to what the gates are given; what is missing stays ``None``."""

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from selfheal_assets.core import evaluation
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.evaluation import Comparison
from selfheal_assets.core.gate_evidence import NEVER, GateInputs, Servability
from selfheal_assets.core.partial_comparison import coverage_so_far
from selfheal_assets.core.policies import GatePolicy
from selfheal_assets.core.spec import Segment

_NEEDED = {
    "matured": {"f1", "roc_auc", "brier"},
    "partial": {"log_loss", "roc_auc", "expected_over_observed"},
}


def _coverage(rows: pl.DataFrame, overall: dict[str, Comparison]) -> float | None:
    """The share of the rows with a label, or of the positives that either model expects so far."""
    if "label" in rows.columns:
        return rows["label"].is_not_null().mean() if rows.height else None  # type: ignore[return-value]
    counted = overall.get("expected_over_observed")
    return coverage_so_far(counted) if counted else None


def gate_inputs(
    challenger: Bundle,
    rows: pl.DataFrame,
    compared: list[Comparison],
    policy: GatePolicy,
    segments: Sequence[Segment],
    *,
    last_promotion: datetime | None,
    servability: Servability | None,
    has_champion: bool,
    ineligible: str,
) -> GateInputs:
    """All evidence of one decision, as of the challenger's day.

    Args:
        challenger: the candidate.
        rows: the gates' cases.
        compared: both models on them, overall and by segment; empty where that could not be.
        policy: says which comparisons are needed.
        segments: of the use case; those for fairness are looked at.
        last_promotion: before this decision; ``None``: there was none.
        servability: what a serving trial gave.
        has_champion: whether there is a champion.
        ineligible: why the challenger may not be promoted (:func:`ineligible`).
    """
    overall = {c.metric: c for c in compared if c.segment == "all"}
    flagged = challenger.score(rows) >= challenger.threshold
    groups = [s for s in segments if s.fairness]
    return GateInputs(
        as_of=challenger.reference.as_of,
        overall=overall if _NEEDED[policy.evidence] <= set(overall) else None,
        segments=[c for c in compared if c.segment != "all"] if compared else None,
        label_coverage=_coverage(rows, overall),
        last_promotion=last_promotion or NEVER,
        servability=servability,
        approvals={s.name: evaluation.approvals(rows, flagged, s) for s in groups} if rows.height else None,
        has_champion=has_champion,
        ineligible=ineligible,
    )


def ineligible(version: int, challenger: Bundle, champion: int | None, quarantined: str | None) -> str:
    """Why a version may not be promoted; empty where it may.

    Args:
        version: of the challenger.
        challenger: its bundle.
        champion: the champion's version, if there is one.
        quarantined: why the challenger is quarantined, if it is.
    """
    if version == champion:
        return f"version {version} is the champion already: nothing new was learned"
    if quarantined:
        return f"version {version} is quarantined: {quarantined}"
    if not challenger.calibrator.keeps_the_ranking:
        return (
            f"version {version} turns its own ranking round (Platt slope {challenger.calibrator.slope:.2g}): on "
            "cases it had not seen, higher scores meant fewer positives, so it has learned nothing that holds"
        )
    return ""
