"""Histories with known truth: a population, a scenario and a seed become cases, labels, true chances and a log.

Pure: the same arguments give the same history, bit by bit. Under the same seed two scenarios of the same size share
their random numbers, so that they differ only where, and in what, their events differ: a paired experiment.
"""

import json
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from selfheal_assets.core import simulated_cases as making
from selfheal_assets.core import simulated_labels as labelling
from selfheal_assets.core.periods import chunk_end, chunk_start
from selfheal_assets.core.population import Population, resolved
from selfheal_assets.core.scenario import Scenario
from selfheal_assets.core.simulation_label_events import Event
from selfheal_assets.core.spec import ChunkPeriod

_SECOND = 1_000_000


@dataclass(frozen=True)
class Simulation:
    """A simulated history.

    Attributes:
        scenario: its declaration, with every event resolved to this population's features.
        cases: as the loop sees them: ``entity_id`` (String, unique), ``event_time`` (Datetime us), the features;
            in the order of time. Cases that an outage loses are not among them.
        labels: as the label ledger takes them, see ``simulated_labels.ledger``; at most one per case.
        truth: one row per case, in the same order: ``entity_id``, ``event_time``, ``true_probability`` (f64: the
            label was drawn with it), ``initial_probability`` (f64: what the world before go-live would have given the
            same case), ``true_label`` (Int8), ``true_at`` (Datetime: when it became true).
        events: one row per event: ``event`` (Int64, from 1), ``kind``, ``touches``, ``features`` (String), ``start``,
            ``end`` (Datetime), ``course``, ``parameters`` (String: JSON).
    """

    scenario: Scenario
    cases: pl.DataFrame
    labels: pl.DataFrame
    truth: pl.DataFrame
    events: pl.DataFrame

    def in_force(self, period: ChunkPeriod | None = None) -> pl.DataFrame:
        """What was in force in each chunk (by default, of the scenario's length) that an event touches.

        Returns:
            ``chunk`` (Datetime), ``event``, ``kind``, ``touches``, ``strength`` (f64: mean over the chunk's days, 0 to
            1), ``parameters`` (String: JSON, at that strength).
        """
        return _in_force(self.scenario, period or self.scenario.chunk)


def simulate(population: Population, scenario: Scenario, seed: int | None = None) -> Simulation:
    """Simulate one history.

    Args:
        population: real cases and the known model of their outcomes.
        scenario: what happens, how large and how long.
        seed: in place of the scenario's.

    Raises:
        SimulationError: an event cannot happen to this population; names the event and the mend.
    """
    events = resolved(scenario.events, population)
    scenario = scenario.model_copy(update={"events": events} | ({} if seed is None else {"seed": seed}))
    times = _times(scenario)
    elapsed = scenario.elapsed(times)
    happening = [(event, event.strength(elapsed)) for event in events]
    constant = making.constant_for(population, scenario.positive_rate)
    chosen = making.drawn(population, happening, constant, scenario.size, scenario.seed)
    world = making.world(population, chosen, happening)
    chances = making.chances(world, population, happening, constant)
    known = labelling.outcomes(times, chances.probability, population.ages, scenario, happening)
    width = len(str(scenario.size))
    ids = pl.Series("entity_id", [f"s{i:0{width}d}" for i in range(1, scenario.size + 1)])
    keyed = pl.DataFrame({"entity_id": ids, "event_time": times})
    truth = keyed.with_columns(
        true_probability=chances.probability,
        initial_probability=chances.initial_probability,
        true_label=known["true_label"],
        true_at=known["true_at"],
    )
    cases = keyed.hstack(making.recorded(world.frame, population, happening, scenario.seed))
    labels = labelling.ledger(ids, known, scenario, happening)
    served = pl.Series(_served(happening, scenario.size))
    cases, truth = cases.filter(served), truth.filter(served)
    return Simulation(
        scenario,
        cases,
        labels.join(cases.select("entity_id"), on="entity_id", how="semi"),
        truth,
        _log(scenario),
    )


def _times(scenario: Scenario) -> pl.Series:
    """Event times: uniform over the history, whole seconds, in order; nothing else depends on them."""
    begin, span = scenario.begins, scenario.ends - scenario.begins
    seconds = making.stream(scenario.seed, "times").integers(0, int(span.total_seconds()), scenario.size)
    first = pl.Series([begin]).cast(pl.Datetime("us")).to_physical()[0]
    return pl.Series("event_time", np.sort(seconds) * _SECOND + first).cast(pl.Datetime("us"))


def _served(happening: making.Strengths, size: int) -> np.ndarray:
    served = np.ones(size, dtype=bool)
    for event, strength in happening:
        if event.kind == "outage" and event.of == "predictions":
            served &= strength == 0
    return served


def _log(scenario: Scenario) -> pl.DataFrame:
    rows = [
        {
            "event": number,
            "kind": event.kind,
            "touches": event.touches,
            "features": ", ".join(event.named_features),
            "start": scenario.moment(event.start),
            "end": min(scenario.moment(event.end), scenario.ends) if event.end else scenario.ends,
            "course": getattr(event, "course", "sudden"),
            "parameters": json.dumps(_parameters(event)),
        }
        for number, event in enumerate(scenario.events, 1)
    ]
    schema = {"event": pl.Int64, "kind": pl.String, "touches": pl.String, "features": pl.String}
    schema |= {
        "start": pl.Datetime("us"),
        "end": pl.Datetime("us"),
        "course": pl.String,
        "parameters": pl.String,
    }
    return pl.DataFrame(rows, schema=schema)


def _parameters(event: Event) -> dict[str, object]:
    """The event's own parameters, without what the log has columns for."""
    left_out = {"kind", "start", "end", "course", "feature", "features"}
    course = getattr(event, "course", "sudden")
    left_out |= ({"ramp_months"} if course != "gradual" else set()) | (
        {"period_months"} if course != "recurring" else set()
    )
    return {
        k: v for k, v in event.model_dump(mode="json").items() if k not in left_out and v not in (None, [])
    }


def _in_force(scenario: Scenario, period: ChunkPeriod) -> pl.DataFrame:
    rows = []
    start: datetime = chunk_start(scenario.moment(0), period)
    while start < scenario.ends:
        end = chunk_end(start, period)
        days = pl.datetime_range(start, end, "1d", closed="left", eager=True, time_unit="us")
        elapsed = scenario.elapsed(days)
        for number, event in enumerate(scenario.events, 1):
            strength = float(event.strength(elapsed).mean())
            if strength > 0:
                parameters = json.dumps(_parameters(event) | event.at(strength))
                rows.append((start, number, event.kind, event.touches, strength, parameters))
        start = end
    schema = {"chunk": pl.Datetime("us"), "event": pl.Int64, "kind": pl.String, "touches": pl.String}
    return pl.DataFrame(rows, schema=schema | {"strength": pl.Float64, "parameters": pl.String}, orient="row")
