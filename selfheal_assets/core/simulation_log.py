"""The log of a simulated history: its events, and what was in force when, so that alarms can be scored."""

import json
from datetime import datetime

import polars as pl

from selfheal_assets.core.periods import chunk_end, chunk_start
from selfheal_assets.core.scenario import Scenario
from selfheal_assets.core.simulation_label_events import Event
from selfheal_assets.core.spec import ChunkPeriod

EVENTS = pl.Schema(
    {
        "event": pl.Int64,
        "kind": pl.String,
        "touches": pl.String,
        "features": pl.String,
        "start": pl.Datetime("us"),
        "end": pl.Datetime("us"),
        "course": pl.String,
        "parameters": pl.String,
    }
)
IN_FORCE = pl.Schema(
    {
        "chunk": pl.Datetime("us"),
        "event": pl.Int64,
        "kind": pl.String,
        "touches": pl.String,
        "strength": pl.Float64,
        "parameters": pl.String,
    }
)
_HAVE_COLUMNS = frozenset({"kind", "start", "end", "course", "feature", "features"})
_OF_A_COURSE = {"ramp_months": "gradual", "period_months": "recurring"}


def events(scenario: Scenario) -> pl.DataFrame:
    """One row per event of a resolved scenario, columns :data:`EVENTS`; ``parameters`` is JSON."""
    rows = [
        (
            number,
            event.kind,
            event.touches,
            ", ".join(event.named_features),
            scenario.moment(event.start),
            min(scenario.moment(event.end), scenario.ends) if event.end else scenario.ends,
            _course(event),
            json.dumps(_parameters(event)),
        )
        for number, event in enumerate(scenario.events, 1)
    ]
    return pl.DataFrame(rows, schema=EVENTS, orient="row")


def _course(event: Event) -> str:
    return getattr(event, "course", "sudden")


def _parameters(event: Event) -> dict[str, object]:
    """The event's own parameters, without what the log has columns for or its course does not use."""
    unused = {name for name, course in _OF_A_COURSE.items() if course != _course(event)}
    given = event.model_dump(mode="json")
    return {k: v for k, v in given.items() if k not in _HAVE_COLUMNS | unused and v not in (None, [])}


def in_force(scenario: Scenario, period: ChunkPeriod) -> pl.DataFrame:
    """One row per chunk of the traffic and event that is in force in it, columns :data:`IN_FORCE`.

    ``strength`` is the mean over the chunk's days, ``parameters`` (JSON) are those at that strength.
    """
    rows = []
    for start in chunk_starts(scenario, period):
        days = pl.datetime_range(
            start, chunk_end(start, period), "1d", closed="left", eager=True, time_unit="us"
        )
        elapsed = scenario.elapsed(days)
        for number, event in enumerate(scenario.events, 1):
            strength = float(event.strength(elapsed).mean())
            if strength > 0:
                now = json.dumps(_parameters(event) | event.at(strength))
                rows.append((start, number, event.kind, event.touches, strength, now))
    return pl.DataFrame(rows, schema=IN_FORCE, orient="row")


def chunk_starts(scenario: Scenario, period: ChunkPeriod) -> list[datetime]:
    """Starts of the chunks of the traffic, the one that holds go-live first."""
    starts, start = [], chunk_start(scenario.moment(0), period)
    while start < scenario.ends:
        starts.append(start)
        start = chunk_end(start, period)
    return starts


def by_chunk(
    scenario: Scenario, truth: pl.DataFrame, labels: pl.DataFrame, period: ChunkPeriod
) -> pl.DataFrame:
    """What each chunk of the traffic holds.

    Args:
        scenario: gives the chunks.
        truth: as ``Simulation.truth``.
        labels: as ``Simulation.labels``.
        period: length of a chunk.

    Returns:
        ``chunk`` (Datetime), ``cases`` (u32), ``true_probability`` (f64: mean; null without cases),
        ``initial_probability`` (likewise), ``positives`` (i64: true ones of its cases), ``labels_recorded`` (u32: in
        the chunk, of whichever case).
    """
    starts = pl.DataFrame({"chunk": chunk_starts(scenario, period)}, schema={"chunk": pl.Datetime("us")})
    end = chunk_end(starts["chunk"][-1], period)

    def sorted_in(frame: pl.DataFrame, by: str) -> pl.DataFrame:
        inside = frame.filter((pl.col(by) >= starts["chunk"][0]) & (pl.col(by) < end)).sort(by)
        return inside.join_asof(starts, left_on=by, right_on="chunk")

    cases = (
        sorted_in(truth, "event_time")
        .group_by("chunk")
        .agg(
            cases=pl.len(),
            true_probability=pl.col("true_probability").mean(),
            initial_probability=pl.col("initial_probability").mean(),
            positives=pl.col("true_label").cast(pl.Int64).sum(),
        )
    )
    recorded = sorted_in(labels, "recorded_at").group_by("chunk").agg(labels_recorded=pl.len())
    joined = starts.join(cases, on="chunk", how="left").join(recorded, on="chunk", how="left").sort("chunk")
    return joined.with_columns(pl.col("cases", "positives", "labels_recorded").fill_null(0))
