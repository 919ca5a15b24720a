"""The cases of a simulated history: who comes, with which inputs, how likely to turn out positive, and as recorded.

An event acts on the times of its period only: each purpose draws its random numbers from a stream of its own, one per
case, so that whatever an event does not touch is equal, bit by bit, to the same history without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from selfheal_assets.core.encoding import polars_type
from selfheal_assets.core.population import Population
from selfheal_assets.core.simulation_events import Location, Mix, Scaling
from selfheal_assets.core.simulation_label_events import Event
from selfheal_assets.core.spec import Feature, FeatureType

Strengths = Sequence[tuple[Event, np.ndarray]]


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Random numbers for one purpose: independent of those for another, and of how many another draws."""
    return np.random.default_rng([seed, *purpose.encode()])


def drawn(population: Population, happening: Strengths, constant: float, size: int, seed: int) -> np.ndarray:
    """Which case of the population comes at each time (i64, shape (size,)), with replacement.

    Cases are drawn alike, and kept with a chance in proportion to their weight at that time (rejection sampling,
    which is exact); what is not kept is drawn again.
    """
    rng, rows = stream(seed, "draw"), population.frame.height
    chosen, keep = rng.integers(0, rows, size), rng.random(size)
    probability = _sigmoid(population.log_odds + constant)
    groups = {
        id(event): in_group(population.frame, event) for event, _ in happening if isinstance(event, Mix)
    }

    def acceptance(times: np.ndarray) -> np.ndarray:
        chance = np.ones(len(times))
        for event, strength in happening:
            if event.kind == "mix":
                odds = event.at(strength[times])["odds"]
                weight = np.where(groups[id(event)][chosen[times]], odds, 1.0)
            elif event.kind == "prior_shift":
                odds = event.at(strength[times])["odds"]
                weight = 1.0 + probability[chosen[times]] * (odds - 1.0)
            else:
                continue
            chance *= weight / np.maximum(odds, 1.0)
        return chance

    open_times = np.flatnonzero(keep >= acceptance(np.arange(size)))
    again = stream(seed, "draw again")
    while len(open_times):
        chosen[open_times] = again.integers(0, rows, len(open_times))
        open_times = open_times[again.random(len(open_times)) >= acceptance(open_times)]
    return chosen


def in_group(frame: pl.DataFrame, event: Mix) -> np.ndarray:
    """Which cases belong to the group of a (resolved) mix; a missing value does not."""
    column = frame[event.feature]
    inside = column.is_in(list(event.values)) if event.values else column > event.above
    return inside.fill_null(False).to_numpy()


@dataclass(frozen=True)
class World:
    """The cases as they are in truth: their features, and what each adds to the log odds (f64, see ``Truth``)."""

    frame: pl.DataFrame
    contributions: np.ndarray


def world(population: Population, chosen: np.ndarray, happening: Strengths) -> World:
    """The chosen cases after scalings and moves, within each feature's bounds; integers are rounded."""
    frame, touched = population.frame[chosen], np.zeros(len(chosen), dtype=bool)
    for event, strength in happening:
        if not isinstance(event, Scaling | Location):
            continue
        feature, now, on = population.named(event.feature), event.at(strength), strength > 0
        values = frame[event.feature].cast(pl.Float64)
        if event.kind == "scaling":
            values = values * pl.Series(now["factor"])
        else:
            values = values + pl.Series(now["sd"] * population.spread(event.feature))
        frame = _replaced(frame, feature, values.clip(feature.min, feature.max), on)
        touched |= on
    terms = population.contributions[chosen]
    if touched.any():  # the others' are known, and TreeSHAP is what takes the time
        terms[touched] = population.truth.contributions(frame.filter(pl.Series(touched)))
    return World(frame, terms)


def _replaced(frame: pl.DataFrame, feature: Feature, values: pl.Series, where: np.ndarray) -> pl.DataFrame:
    values = values.round() if feature.type is FeatureType.integer else values
    column = frame[feature.name]
    return frame.with_columns(
        values.cast(polars_type(feature)).zip_with(pl.Series(where), column).alias(feature.name)
    )


@dataclass(frozen=True)
class Chances:
    """True log odds of each case: as it is, and as it would have been in the world before go-live (f64)."""

    log_odds: np.ndarray
    initial: np.ndarray

    @property
    def probability(self) -> np.ndarray:
        """The chance that the label is drawn with."""
        return _sigmoid(self.log_odds)

    @property
    def initial_probability(self) -> np.ndarray:
        """The same case's chance, had no prior shift and no concept drift happened."""
        return _sigmoid(self.initial)


def chances(world: World, population: Population, happening: Strengths, constant: float) -> Chances:
    """How likely each case is to turn out positive; ``constant`` is added to all log odds."""
    initial = world.contributions.sum(axis=1) + constant
    changed, shift = world.contributions.copy(), np.zeros(len(initial))
    names = [f.name for f in population.features]
    for event, strength in happening:
        if event.kind == "concept_drift":
            now = event.at(strength)
            columns = [names.index(name) for name in event.features]
            changed[:, columns] *= now["factor"][:, None]
            shift += now["log_odds"]
        elif event.kind == "prior_shift":
            shift += np.log(event.at(strength)["odds"])
    return Chances(changed.sum(axis=1) + constant + shift, initial)


def recorded(frame: pl.DataFrame, population: Population, happening: Strengths, seed: int) -> pl.DataFrame:
    """The cases as the record has them, after schema breaks."""
    for event, strength in happening:
        on = strength > 0
        if event.kind == "missing_column":
            frame = frame.with_columns(pl.when(~pl.Series(on)).then(event.feature).alias(event.feature))
        elif event.kind == "new_category":
            hit = on & (
                stream(seed, f"new category {event.feature} {event.value}").random(frame.height) < event.share
            )
            strange = pl.Series([event.value]).new_from_index(0, frame.height)
            frame = frame.with_columns(
                strange.zip_with(pl.Series(hit), frame[event.feature]).alias(event.feature)
            )
        elif event.kind == "unit_change":
            values = frame[event.feature].cast(pl.Float64) * event.factor
            frame = _replaced(frame, population.named(event.feature), values, on)
    return frame


def constant_for(population: Population, rate: float | None) -> float:
    """The constant to add to all log odds so that the population's mean probability is ``rate``; 0 for None."""
    if rate is None:
        return 0.0
    from scipy.optimize import brentq

    return float(brentq(lambda c: float(_sigmoid(population.log_odds + c).mean()) - rate, -40.0, 40.0))  # type: ignore[arg-type]


def _sigmoid(log_odds: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-log_odds))
