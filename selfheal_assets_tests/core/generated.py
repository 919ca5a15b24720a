"""Generated cases for the tests of the core: a numeric and a categorical signal, and memorable noise."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl

from selfheal_assets.core.bundle import Bundle, Calibrator, ReferenceWindow
from selfheal_assets.core.plan import TrainingPlan
from selfheal_assets.core.spec import Feature, Training

FEATURES = (
    Feature(name="signal", type="number", nullable=True),
    Feature(name="size", type="integer"),
    Feature(name="kind", type="category", nullable=True),
)
START = datetime(2018, 1, 1)
PLAN = TrainingPlan(
    as_of=datetime(2022, 1, 1),
    validate_from=datetime(2019, 7, 1),
    evaluate_from=datetime(2020, 1, 1),
    evaluate_until=datetime(2021, 1, 1),
)
QUICK = Training(rounds=10, max_depth=3, seed=7)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def cases(rows: int, seed: int, start: datetime = START, end: datetime = PLAN.evaluate_from) -> pl.DataFrame:
    """Cases spread evenly over [start, end): the features, ``event_time``, ``label``."""
    rng = np.random.default_rng(seed)
    signal, size = rng.normal(size=rows), rng.integers(0, 100, rows)
    kind = rng.choice(["a", "b", "c"], rows)
    chance = sigmoid(1.2 * signal + (kind == "c") - 1.5)
    step = (end - start) / rows
    return pl.DataFrame(
        {
            "event_time": pl.Series([start + i * step for i in range(rows)], dtype=pl.Datetime("us")),
            "signal": signal,
            "size": size,
            "kind": kind.tolist(),
            "label": (rng.uniform(size=rows) < chance).astype(np.int8),
        }
    )


def aging(
    rows: int, seed: int, start: datetime, as_of: datetime, horizon: float, turned_at: datetime | None = None
) -> pl.DataFrame:
    """Cases spread evenly over [start, as_of) as they are known at ``as_of``: the features, ``event_time``, ``label``
    (1 if positive so far), ``positive_age_days``; and ``chance``, the true one of a positive by the horizon (days).

    Positives show evenly over the horizon. Cases from ``turned_at`` on have the signal's sign turned round.
    """
    rng = np.random.default_rng(seed)
    signal, size = rng.normal(size=rows), rng.integers(0, 100, rows)
    kind = rng.choice(["a", "b", "c"], rows)
    step = (as_of - start) / rows
    times = [start + i * step for i in range(rows)]
    sign = np.array([-1.0 if turned_at and t >= turned_at else 1.0 for t in times])
    chance = sigmoid(1.2 * sign * signal + (kind == "c") - 1.5)
    shows = np.where(rng.uniform(size=rows) < chance, rng.uniform(0, horizon, rows), np.inf)
    age = np.array([(as_of - t).total_seconds() / 86400 for t in times])
    positive = shows < age
    return pl.DataFrame(
        {
            "event_time": pl.Series(times, dtype=pl.Datetime("us")),
            "signal": signal,
            "size": size,
            "kind": kind.tolist(),
            "label": positive.astype(np.int8),
            "positive_age_days": pl.Series(np.where(positive, shows, np.nan)).fill_nan(None),
            "chance": chance,
        }
    )


def untrained(until: datetime) -> Bundle:
    """A bundle that says until when it was trained, and cannot score."""
    window = ReferenceWindow(until, until, until)
    return Bundle(
        "generated", FEATURES, {"kind": []}, b"", Calibrator(), 0.5, START, until, window, "none", "untrained"
    )


def days(count: float) -> timedelta:
    return timedelta(days=count)
