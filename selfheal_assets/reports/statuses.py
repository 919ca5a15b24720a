"""Statuses and decisions as badges: a symbol and a word say what the colour says."""

from typing import Any

from selfheal_assets.reports.page import Badge, Tone

SCORED_BY = {"served": "the champion of that day", "champion": "today's champion"}
_FINDINGS: dict[str, tuple[str, Tone]] = {
    "PASS": ("✓", "good"),
    "OK": ("✓", "good"),
    "FAIL": ("✕", "bad"),
    "INSUFFICIENT_DATA": ("?", "unknown"),
    "INCONCLUSIVE": ("?", "unknown"),
}
_ACTIONS: dict[str, tuple[str, Tone]] = {
    "PROMOTE": ("▲", "good"),
    "PENDING": ("…", "neutral"),
    "RETRAIN": ("↻", "neutral"),
    "REJECT": ("✕", "bad"),
    "INCONCLUSIVE": ("?", "unknown"),
    "ROLL_BACK": ("↩", "bad"),
    "ROLLBACK": ("↩", "bad"),
    "HOLD": ("=", "neutral"),
    "SUPPRESS": ("·", "neutral"),
    "FIX_DATA": ("!", "bad"),
}


def _badge(known: dict[str, tuple[str, Tone]], value: Any, details: str, target: str = "") -> Badge:
    name = str(value or "")
    symbol, tone = known.get(name.upper(), ("?" if not name else "•", "unknown" if not name else "neutral"))
    return Badge(symbol, name.replace("_", " ").lower() or "unknown", tone, details, target)


def finding_badge(status: Any, details: str = "") -> Badge:
    """Badge of a check's status; no status is unknown, not healthy."""
    return _badge(_FINDINGS, status, details)


def action_badge(action: Any, details: str = "", target: str = "") -> Badge:
    """Badge of a decision, with its reason or the place of its evidence."""
    return _badge(_ACTIONS, action, details, target)


def alert_badge(alert: bool | None, status: Any = None, details: str = "") -> Badge:
    """Badge of one monitored value: outside or within its limits, or why it is not known."""
    if alert is None:
        return finding_badge(status or "INSUFFICIENT_DATA", details)
    return Badge("▲", "outside", "bad", details) if alert else Badge("✓", "within", "good", details)
