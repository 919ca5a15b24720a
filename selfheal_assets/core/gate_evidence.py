"""What the gates are given and what they answer: the evidence of one decision, and a verdict with its reason.

The gates themselves are ``gates`` and ``partial_gates``.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from selfheal_assets.core.evaluation import Approval, Comparison

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


def missing(gate: str, what: str) -> GateResult:
    """The answer of a gate whose input nobody knows."""
    return GateResult(gate, Verdict.failed, f"no {what}: a gate without its input fails")


def compared(inputs: GateInputs, metric: str) -> Comparison | None:
    """Both models by that metric on all rows, where it could be computed."""
    return (inputs.overall or {}).get(metric)


def judge(
    gate: str, ok: bool, reason: str, value: float | None = None, limit: float | None = None, **evidence: Any
) -> GateResult:
    """PASS or FAIL, with what was measured."""
    return GateResult(gate, Verdict.passed if ok else Verdict.failed, reason, value, limit, evidence)
