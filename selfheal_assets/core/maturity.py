"""Labels that come late: what is mature, and what should be known by now.

Positive labels arrive early, negative ones only at the horizon, so the bad rate of 'labels known so far'
is biased upwards. The timing curve F(a), the share of the eventual positives that is known by age a, says how
much of a cohort's harm should have shown: a case with probability p aged a is positive so far with
probability p * F(a).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from selfheal_assets.core.spec import ChunkPeriod, LabelSpec

DAYS_PER_MONTH = 365.25 / 12
_CHUNK_DAYS = {"day": 1.0, "week": 7.0, "month": DAYS_PER_MONTH, "quarter": 3 * DAYS_PER_MONTH}


@dataclass(frozen=True)
class TimingCurve:
    """F(a) as an empirical distribution: sorted ages in days of matured positives; F(horizon) = 1."""

    ages: np.ndarray
    horizon_days: float

    def known_by(self, age_days: np.ndarray) -> np.ndarray:
        """F at each age, in [0, 1]; 1 at and beyond the horizon."""
        share = np.searchsorted(self.ages, age_days, side="right") / max(len(self.ages), 1)
        return np.where(age_days >= self.horizon_days, 1.0, share)


def fit_timing_curve(matured: pl.DataFrame, label: LabelSpec) -> TimingCurve:
    """Timing curve of matured cases.

    Args:
        matured: ``event_time``, ``recorded_at`` (Datetime; null where no label was recorded), ``label`` (0/1).
        label: gives the horizon.
    """
    horizon_days = label.horizon_months * DAYS_PER_MONTH
    positives = matured.filter((pl.col("label") == 1) & pl.col("recorded_at").is_not_null())
    ages = (positives["recorded_at"] - positives["event_time"]).dt.total_seconds().to_numpy() / 86400.0
    return TimingCurve(np.sort(np.clip(ages, 0, horizon_days)), horizon_days)


def chunks_in_horizon(label: LabelSpec, chunk: ChunkPeriod) -> int:
    """Whole chunks after which every case of a chunk is mature."""
    return int(np.ceil(label.horizon_months * DAYS_PER_MONTH / _CHUNK_DAYS[chunk] - 1e-9))


def aged_cases(rows: pl.DataFrame, probability: np.ndarray) -> pl.DataFrame:
    """Cases as ``partial_counts`` counts them.

    Args:
        rows: ``cohort``, ``event_time``, ``recorded_at`` (Datetime; null: no label), ``age_days`` (f64), ``label``.
        probability: of each row.

    Returns:
        ``cohort``, ``age_days``, ``probability``, ``positive_age_days`` (null where no positive is known). A label
        from before its case counts as known at once.
    """
    known = (pl.col("recorded_at") - pl.col("event_time")).dt.total_seconds() / 86400.0
    age = pl.min_horizontal(known.clip(0), pl.col("age_days"))
    return rows.select(
        "cohort",
        pl.col("age_days").cast(pl.Float64),
        pl.Series("probability", probability),
        pl.when(pl.col("label") == 1).then(age.fill_null(pl.col("age_days"))).alias("positive_age_days"),
    )


def log_losses_so_far(probability: np.ndarray, positive_so_far: np.ndarray, due: np.ndarray) -> np.ndarray:
    """Each case's negative log likelihood of what is known of it by its age, in nats, shape (cases,).

    A case that turned positive loses -log(p) (the timing density is common to all models and left out), one that did
    not loses -log(1 - p * F(age)). With F = 1 it is the log loss. It is proper: no other p than the true one has a
    smaller expectation. Probabilities are kept 1e-6 away from 0 and 1.

    Args:
        probability: of a positive by the horizon.
        positive_so_far: 0/1, as known.
        due: F(age), the share of the eventual positives that shows by the row's age, in [0, 1].
    """
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return -np.where(positive_so_far == 1, np.log(p), np.log1p(-p * due))


def log_likelihood_ratios(
    champion: np.ndarray, predecessor: np.ndarray, positive_so_far: np.ndarray, due: np.ndarray
) -> np.ndarray:
    """log of P(outcome so far | predecessor) / P(... | champion) of each case, in nats, shape (cases,).

    With all cases judged at one age this is the difference of the two models' log scores of 'positive by that age', a
    proper score: see :func:`log_losses_so_far`.
    """
    lost, other = (log_losses_so_far(p, positive_so_far, due) for p in (champion, predecessor))
    return lost - other
