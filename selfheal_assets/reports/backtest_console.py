"""A backtest on a terminal: how far it has come, and its table."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from selfheal_assets.core.backtest import Backtest

_FIGURES = {
    "auc": ".4f",
    "auc_within": ".4f",
    "f1": ".4f",
    "brier": ".4f",
    "expected_over_observed": ".3f",
    "retrainings": "d",
    "promotions": "d",
    "regretted_promotions": "d",
    "refusals": "d",
    "rollbacks": "d",
    "alarms": "d",
}
_HEADS = {
    "auc": "AUC",
    "auc_within": "AUC within",
    "f1": "F1",
    "brier": "Brier",
    "expected_over_observed": "exp./obs.",
    "retrainings": "trained",
    "promotions": "promoted",
    "regretted_promotions": "regretted",
    "refusals": "refused",
    "rollbacks": "rolled back",
    "alarms": "alarms",
    "false_alarms": "false alarms",
    "detection_delay_days": "delay, days",
    "cost": "cost",
    "log_loss": "log loss",
    "off_balance": "|log exp./obs.|",
    "calibration_error": "calibration error",
}


@contextmanager
def living_progress(policies: Sequence[str]) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each policy on stderr, a line for each chunk where no one looks; gives what takes (policy, chunks
    done, of how many)."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda policy, number, of: print(f"[{number:>3}/{of}] {policy}", file=sys.stderr, flush=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tasks = {name: progress.add_task(name, total=None, start=False) for name in policies}
        begun: set[str] = set()

        def told(policy: str, number: int, of: int) -> None:
            if policy not in begun:
                begun.add(policy)
                progress.start_task(tasks[policy])
            progress.update(tasks[policy], completed=number, total=of)

        yield told


def backtest_lines(found: Backtest, width: int = 160) -> Iterator[str]:
    """The table of the policies, and the differences with their intervals, as text."""
    yield (
        f"{found.title}: cases from {found.compared_from:%Y-%m-%d} to {found.compared_until:%Y-%m-%d}, judged by the "
        "labels known in the end."
    )
    yield _text(_summary_table(found), width)
    if found.differences.is_empty():
        return
    against = found.differences["against"][0]
    yield f"Each policy's figure less that of {against}, with {found.confidence:.0%} intervals (paired):"
    yield _text(_difference_table(found.differences), width)


def _summary_table(found: Backtest) -> Table:
    figures = dict(_FIGURES)
    for name, form in (("false_alarms", "d"), ("detection_delay_days", ".0f"), ("cost", ",.0f")):
        if found.summary[name].count():
            figures[name] = form
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy")
    for name in figures:
        table.add_column(_HEADS[name], justify="right")
    for row in found.summary.iter_rows(named=True):
        table.add_row(row["policy"], *(_cell(row[name], form) for name, form in figures.items()))
    return table


def _difference_table(differences: pl.DataFrame) -> Table:
    shown = ["auc", "auc_within", "brier", "log_loss", "off_balance", "calibration_error", "cost"]
    shown = [m for m in shown if m in set(differences["metric"])]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy")
    for metric in shown:
        table.add_column(_HEADS[metric], justify="right")
    for part in differences.partition_by("policy", maintain_order=True):
        rows = {r["metric"]: r for r in part.iter_rows(named=True)}
        table.add_row(part["policy"][0], *(_difference(rows.get(m)) for m in shown))
    return table


def _difference(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    form = "+,.0f" if row["metric"] == "cost" else "+.4f"
    return f"{row['difference']:{form}} ({row['lower']:{form}} to {row['upper']:{form}})"


def _cell(value: Any, form: str) -> str:
    return "–" if value is None else format(value, form)


def _text(table: Table, width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()
