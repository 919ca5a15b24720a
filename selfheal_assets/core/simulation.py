"""Histories with known truth: a population, a scenario and a seed become cases, labels, true chances and a log.

Pure: the same arguments give the same history, bit by bit. Under the same seed two scenarios of the same size share
their random numbers, so that they differ only where, and in what, their events differ: a paired experiment.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from selfheal_assets.core import simulated_cases as making
from selfheal_assets.core import simulated_labels as labelling
from selfheal_assets.core import simulation_log as log
from selfheal_assets.core.population import Population
from selfheal_assets.core.resolved_events import resolved
from selfheal_assets.core.scenario import Scenario
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
            ``chunk`` (Datetime), ``event``, ``kind``, ``touches``, ``strength`` (f64: mean over the chunk's days,
            0 to 1), ``parameters`` (String: JSON, at that strength).
        """
        return log.in_force(self.scenario, period or self.scenario.chunk)

    def by_chunk(self, period: ChunkPeriod | None = None) -> pl.DataFrame:
        """What each chunk of the traffic holds: see ``simulation_log.by_chunk``."""
        return log.by_chunk(self.scenario, self.truth, self.labels, period or self.scenario.chunk)


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
        log.events(scenario),
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
