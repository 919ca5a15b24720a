"""How a program is run and what it prints: a table for people, and one line of JSON as the last."""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from selfheal_assets.settings import prepare_environment


def run(program: Callable[..., None]) -> None:
    """Run a program's ``main`` with the command line's options."""
    prepare_environment()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(program)
    app()


def say(message: str) -> None:
    """Progress, to stderr."""
    Console(stderr=True).print(message, highlight=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table: text to the left, numbers to the right."""
    made = Table(title=title, title_justify="left")
    for n, column in enumerate(columns):
        made.add_column(column, justify="left" if n == 0 else "right")
    for row in rows:
        made.add_row(*map(shown, row))
    Console(width=130).print(made)


def shown(value: Any) -> str:
    """A cell: numbers with three or four significant digits, nothing as a dash."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def figures(**values: Any) -> None:
    """The closing line of JSON."""
    print(json.dumps({k: _rounded(v) for k, v in values.items()}), flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, float) and abs(value) < 1e15:
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return value


def median(values: Iterable[float | None]) -> float | None:
    """Median of what was measured; ``None`` where nothing was."""
    known = [v for v in values if v is not None]
    return float(statistics.median(known)) if known else None


def ratio(one: float | None, other: float | None) -> float | None:
    """``one / other``, where both were measured."""
    return one / other if one is not None and other else None
