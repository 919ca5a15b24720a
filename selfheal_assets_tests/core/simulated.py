"""A small population and short scenarios, for the tests of simulated histories."""

from functools import cache
from typing import Any

import numpy as np
import polars as pl

from selfheal_assets.core.population import Population, fit_population
from selfheal_assets.core.scenario import Scenario
from selfheal_assets.core.simulation import Simulation, simulate
from selfheal_assets.core.spec import LabelSpec
from selfheal_assets_tests.core.generated import FEATURES, cases

LABEL = LabelSpec(name="bad", positive_at="bad_on", horizon_months=12)


@cache
def population() -> Population:
    """Three features: ``signal`` and ``kind`` matter, ``size`` does not; positives come at ages of any share."""
    rows = cases(4000, seed=1).with_row_index("i").with_columns(entity_id=pl.col("i").cast(pl.String))
    due = pl.col("event_time").dt.offset_by("12mo") - pl.col("event_time")
    share = pl.Series(np.random.default_rng(2).beta(2, 2, rows.height))
    labels = rows.select("entity_id", "label", occurred_at=pl.col("event_time") + due * share)
    features = [f.model_copy(update={"min": 0, "max": 10_000}) if f.name == "size" else f for f in FEATURES]
    return fit_population(rows, labels, features, LABEL)


def scenario(*events: dict[str, Any], **given: Any) -> Scenario:
    short = {
        "history_months": 12,
        "months": 24,
        "cases_per_month": 400,
        "horizon_months": 3,
        "reference_months": 3,
    }
    return Scenario.model_validate({"name": "tried", "events": events} | short | given)


@cache
def unchanged(seed: int = 0) -> Simulation:
    return simulate(population(), scenario(), seed)


def simulated(*events: dict[str, Any], **given: Any) -> Simulation:
    return simulate(population(), scenario(*events, **given))


def within(
    made: Simulation, frame: pl.DataFrame, start: int, end: int, by: str = "event_time"
) -> pl.DataFrame:
    """Rows whose time lies in months [start, end) after go-live."""
    return frame.filter(
        pl.col(by).is_between(made.scenario.moment(start), made.scenario.moment(end), closed="left")
    )


def outside(
    made: Simulation, frame: pl.DataFrame, start: int, end: int, by: str = "event_time"
) -> pl.DataFrame:
    """The other rows."""
    return frame.join(within(made, frame, start, end, by), on="entity_id", how="anti", maintain_order="left")
