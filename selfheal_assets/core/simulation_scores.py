"""Scores that only known truth allows: a model's exact regret, and which alarm answered which event.

No label is looked at here: chances are compared with chances, so that no luck of the draw is in a score.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

DETECTIONS = pl.Schema(
    {
        "event": pl.Int64,
        "kind": pl.String,
        "touches": pl.String,
        "first_chunk": pl.Datetime("us"),
        "alarmed_in": pl.Datetime("us"),
        "delay_chunks": pl.Int64,
    }
)
_CLIP = 1e-12  # as close to 0 or 1 as a chance is taken to be, so that a log loss is finite


@dataclass(frozen=True)
class Regret:
    """By how much a model's expected scores are worse than those of the truth itself, per case; 0 is perfect.

    ``brier`` is the mean of (p − q)², ``log_loss`` the mean Kullback–Leibler divergence of q from p in nats, with p
    true and q the model's: the expectation of each score's excess over labels drawn with p (Gneiting and Raftery,
    Strictly Proper Scoring Rules, Prediction, and Estimation, 2007).
    """

    rows: int
    brier: float
    log_loss: float


def regret(true_probability: np.ndarray, probability: np.ndarray) -> Regret:
    """Regret of a model's probabilities (f64, shape (rows,)) against the true ones of the same cases.

    Raises:
        ValueError: there is no case, or a probability is missing or outside 0..1.
    """
    if len(true_probability) != len(probability) or not len(probability):
        raise ValueError(
            f"{len(true_probability)} true probabilities and {len(probability)} of the model: give the same cases to "
            "both, and at least one"
        )
    p, q = (np.asarray(x, dtype=np.float64) for x in (true_probability, probability))
    if not ((p >= 0) & (p <= 1) & (q >= 0) & (q <= 1)).all():  # NaN is not within either
        raise ValueError(
            "a probability is missing or outside 0..1: score every case before asking for its regret"
        )
    p, r = np.clip(p, _CLIP, 1 - _CLIP), np.clip(q, _CLIP, 1 - _CLIP)
    divergence = p * np.log(p / r) + (1 - p) * np.log((1 - p) / (1 - r))
    return Regret(len(q), float(np.mean((p - q) ** 2)), float(np.mean(divergence)))


@dataclass(frozen=True)
class AlarmScores:
    """How alarms answer events.

    Attributes:
        detections: one row per event that the alarm should see, columns :data:`DETECTIONS`; ``alarmed_in`` and
            ``delay_chunks`` (0: in the event's first chunk) are null where no alarm came.
        false_alarms: chunks with an alarm while nothing was in force that it should see, nor lately had been.
        quiet_chunks: number of chunks in which an alarm would have been false.
    """

    detections: pl.DataFrame
    false_alarms: tuple[datetime, ...]
    quiet_chunks: int


def score_alarms(
    in_force: pl.DataFrame,
    chunks: Sequence[datetime],
    alarmed: Collection[datetime],
    touches: Collection[str] = ("inputs", "outcomes", "record"),
    patience: int = 0,
) -> AlarmScores:
    """Score alarms against what was in force.

    Args:
        in_force: as ``Simulation.in_force``, by the same chunks.
        chunks: starts of all chunks that were looked at, ascending.
        alarmed: starts of those with an alarm.
        touches: what the alarm should see (``TimedEvent.touches``); another event neither excuses it nor counts.
        patience: chunks after an event's last in which an alarm still answers it: labels come late.

    Raises:
        ValueError: an alarm is in a chunk that was not looked at.
    """
    if strange := sorted(set(alarmed) - set(chunks)):
        raise ValueError(
            f"an alarm in {strange[0]:%Y-%m-%d}, which is not among the {len(chunks)} chunks looked at"
        )
    place = {chunk: i for i, chunk in enumerate(chunks)}
    seen = in_force.filter(pl.col("touches").is_in(list(touches)), pl.col("chunk").is_in(list(chunks)))
    expected, rows = np.zeros(len(chunks), dtype=bool), []
    for (event, kind, touched), acting in seen.group_by("event", "kind", "touches", maintain_order=True):
        answered = np.zeros(len(chunks), dtype=bool)
        for chunk in acting["chunk"]:  # a recurring event is not in force in between
            answered[place[chunk] : place[chunk] + patience + 1] = True
        first = place[acting["chunk"].min()]  # type: ignore[index]
        hit = next((i for i, on in enumerate(answered) if on and chunks[i] in alarmed), None)
        delay = None if hit is None else hit - first
        rows.append((event, kind, touched, chunks[first], None if hit is None else chunks[hit], delay))
        expected |= answered
    false = tuple(chunk for i, chunk in enumerate(chunks) if chunk in alarmed and not expected[i])
    return AlarmScores(pl.DataFrame(rows, schema=DETECTIONS, orient="row"), false, int((~expected).sum()))
