"""One screen of text: how a use case stands, with the evidence of each stage and the last decisions."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from selfheal_assets.core.chunk_statistics import ALL
from selfheal_assets.core.evidence import STAGES
from selfheal_assets.core.standing import Standing, State
from selfheal_assets.use_case import UseCase

Row = dict[str, Any]
SHOWN = ("roc_auc", "f1", "brier", "expected_over_observed")
LAST_DECISIONS = 5
_SIGNS = {State.healthy: "✓", State.attention: "✕", State.unknown: "?"}
_COLOURS = {State.healthy: "green", State.attention: "red", State.unknown: "yellow"}


def standing_text(
    standing: Standing,
    case: UseCase,
    health: Sequence[Row],
    evidence: Sequence[Row],
    decisions: Sequence[Row],
    labels: Row | None,
) -> Group:
    """The screen, for a rich console; rows of the snapshots newest first, ``labels`` that of ``label_status``."""
    head = Text(f"{_SIGNS[standing.state]} {standing.state.name}", style=f"bold {_COLOURS[standing.state]}")
    head.append(f"   {case.name}: {case.title}", style="default not bold")
    lines: list[Any] = [
        head,
        *(Text(f"  {reason}") for reason in standing.reasons),
        Text(_champion(standing)),
    ]
    if health:
        row = health[0]
        lines.append(Text(f"newest chunk    {row['label']}, {row['rows']:,} cases, {row['status']}"))
    if labels and labels["cases"]:
        known, cases = labels["labelled_cases"], labels["cases"]
        lines.append(
            Text(f"labels          {known:,} of {cases:,} scored cases have one ({known / cases:.0%})")
        )
    lines += [Text(f"waits for       {wait}") for wait in standing.waits]
    if evidence:
        lines.append(_evidence_table(evidence))
    if decisions:
        lines.append(_decision_table(decisions[:LAST_DECISIONS]))
    return Group(*lines)


def _champion(standing: Standing) -> str:
    known = standing.champion
    if known is None:
        return "champion        none yet: `dagster asset materialize`, or `selfheal replay`, makes the first"
    return f"champion        version {known['version']}, since {known['since']:%Y-%m-%d} ({known['days']:,} days)"


def _evidence_table(evidence: Sequence[Row]) -> Table:
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, title="Evidence about the newest chunk", title_justify="left"
    )
    for name in ("stage", "metric", "value", "interval", "rows", "status"):
        table.add_column(name, justify="right" if name in ("value", "interval", "rows") else "left")
    for stage in STAGES:
        told = [r for r in evidence if r["stage"] == stage and r["segment"] == ALL]
        shown = [r for r in told if r["metric"] in SHOWN] or told[:1]
        for row in sorted(shown, key=lambda r: r["metric"]):
            value = "–" if row["value"] is None else f"{row['value']:.3f}"
            ends = (row["lower"], row["upper"])
            interval = "–" if None in ends else f"{ends[0]:.3f}–{ends[1]:.3f}"
            status = row["status"] or ""
            why = f"{status}: {row['reason']}" if row["value"] is None and row["reason"] else status
            table.add_row(stage, row["metric"], value, interval, f"{row['rows'] or 0:,}", why)
    return table


def _decision_table(decisions: Sequence[Row]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title="Last decisions", title_justify="left", expand=True)
    for name in ("id", "as of", "decision", "models", "reason"):
        table.add_column(
            name, justify="right" if name == "id" else "left", no_wrap=True, ratio=name == "reason" or None
        )
    for row in decisions:
        models = f"{row['champion'] or '–'} → {row['challenger'] or '–'}"
        table.add_row(str(row["id"]), f"{row['as_of']:%Y-%m-%d}", row["action"], models, row["reason"])
    return table


def show(text: Group) -> None:
    """Print the screen on stdout, in colour where it is a terminal."""
    Console().print(text)
