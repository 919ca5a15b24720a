"""Decisions as entries that open to their evidence: each gate's answer, the window, the fingerprints.

Used by every page that tells of decisions; what a decision is, is ``core.decision``'s.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from selfheal_assets.reports import figures as fig
from selfheal_assets.reports.page import Column, Entry, Link, Table
from selfheal_assets.reports.statuses import action_badge, finding_badge
from selfheal_assets.reports.text import UNKNOWN, check_name, count, interval, is_known, moment, statistic

# How a decision is marked on a line of time: symbol, colour, and the word beside it.
DECISION_MARKS = {
    "PROMOTE": ("triangle-up", fig.GREEN, "promoted"),
    "PENDING": ("hourglass-open", fig.BLUE, "waits for approval"),
    "REJECT": ("x", fig.VERMILLION, "refused"),
    "INCONCLUSIVE": ("circle-open", fig.GREY, "inconclusive"),
    "ROLL_BACK": ("triangle-down", fig.VERMILLION, "rolled back"),
    "HOLD": ("line-ew-open", fig.GREY, "held"),
    "SUPPRESS": ("line-ns-open", fig.GREY, "suppressed"),
    "FIX_DATA": ("diamond-open", fig.VERMILLION, "data to be mended"),
}
SHOWN = {"lower", "upper", "rows", "positives"}  # of a gate's evidence, in columns of their own


def anchor(number: int) -> str:
    """Place of a decision in a page."""
    return f"decision-{number}"


def version(number: int | None) -> str:
    """``v3``; a dash where there is none."""
    return UNKNOWN if number is None else f"v{number}"


def decision_entry(
    row: Mapping[str, Any], payload: Mapping[str, Any] | None, links: Sequence[Link] = ()
) -> Entry:
    """A decision's entry.

    Args:
        row: ``id`` (int), ``as_of`` (datetime), ``action``, ``reason`` (str; parts divided by '; '), ``champion``,
            ``challenger`` (int or None).
        payload: what the ledger keeps of it; without one the entry has its reasons only.
        links: to the pages of the models that it names.
    """
    reasons = [part.strip() for part in (row["reason"] or "no reason recorded").split(";") if part.strip()]
    headline = f"{moment(row['as_of'])} · {_about(row)}"
    tables, facts = evidence_of(payload or {})
    badge = action_badge(row["action"])
    return Entry(anchor(row["id"]), badge, headline, reasons, tables, facts, links)


def _about(row: Mapping[str, Any]) -> str:
    """Which models a decision is about; of one that is about none, why it was taken."""
    champion, challenger = row["champion"], row["challenger"]
    if champion is None and challenger is None:
        return str(row["reason"] or "").partition(";")[0]
    who = f"champion {version(champion)}" if champion is not None else "no champion yet"
    return who + (f", challenger {version(challenger)}" if challenger is not None else "")


def evidence_of(payload: Mapping[str, Any]) -> tuple[list[Table], dict[str, str]]:
    """The gates' answers, and by name all else that the decision rests on: window, fingerprints, figures."""
    evidence = dict(payload.get("evidence") or {})
    gates, window = evidence.pop("gates", None), evidence.pop("window", None)
    spans = window.items() if isinstance(window, Mapping) else [("", window)] if window else []
    facts = {name.replace("_", " "): _fact(value) for name, value in evidence.items()}
    facts |= {
        f"window {name.replace('_', ' ')}".strip(): str(value).removesuffix(" 00:00:00")
        for name, value in spans
    }
    prints = (payload.get("fingerprints") or {}).items()
    facts |= {f"fingerprint of {name.replace('_', ' ')}": value for name, value in prints if value}
    return [_gates(gates)] if gates else [], facts


def _gates(gates: Sequence[Mapping[str, Any]]) -> Table:
    columns = [
        Column("Gate", False), Column("Answer", False), Column("Value"), Column("Limit"), Column("Interval"),
        Column("Rows"), Column("Positives"), Column("Why", False),
    ]  # fmt: skip
    rows = []
    for gate in gates:
        found = gate.get("evidence") or {}
        more = "; ".join(
            f"{k.replace('_', ' ')} {_fact(v)}" for k, v in found.items() if k not in SHOWN and v
        )
        rows.append([
            check_name(gate["gate"]),
            finding_badge(gate["verdict"]),
            statistic(gate.get("value")),
            statistic(gate.get("limit")),
            _bounds(found),
            count(found.get("rows")),
            count(found.get("positives")),
            f"{gate['reason']} ({more})" if more else gate["reason"],
        ])  # fmt: skip
    return Table("Each gate's answer: all must pass, and a missing input fails.", columns, rows)


def _bounds(found: Mapping[str, Any]) -> str:
    lower, upper = found.get("lower"), found.get("upper")
    if not (is_known(lower) and is_known(upper)):
        return interval(lower, upper)
    return f"{statistic(lower)} to {statistic(upper)}"


def _fact(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: UNKNOWN}[value]
    if isinstance(value, int | float):
        return statistic(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_fact(v)}" for k, v in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_fact, value)) or "none"
    return str(value)
