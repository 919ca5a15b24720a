"""Should a promotion be taken back? The evidence of the cases since, read against the predecessor."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from selfheal_assets.core import maturity
from selfheal_assets.core.policies import AlarmPolicy


@dataclass(frozen=True)
class RollbackEvidence:
    """What speaks for or against the champion since its promotion.

    ``log_likelihood_ratio`` (nats) is of the predecessor against the champion; at or above ``limit`` the
    promotion is taken back.
    """

    roll_back: bool
    reason: str
    log_likelihood_ratio: float
    limit: float
    rows: int
    positives: int


def technical_failure(scores: np.ndarray) -> str:
    """Why these scores cannot be those of a working model; empty where they can."""
    if not np.isfinite(scores).all():
        return f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite"
    if len(scores) >= 200 and float(np.ptp(scores)) == 0.0:
        return f"all {len(scores)} scores are equal to {scores[0]:g}"
    return ""


def judge_promotion(
    champion: np.ndarray,
    predecessor: np.ndarray,
    positive_so_far: np.ndarray,
    due: np.ndarray,
    policy: AlarmPolicy,
) -> RollbackEvidence:
    """Compare both models on the cases since the promotion, by what has become known of them so far.

    Args:
        champion, predecessor: probabilities of the same cases.
        positive_so_far: 0/1.
        due: F(age) of each case, the share of eventual positives known by its age.
        policy: ``rollback_alpha`` bounds the chance of ever rolling back a champion whose probabilities are
            right, over all looks.
    """
    limit = float(-np.log(policy.rollback_alpha))
    positives = int(positive_so_far.sum())
    if failure := technical_failure(champion):
        return RollbackEvidence(True, failure, 0.0, limit, len(champion), positives)
    if failure := technical_failure(predecessor):
        reason = f"there is no working predecessor to go back to: {failure}"
        return RollbackEvidence(False, reason, 0.0, limit, len(champion), positives)
    ratio = maturity.log_likelihood_ratio(champion, predecessor, positive_so_far, due)
    reason = (
        f"log likelihood ratio of the predecessor {ratio:+.2f} (rolls back from {limit:.2f}) on {len(champion)} "
        f"cases since the promotion, {positives} positive so far"
    )
    return RollbackEvidence(ratio >= limit, reason, ratio, limit, len(champion), positives)


def in_probation(promoted_at: datetime, as_of: datetime, days: int) -> bool:
    """Whether a promotion is recent enough to be taken back by itself."""
    return (as_of - promoted_at).days < days
