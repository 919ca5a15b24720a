"""What is told on a terminal: the replay's chunks and table, and how far the reading of a file has come."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from selfheal_assets.use_case import UseCase

SHORT = {
    "drift_within_limits": "drift",
    "estimated_performance_holds": "estimate",
    "calibration_holds": "calibration",
    "realized_performance_holds": "realized",
}


def header_line(title: str, chunks: int) -> str:
    """What is about to happen."""
    return f"Replaying {title}: {chunks} chunks to live through. Answer, log, monitor, retrain, decide."


def short_checks(checks: str | None) -> str:
    """Failed checks in words that fit a column."""
    return ", ".join(SHORT.get(c, c) for c in (checks or "").split(", ") if c)


def chunk_line(number: int, of: int, outcome: Any, seconds: float) -> str:
    """One line of progress."""
    failed = short_checks(outcome.failed_checks) or "none"
    decision = outcome.decision or "no retraining"
    return (
        f"[{number:>2}/{of}] {outcome.label}  {outcome.rows:>6,} cases  failed: {failed:<40}  {decision:<13} "
        f"champion v{outcome.champion}  ({seconds:.0f} s)"
    )


def _cell(value: Any, form: str = "") -> str:
    return "–" if value is None else format(value, form)


def chunk_table(chunks: pl.DataFrame, case: UseCase, width: int = 160) -> str:
    """The replay's table, as text."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    outcome = case.label.outcome
    figures = ("AUC est.", "AUC real", "AUC never retr.", f"exp. {outcome}", f"obs. {outcome}", "champion")
    for name in (case.monitoring.chunk, "cases", "labels known", *figures):
        table.add_column(name, justify="right")
    table.add_column("failed checks")
    table.add_column("decision")
    for row in chunks.iter_rows(named=True):
        table.add_row(
            row["label"],
            _cell(row["rows"], ","),
            _cell(row["labels_known"], ","),
            *(_cell(row[k], ".3f") for k in ("estimated_auc", "realized_auc", "never_retrained_auc")),
            *(_cell(row[k], ",.0f") for k in ("expected", "observed")),
            f"v{row['champion']}" if row["champion"] else "–",
            short_checks(row["failed_checks"]),
            row["decision"] or "",
        )
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def summary_lines(summary: dict[str, Any], report: Path, case: UseCase) -> list[str]:
    """The comparison with the never-retrained model, in words."""
    period = summary["period"]
    return [
        f"labels known: on the {case.monitoring.chunk}'s last day.  AUC est.: without labels, that day.",
        "AUC real, exp., obs.: of the answers as they were given, with the labels that came up to "
        f"{case.label.horizon_months} months later.",
        "",
        f"{period}, the same cases:",
        "                              healed    never retrained",
        f"  ROC AUC                     {summary['auc_healed']:.3f}     {summary['auc_never_retrained']:.3f}",
        f"  ROC AUC within a {case.monitoring.chunk:<9}  {summary['auc_within_healed']:.3f}     "
        f"{summary['auc_within_never_retrained']:.3f}",
        f"  expected/observed           {summary['expected_over_observed_healed']:.3f}     "
        f"{summary['expected_over_observed_never_retrained']:.3f}   (1 is calibrated)",
        f"  {summary['promotions']} promotions, {summary['refusals']} refusals, {summary['seconds']:.0f} s",
        "",
        f"Report: {report}",
        "Look at it in the Dagster UI: make dev",
    ]


@contextmanager
def reading_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for each stage; told the stage, and how much of how much is done. None where no one looks."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: int, size: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=size)
            bars.update(tasks[stage], completed=done)

        yield tell
