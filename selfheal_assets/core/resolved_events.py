"""Events of a scenario, fitted to a population: roles become names, defaults values, or an error says why not."""

from collections.abc import Sequence
from typing import Any

from selfheal_assets.core.population import Population, SimulationError, is_category
from selfheal_assets.core.simulation_label_events import Event
from selfheal_assets.core.spec import Feature


def resolved(events: Sequence[Event], population: Population) -> tuple[Event, ...]:
    """The events with roles replaced by names and defaults that depend on the population filled in.

    Raises:
        SimulationError: an event cannot happen to this population; names the event.
    """
    done = []
    for number, event in enumerate(events, 1):
        try:
            done.append(_resolved(event, population))
        except SimulationError as error:
            raise SimulationError(f"event {number} ({event.kind}): {error}") from error
    return tuple(done)


def _resolved(event: Event, population: Population) -> Event:
    if event.kind == "concept_drift":
        named = event.features or tuple(f.name for f in population.features)
        return event.model_copy(
            update={"features": tuple(dict.fromkeys(population.named(n).name for n in named))}
        )
    if not event.named_features:
        return event
    feature = population.named(event.named_features[0])
    event = event.model_copy(update={"feature": feature.name})
    if event.kind in ("scaling", "location", "unit_change") and is_category(feature):
        raise SimulationError(
            f"'{feature.name}' is a category, which cannot be moved or scaled: name a number"
        )
    if event.kind == "new_category":
        _require_new(feature, event.value, population)
    if event.kind == "location" and population.spread(feature.name) == 0:
        raise SimulationError(
            f"'{feature.name}' is the same for every case: it has no standard deviation to move by"
        )
    if event.kind == "mix":
        return event.model_copy(update=_group(event.values, event.above, feature, population))
    return event


def _require_new(feature: Feature, value: str, population: Population) -> None:
    if not is_category(feature):
        raise SimulationError(f"'{feature.name}' is a number, which has no categories: name a category")
    if value in population.truth.vocabulary[feature.name]:
        raise SimulationError(f"'{value}' is a value of '{feature.name}' already: give one that is not")


def _group(
    values: tuple[str, ...], above: float | None, feature: Feature, population: Population
) -> dict[str, Any]:
    """The group of a mix, its defaults filled in."""
    column = population.frame[feature.name]
    if not is_category(feature):
        if values:
            raise SimulationError(f"'{feature.name}' is a number: give 'above', not 'values'")
        return {"above": float(column.median()) if above is None else above}  # type: ignore[arg-type]
    if above is not None:
        raise SimulationError(f"'{feature.name}' is a category: give 'values', not 'above'")
    known = population.truth.vocabulary[feature.name]
    if strange := [v for v in values if v not in known]:
        raise SimulationError(
            f"no case has '{strange[0]}' as '{feature.name}'; values are {', '.join(known[:20])}"
        )
    counted = (
        column.drop_nulls().value_counts(sort=True).sort("count", feature.name, descending=[True, False])
    )
    return {"values": values or (counted[feature.name][0],)}
