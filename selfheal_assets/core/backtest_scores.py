"""What a backtest holds against a policy: promotions to regret, alarms without a cause, changes found late."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import norm

from selfheal_assets.core.maturity import log_losses_so_far


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


def alarms_judged(
    alarms: pl.DataFrame, events: pl.DataFrame, ends: Mapping[datetime, datetime]
) -> pl.DataFrame:
    """The alarms, each with whether it was false: no event had begun by the end of its chunk.

    An event's effects outlast it (labels come later, a reference stays the old one), so an alarm after the first
    event is not held to be false. Where no event is known nobody can tell, and it stays null.

    Args:
        alarms: columns :data:`core.backtest.ALARMS`.
        events: columns :data:`core.backtest.EVENTS`.
        ends: of each chunk.
    """
    if events.is_empty() or alarms.is_empty():
        return alarms
    first = events["starts"].min()
    end = pl.col("chunk").replace_strict(ends, return_dtype=pl.Datetime("us"))
    return alarms.with_columns(false_alarm=end <= first)


def detection(
    alarms: pl.DataFrame, events: pl.DataFrame, ends: Mapping[datetime, datetime], watches: bool
) -> dict[str, Any]:
    """How one policy's alarms found the known events; all null where none is known, or where it does not watch.

    An event counts as detected by the first chunk with an alarm that ends after the event began and begins before the
    next event does; the delay is from the event's beginning to that chunk's end, in days.

    Args:
        alarms: those of the policy.
        events: all of the history's.
        ends: of each chunk.
        watches: whether the policy monitors at all.
    """
    if events.is_empty() or not watches:
        return dict.fromkeys(("false_alarms", "events", "detected", "detection_delay_days"))
    begun = sorted(events["starts"].to_list())
    delays = []
    for starts, following in zip(begun, [*begun[1:], datetime.max], strict=True):
        found = [ends[c] for c in sorted(set(alarms["chunk"])) if ends[c] > starts and c < following]
        if found:
            delays.append((found[0] - starts).total_seconds() / 86400)
    false = alarms.filter(pl.col("false_alarm").fill_null(False))["chunk"].n_unique()
    delay = float(np.mean(delays)) if delays else None
    return {
        "false_alarms": false,
        "events": len(begun),
        "detected": len(delays),
        "detection_delay_days": delay,
    }
