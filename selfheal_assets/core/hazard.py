"""What immature cohorts already show: a discrete-time hazard over age bands, and soft labels from it.

A case's life is cut into age bands. Each band in which it was watched is one row (a person-period) with the band as a
feature: did it turn positive there? Cohorts of any age take part with what they have lived through, and recent
exposure counts more, so that the model follows what has changed. The chance of turning by the horizon is one minus
the product of the bands' survivals. No booster that is served belongs here: ``family`` distils one from the soft
labels.

Sources: P. Allison, Discrete-time methods for the analysis of event histories, Sociological Methodology 13, 1982;
J. Singer, J. Willett, It's about time, J. Educational Statistics 18(2), 1993.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from selfheal_assets.core.fitting import fit_booster
from selfheal_assets.core.maturity import DAYS_PER_MONTH
from selfheal_assets.core.spec import Hazard, Training


@dataclass(frozen=True)
class Lives:
    """How long cases have been watched; arrays of equal length, days as float64.

    Attributes:
        age: from event to the day as of which all is known; not capped at the horizon.
        turned: age at which a positive became known, at most ``horizon``; NaN where none has.
        horizon: age at which a case without a positive is negative.
    """

    age: np.ndarray
    turned: np.ndarray
    horizon: float

    @classmethod
    def of(cls, rows: pl.DataFrame, as_of: object, horizon: float) -> "Lives":
        """Of training rows: ``event_time``, ``label`` (0/1, so far), ``positive_age_days`` (f64, null: none).

        A positive that became known before its case, or beyond the horizon, counts at 0 or at the horizon.
        """
        age = (pl.lit(as_of) - pl.col("event_time")).dt.total_seconds() / 86400.0
        turned = pl.when(pl.col("label") == 1).then(pl.col("positive_age_days").clip(0, horizon))
        found = rows.select(age=age, turned=turned.cast(pl.Float64).fill_null(float("nan")))
        return cls(found["age"].to_numpy(), found["turned"].to_numpy(), horizon)

    def where(self, chosen: np.ndarray) -> "Lives":
        """The cases that a mask or an index chooses."""
        return Lives(self.age[chosen], self.turned[chosen], self.horizon)

    @property
    def positive(self) -> np.ndarray:
        """Whether a positive is known."""
        return np.isfinite(self.turned)


@dataclass(frozen=True)
class PersonPeriods:
    """One row per case and age band in which it was watched; arrays of equal length.

    Attributes:
        case: number of the case among those given.
        band: 0 is the youngest.
        turned: 1 if it turned positive in the band.
        weight: of the row: exposure, recency, and what sampling left out.
    """

    case: np.ndarray
    band: np.ndarray
    turned: np.ndarray
    weight: np.ndarray


def draw_cases(lives: Lives, policy: Hazard, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cases to learn from: numbers, ascending, and weights.

    A case counts half of what one counts that is ``policy.cohort_half_life_months`` younger. Positives are rare: all
    are kept, with that weight; of the others a seeded sample is drawn with that chance, so that older cohorts cost
    less, and weighs 1.
    """
    counts = 0.5 ** (lives.age / DAYS_PER_MONTH / policy.cohort_half_life_months)
    drawn = lives.positive | (np.random.default_rng(seed).random(len(counts)) < counts)
    cases = np.flatnonzero(drawn)
    return cases, np.where(lives.positive, counts, 1.0)[cases]


def person_periods(lives: Lives, weight: np.ndarray, policy: Hazard, seed: int) -> PersonPeriods:
    """Cut lives into bands.

    A band that is only partly lived through counts by the part, which is what a constant hazard within it asks for.
    Exposure ``m`` months before the day weighs 2^(-m / half-life), times the case's ``weight``. Of the rows that did
    not turn a seeded sample is taken, with chance and weight such that sums keep their expectation.
    """
    length = lives.horizon / policy.bands
    rng = np.random.default_rng(seed)
    seen = np.where(lives.positive, lives.turned, np.minimum(lives.age, lives.horizon))
    parts = []
    for band in range(policy.bands):
        start = band * length
        last = band == policy.bands - 1
        turned = lives.positive & (lives.turned >= start) & ((lives.turned < start + length) | last)
        lived = np.clip((np.minimum(lives.age, lives.horizon) - start) / length, 0, 1)
        survived = ~turned & (seen > start) & (lived > 0)
        ago = np.maximum(lives.age - start - length * np.maximum(lived, 1e-9) / 2, 0) / DAYS_PER_MONTH
        recency = 0.5 ** (ago / policy.half_life_months)
        drawn = survived & (rng.random(len(seen)) < policy.negative_share * recency)
        for event, rows, counts in ((1, turned, recency), (0, drawn, lived / policy.negative_share)):
            case = np.flatnonzero(rows)
            parts.append(
                (case, np.full(len(case), band), np.full(len(case), event), weight[case] * counts[case])
            )
    case, band, event, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    return PersonPeriods(case, band.astype(np.float32), event.astype(np.int8), counts)


def fit_hazard(matrix: np.ndarray, periods: PersonPeriods, training: Training):
    """A booster of the chance of turning within a band, given that a case has reached it.

    Args:
        matrix: encoded cases (rows, features); the band becomes one more feature, the last.
        periods: of those cases.
        training: parameters and seed.
    """
    return fit_booster(matrix, periods.turned, training, periods.weight, periods.case, periods.band)


def survival(booster, matrix: np.ndarray, bands: int) -> np.ndarray:
    """Chance of being negative still at each band's start and at the horizon: (rows, bands + 1), the first is 1."""
    still = np.ones((len(matrix), bands + 1))
    rows = np.column_stack([matrix, np.zeros(len(matrix), dtype=np.float32)])
    for band in range(bands):
        rows[:, -1] = band
        still[:, band + 1] = still[:, band] * (1 - booster.inplace_predict(rows).astype(np.float64))
    return still


def soft_labels(still: np.ndarray, lives: Lives) -> np.ndarray:
    """P(positive by the horizon | what is known): 1 where positive, else 1 − S(horizon) / S(age), 0 at the horizon.

    Within a band the hazard is constant, so log S is linear in the age.
    """
    bands = still.shape[1] - 1
    place = np.clip(lives.age / lives.horizon, 0, 1) * bands
    band = np.minimum(place.astype(int), bands - 1)
    rows, log_still = np.arange(len(still)), np.log(np.maximum(still, 1e-12))
    at_start, at_end = log_still[rows, band], log_still[rows, band + 1]
    reached = at_start + (place - band) * (at_end - at_start)
    return np.where(lives.positive, 1.0, np.clip(-np.expm1(log_still[:, -1] - reached), 0, 1))
