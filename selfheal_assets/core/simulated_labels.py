"""The labels of a simulated history: what came true and when, and what of it was recorded, when, and how wrongly."""

from datetime import datetime

import numpy as np
import polars as pl

from selfheal_assets.core.scenario import Scenario
from selfheal_assets.core.simulated_cases import Strengths, stream

SOURCE = "simulation"
_SECOND, _DAY = 1_000_000, 86_400_000_000


def outcomes(
    times: pl.Series, probability: np.ndarray, ages: np.ndarray, scenario: Scenario, happening: Strengths
) -> pl.DataFrame:
    """What came true: the label drawn with each case's true probability.

    Args:
        times: event times (Datetime us).
        probability: true, f64.
        ages: ages of positives as shares of the horizon, to draw from.
        scenario: horizon and seed.
        happening: the events with their strength at each case's time.

    Returns:
        One row per case: ``event_time``, ``due`` (the horizon's end), ``would_occur_at`` (when a positive would
        become true; whole seconds), ``true_label`` (Int8), ``true_at`` (Datetime: when the true label became true).
    """
    size = len(times)
    positive = stream(scenario.seed, "label").random(size) < probability
    age = ages[stream(scenario.seed, "age").integers(0, len(ages), size)]
    for event, strength in happening:
        if event.kind == "timing_change":
            age = age ** (1.0 / event.at(strength)["slower"])
    due = times.dt.offset_by(f"{scenario.horizon_months}mo")
    begun = times.to_physical().to_numpy()
    wait = (age * (due.to_physical().to_numpy() - begun)).astype(np.int64) // _SECOND * _SECOND
    return (
        pl.DataFrame({"event_time": times, "due": due})
        .with_columns(would_occur_at=_moments(begun + wait), true_label=pl.Series(positive).cast(pl.Int8))
        .with_columns(true_at=pl.when(pl.col("true_label") == 1).then("would_occur_at").otherwise("due"))
    )


def ledger(
    entity_ids: pl.Series, known: pl.DataFrame, scenario: Scenario, happening: Strengths
) -> pl.DataFrame:
    """What was recorded of the outcomes, as the label ledger takes it.

    Args:
        entity_ids: of the cases.
        known: as :func:`outcomes` returns it, a row per case.
        scenario: base delay, periods and seed.
        happening: the events with their strength at each case's time.

    Returns:
        ``prediction_id`` (null), ``entity_id`` (String), ``label`` (Int8), ``occurred_at``, ``recorded_at`` (Datetime
        us; never before it), ``source``; at most one row per case, in the order of recording.
    """
    label = _noisy(known["true_label"].to_numpy(), scenario, happening)
    claimed = pl.Series(label == 1)
    occurred = known["would_occur_at"].zip_with(claimed, known["due"])
    recorded_at = _recorded_at(occurred, scenario)
    rows = pl.DataFrame(
        {"entity_id": entity_ids, "label": label, "occurred_at": occurred, "recorded_at": recorded_at}
    )
    for event in sorted(
        (e for e, _ in happening if e.kind == "outage" and e.of == "labels"), key=lambda e: e.start
    ):
        start, end = scenario.moment(event.start), scenario.moment(event.end or 0)
        rows = _held_back(rows, start, end, event.backlog)
    return rows.sort("recorded_at", "entity_id").select(
        pl.lit(None, dtype=pl.String).alias("prediction_id"),
        "entity_id",
        pl.col("label").cast(pl.Int8),
        "occurred_at",
        "recorded_at",
        pl.lit(SOURCE).alias("source"),
    )


def _noisy(label: np.ndarray, scenario: Scenario, happening: Strengths) -> np.ndarray:
    noisy = label.copy()
    for number, (event, strength) in enumerate(happening):
        if event.kind == "label_noise":
            now, luck = event.at(strength), stream(scenario.seed, f"noise {number}").random(len(label))
            noisy = np.where((label == 1) & (luck < now["missed"]), 0, noisy)
            noisy = np.where((label == 0) & (luck < now["false_alarms"]), 1, noisy)
    return noisy


def _recorded_at(occurred: pl.Series, scenario: Scenario) -> pl.Series:
    """When each label is recorded: the delays in force when it became true add up."""
    elapsed = scenario.elapsed(occurred)
    delay = np.full(len(occurred), float(scenario.reporting_delay_days))
    for number, event in enumerate(scenario.events):
        if event.kind == "reporting_delay":
            now = event.at(event.strength(elapsed))
            wait = stream(scenario.seed, f"delay {number}").standard_exponential(len(occurred))
            delay += now["days"] + now["spread_days"] * wait
    return _moments(occurred.to_physical().to_numpy() + (delay * _DAY).astype(np.int64) // _SECOND * _SECOND)


def _held_back(rows: pl.DataFrame, start: datetime, end: datetime, backlog: bool) -> pl.DataFrame:
    inside = pl.col("recorded_at").is_between(start, end, closed="left")
    if not backlog:
        return rows.filter(~inside)
    return rows.with_columns(
        recorded_at=pl.when(inside).then(pl.lit(end)).otherwise("recorded_at").cast(pl.Datetime("us"))
    )


def _moments(microseconds: np.ndarray) -> pl.Series:
    return pl.Series(microseconds).cast(pl.Datetime("us"))
