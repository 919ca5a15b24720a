"""What a backtest holds against a policy: promotions to regret, alarms without a cause, changes found late.

Which alarm answers which event is ``simulation_scores``' to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from scipy.stats import norm

from selfheal_assets.core.maturity import log_losses_so_far
from selfheal_assets.core.simulation_scores import AlarmScores


@dataclass(frozen=True)
class Promotion:
    """The cases that a promoted model served, with the label known in the end: 0/1, the probabilities of both."""

    label: np.ndarray
    promoted: np.ndarray
    replaced: np.ndarray


@dataclass(frozen=True)
class Regret:
    """Mean log loss (nats a case) of the promoted model less that of the one it replaced, with a paired interval."""

    value: float
    lower: float
    upper: float


def regret(promotion: Promotion, confidence: float = 0.95) -> Regret | None:
    """What a promotion cost on the labels that came later; ``None`` without cases.

    Above 0 the promotion is regretted: over the cases that it served, until it was replaced, taken back or the
    history ended, the model before would have been better. All their labels came after the promotion. It is proved
    where the interval, the normal form of the paired mean over cases, lies above 0.
    """
    size = len(promotion.label)
    if not size:
        return None
    due = np.ones(size)
    lost, kept = (
        log_losses_so_far(p, promotion.label, due) for p in (promotion.promoted, promotion.replaced)
    )
    more = lost - kept
    error = float(more.std(ddof=1) / np.sqrt(size)) if size > 1 else float("inf")
    mean, half = float(more.mean()), float(norm.ppf(0.5 + confidence / 2)) * error
    return Regret(mean, mean - half, mean + half)


def alarm_figures(scores: AlarmScores | None, ends: Mapping[datetime, datetime]) -> dict[str, Any]:
    """Summary figures of a policy's alarms; all null where no truth is known (``None``).

    ``false_alarms`` in chunks, ``events`` that alarms should see, how many were ``detected``, and the mean
    ``detection_delay_days`` of these: from the beginning of an event's first chunk to the end of the one that alarms.
    """
    if scores is None:
        return dict.fromkeys(("false_alarms", "events", "detected", "detection_delay_days"))
    found = scores.detections.drop_nulls("alarmed_in").select("first_chunk", "alarmed_in").rows()
    days = [(ends[alarmed] - first).total_seconds() / 86400 for first, alarmed in found]
    return {
        "false_alarms": len(scores.false_alarms),
        "events": scores.detections.height,
        "detected": len(days),
        "detection_delay_days": float(np.mean(days)) if days else None,
    }
