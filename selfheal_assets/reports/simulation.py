"""A simulated history on a terminal: its events on a line of time, its chunks in a table; readable without colour."""

import json
from collections.abc import Mapping, Sequence

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from selfheal_assets.core.periods import chunk_label
from selfheal_assets.core.scenario import Scenario
from selfheal_assets.core.simulation import Simulation

_SHADES = "·░▒▓█"
_WIDTH = 160


def scenario_table(scenarios: Mapping[str, Scenario], random: str) -> str:
    """The library, a line for each scenario, and the one that draws."""
    table = Table("scenario", "events", "what happens", box=SIMPLE_HEAD, pad_edge=False)
    for name, scenario in scenarios.items():
        table.add_row(name, str(len(scenario.events)), scenario.description)
    table.add_row(random, "2–5", "Events of any kind, drawn from --seed.")
    return _text(table)


def event_table(simulation: Simulation) -> str:
    """The events with their parameters, and when each is in force: a sign a chunk, the darker the stronger."""
    if simulation.events.is_empty():
        return "No events: nothing changes."
    chunks = simulation.by_chunk()["chunk"].to_list()
    table = Table("", "event", "touches", "feature", "parameters", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"in force, by {simulation.scenario.chunk} from {chunks[0]:%Y-%m}", no_wrap=True)
    in_force = simulation.in_force()
    for row in simulation.events.iter_rows(named=True):
        strengths = dict(in_force.filter(event=row["event"]).select("chunk", "strength").iter_rows())
        kind = row["kind"] if row["course"] == "sudden" else f"{row['kind']} ({row['course']})"
        parameters = ", ".join(f"{k} {_shown(v)}" for k, v in json.loads(row["parameters"]).items())
        line = "".join(_shade(strengths.get(chunk, 0.0)) for chunk in chunks)
        features = row["features"] if row["features"].count(",") < 3 else "all or most"
        table.add_row(str(row["event"]), kind, row["touches"], features, parameters, line)
    return _text(table)


def _shade(strength: float) -> str:
    return _SHADES[0] if strength == 0 else _SHADES[max(1, round(strength * (len(_SHADES) - 1)))]


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return (
        "/".join(map(str, value))
        if isinstance(value, Sequence) and not isinstance(value, str)
        else str(value)
    )


def chunk_table(simulation: Simulation) -> str:
    """What each chunk of the traffic holds, and which events are in force."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in (
        simulation.scenario.chunk,
        "cases",
        "true rate",
        "were nothing changed",
        "positives",
        "labels",
    ):
        table.add_column(name, justify="right")
    table.add_column("events in force")
    acting = simulation.in_force().group_by("chunk").agg(pl.col("event").cast(pl.String).sort())
    rows = simulation.by_chunk().join(acting, on="chunk", how="left", maintain_order="left")
    for row in rows.iter_rows(named=True):
        table.add_row(
            chunk_label(row["chunk"], simulation.scenario.chunk),
            f"{row['cases']:,}",
            _percent(row["true_probability"]),
            _percent(row["initial_probability"]),
            f"{row['positives']:,}",
            f"{row['labels_recorded']:,}",
            ", ".join(row["event"] or []),
        )
    return _text(table)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _text(table: Table) -> str:
    console = Console(width=_WIDTH, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
