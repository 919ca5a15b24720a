"""Numbers, moments and statuses as people read them. Unknown is a dash, never a zero."""

import math
from datetime import date, datetime
from typing import Any

from selfheal_assets.core.periods import chunk_label
from selfheal_assets.core.spec import ChunkPeriod

UNKNOWN = "–"


def is_known(value: Any) -> bool:
    """Whether there is a value: neither null nor NaN."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def number(value: float | None, digits: int = 3) -> str:
    """A fixed number of decimals, thousands separated."""
    return f"{value:,.{digits}f}" if value is not None and is_known(value) else UNKNOWN


def count(value: float | None) -> str:
    """A whole number, thousands separated."""
    return number(value, 0)


def statistic(value: float | None) -> str:
    """A value of unknown scale: four significant digits, no exponent for what people can read."""
    if value is None or not is_known(value):
        return UNKNOWN
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.2e}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return f"{share * 100:.{digits}f} %" if share is not None and is_known(share) else UNKNOWN


def compact(value: float) -> str:
    """A short number for an axis: 50k, 1.2M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def interval(lower: float | None, upper: float | None, digits: int = 3) -> str:
    """``0.650 – 0.712``; ``≥ 0.650`` or ``≤ 0.712`` with one bound, a dash with none."""
    if not (is_known(lower) and is_known(upper)):
        one = f"≥ {number(lower, digits)}" if is_known(lower) else f"≤ {number(upper, digits)}"
        return one if is_known(lower) or is_known(upper) else UNKNOWN
    return f"{number(lower, digits)} – {number(upper, digits)}"


def moment(value: Any, period: ChunkPeriod | None = None) -> str:
    """A day, or the chunk's name where the period is given; text stays as it is."""
    if isinstance(value, datetime):
        return chunk_label(value, period) if period else value.strftime("%Y-%m-%d")
    if isinstance(value, date):
        return value.isoformat()
    return UNKNOWN if value is None else str(value)


def check_name(check: str) -> str:
    """A check's name without what it asserts, where space is short: ``calibration_holds`` → calibration."""
    for ending in ("_holds", "_within_limits", "_is_valid"):
        check = check.removesuffix(ending)
    return check.replace("_", " ")


_METRIC_NAMES = {
    "roc_auc": "ROC AUC",
    "auc": "ROC AUC",
    "auc_within": "ROC AUC within chunks",
    "f1": "F1",
    "ks": "KS",
    "gini": "Gini",
    "brier": "Brier score",
    "expected_over_observed": "expected ÷ observed",
    "off_balance": "distance of expected ÷ observed from 1 (logs)",
}


def metric_name(metric: str) -> str:
    """A metric's name for people: ``roc_auc`` → ROC AUC."""
    return _METRIC_NAMES.get(metric, metric.replace("_", " "))


def listing(names: list[str], at_most: int = 4) -> str:
    """``a, b and 3 more``."""
    if len(names) <= at_most:
        return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
    return f"{', '.join(names[:at_most])} and {len(names) - at_most} more"
