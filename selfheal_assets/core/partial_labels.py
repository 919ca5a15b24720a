"""Harm in labels that are not complete yet: what is known so far against what should be, by cohort and age.

A case with probability p is at risk of turning positive until it does, or until the horizon. With the timing
curve F its cumulated hazard by age a is -log(1 - p F(a)), so the positives so far, less the cumulated hazard of
all cases while they were at risk, are a martingale in time: the one-sample log-rank statistic. The same case
may be looked at every day as it grows older, and counts once.

The null hypothesis is not that the champion is perfect. By age band the hazard may be what the reference's own
cases showed (with that sample's uncertainty), times the ratio that the policy tolerates.

Nothing here knows where cases come from; the evidence of single cohorts for people to read is in ``cohort_rows``.

Sources: Breslow, Analysis of survival data under the proportional hazards model, 1975 (one-sample log-rank);
Grünwald, Ly, Pérez-Ortiz and ter Schure, The safe log-rank test, 2021; Ville's inequality.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from scipy.special import gammaln, logsumexp
from scipy.stats import chi2, nbinom

from selfheal_assets.core.betting import log_limit, start_weights
from selfheal_assets.core.maturity import TimingCurve
from selfheal_assets.core.spec import HarmAlarms

HIGHEST_PROBABILITY = 1 - 1e-6
"""A probability of 1 has an infinite hazard; this one expects a positive as surely as counts can tell."""

CASE_COLUMNS = ("cohort", "age_days", "probability", "positive_age_days")
COUNT_SCHEMA = {
    "cohort": pl.Datetime("us"),
    "age_band": pl.Int64,
    "observed": pl.Float64,
    "expected": pl.Float64,
    "expected_at_most": pl.Float64,
    "expected_at_least": pl.Float64,
}
COHORT_SCHEMA = {
    "cohort": pl.Datetime("us"),
    "rows": pl.Int64,
    "mean_age_days": pl.Float64,
    "share_known": pl.Float64,
    "expected": pl.Float64,
    "observed": pl.Float64,
    "variance": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "reason": pl.String,
}


@dataclass(frozen=True)
class UsableCases:
    """The cases that can be counted, and by cohort how many cannot and why."""

    frame: pl.DataFrame
    left_out: dict[datetime, str]


def usable_cases(cases: pl.DataFrame) -> UsableCases:
    """Leave out, and name, the cases that no test can place.

    Args:
        cases: ``cohort`` (Datetime), ``age_days`` (f64), ``probability`` (f64, 0..1), ``positive_age_days`` (f64:
            age at which the positive label became known; null where none has).

    Raises:
        ValueError: a column is missing, or a label is known later than the case's age: a label from the future.
    """
    if missing := [c for c in CASE_COLUMNS if c not in cases.columns]:
        raise ValueError(f"the cases lack {', '.join(missing)}")
    age, p, positive = (pl.col(c).cast(pl.Float64) for c in CASE_COLUMNS[1:])
    future = int(cases.select((positive > age).sum()).item())
    if future:
        raise ValueError(f"{future} positive labels are older than their case: they were learned after as_of")
    sound = p.is_finite() & (p >= 0) & (p <= 1)
    wrong = (
        pl.when(pl.col("cohort").is_null())
        .then(pl.lit("without a cohort"))
        .when(~sound.fill_null(False))
        .then(pl.lit("without a probability between 0 and 1"))
        .when(~(age.is_finite() & (age >= 0)).fill_null(False))
        .then(pl.lit("with an age below 0 or none (clocks that disagree?)"))
        .when((positive < 0).fill_null(False) | positive.is_nan().fill_null(False))
        .then(pl.lit("labelled before they happened (clocks that disagree?)"))
    )
    judged = cases.select(
        pl.col("cohort").cast(pl.Datetime("us")),
        age.alias("age_days"),
        p.alias("probability"),
        positive.alias("positive_age_days"),
        wrong.alias("wrong"),
    )
    left_out = (
        judged.filter(pl.col("wrong").is_not_null()).group_by("cohort", "wrong").len().sort("cohort", "wrong")
    )
    said: dict[datetime, str] = {}
    for cohort, why, count in left_out.iter_rows():
        said[cohort] = "; ".join(filter(None, [said.get(cohort, ""), f"{count} cases left out: {why}"]))
    return UsableCases(judged.filter(pl.col("wrong").is_null()).drop("wrong"), said)


def hazard_counts(cases: pl.DataFrame, curve: TimingCurve, policy: HarmAlarms) -> pl.DataFrame:
    """Observed positives and cumulated hazard by cohort and age band, so far: the whole state of the test.

    Counts of a cohort replace its earlier ones (:func:`newest_counts`); a corrected label is a cohort counted again.

    Args:
        cases: as for :func:`usable_cases`.
        curve: timing curve, frozen with the reference.
        policy: ``age_bands`` of equal length up to the horizon; ``tolerated_ratio``.

    Returns:
        ``cohort``, ``age_band`` (from 0), ``observed``, ``expected`` (cumulated hazard at p), ``expected_at_most`` and
        ``expected_at_least`` (at the largest and smallest tolerated multiple of p), by cohort and band.
    """
    frame = usable_cases(cases).frame
    if frame.is_empty():
        return pl.DataFrame(schema=COUNT_SCHEMA)
    horizon = curve.horizon_days
    cohorts, code = np.unique(frame["cohort"].to_numpy(), return_inverse=True)
    p = frame["probability"].to_numpy()
    turned = frame["positive_age_days"].to_numpy()
    at_risk_until = np.minimum(np.fmin(frame["age_days"].to_numpy(), turned), horizon)
    edges = np.linspace(0, horizon, policy.age_bands + 1)
    band_of = np.clip(np.searchsorted(edges, at_risk_until, side="left") - 1, 0, policy.age_bands - 1)
    known_at_end, known_at_edges = curve.known_by(at_risk_until), curve.known_by(edges)
    size, positive = len(cohorts) * policy.age_bands, ~np.isnan(turned)
    observed = np.bincount((code * policy.age_bands + band_of)[positive], minlength=size)
    low, high = policy.tolerated_ratio
    hazards = [
        _hazard_by_band(
            np.minimum(p * g, HIGHEST_PROBABILITY), known_at_end, known_at_edges, code, len(cohorts)
        )
        for g in (1.0, 1 / low, 1 / high)
    ]
    return pl.DataFrame(
        {
            "cohort": np.repeat(cohorts, policy.age_bands),
            "age_band": np.tile(np.arange(policy.age_bands), len(cohorts)),
            "observed": observed.astype(float),
            "expected": hazards[0],
            "expected_at_most": hazards[1],
            "expected_at_least": hazards[2],
        },
        schema_overrides=COUNT_SCHEMA,
    )


def _hazard_by_band(
    p: np.ndarray, known_at_end: np.ndarray, known_at_edges: np.ndarray, code: np.ndarray, cohorts: int
) -> np.ndarray:
    """Cumulated hazard spent in each band while at risk, summed by cohort; flat, band fastest."""
    by_band = np.empty((cohorts, len(known_at_edges) - 1))
    before = np.zeros(len(p))
    for band, known in enumerate(known_at_edges[1:]):
        # F rises, so F at the earlier of two ages is the smaller of both.
        until = -np.log1p(-p * np.minimum(known, known_at_end))
        by_band[:, band] = np.bincount(code, until - before, cohorts)
        before = until
    return by_band.ravel()


def newest_counts(earlier: pl.DataFrame, newer: pl.DataFrame) -> pl.DataFrame:
    """Counts of all cohorts seen: those of ``newer`` where it has the cohort, else those of ``earlier``."""
    kept = earlier.join(newer.select("cohort").unique(), on="cohort", how="anti")
    return pl.concat([kept, newer]).sort("cohort", "age_band")


@dataclass(frozen=True)
class PartialAlarm:
    """What all cohorts together say of harm, at one look.

    Attributes:
        log_e: log of the wealth of the best stake; ``None`` where there is nothing to test.
        limit: log(1 / alpha), which chance alone exceeds with probability at most alpha in a year of cohorts.
        budget_spent: the chance of a false alarm that the stakes so far have used up.
        direction: ``more`` or ``fewer`` positives than expected.
        first_cohort: from which on the best stake holds the hazard to have changed.
        ratio, lower, upper: observed over expected from then on, exact 95 % Poisson interval.
        insufficient: the counts are too small to tell.
    """

    log_e: float | None
    limit: float
    budget_spent: float
    direction: str | None
    first_cohort: datetime | None
    observed: float
    expected: float
    ratio: float | None
    lower: float | None
    upper: float | None
    insufficient: bool
    reason: str

    @property
    def harmful(self) -> bool:
        """Whether the evidence exceeds its limit."""
        return not self.insufficient and self.log_e is not None and self.log_e >= self.limit


def log_wealth_by_start(counts: pl.DataFrame, reference: pl.DataFrame, policy: HarmAlarms) -> np.ndarray:
    """Log wealth of the bets that all cohorts from a first one on have changed.

    The observed count of a band is Poisson with mean theta times the cumulated hazard (which is conservative for
    cases that can turn only once). The reference leaves theta a gamma(n + 1/2, e + 1/2) of its n observed and e
    expected positives; harm by a factor c is gamma(c (n + 1/2), e + 1/2). The ratio of the two marginal
    probabilities rises with the count for c > 1, so it is safe for every smaller theta.

    Args:
        counts: of :func:`hazard_counts`, every cohort tested.
        reference: the same of the reference's cases, all mature.

    Returns:
        (2, cohorts): for more and for fewer positives; mixed over the policy's factors.
    """
    bands = policy.age_bands
    known = reference.group_by("age_band").agg(pl.col("observed", "expected").sum()).sort("age_band")
    shape, rate = np.full(bands, 0.5), np.full(bands, 0.5)
    shape[known["age_band"].to_numpy()] += known["observed"].to_numpy()
    rate[known["age_band"].to_numpy()] += known["expected"].to_numpy()
    counts = counts.sort("cohort", "age_band")
    observed = _since(counts["observed"], bands)

    def mixed(expected: np.ndarray, factors: np.ndarray) -> np.ndarray:
        grown = [_log_ratio(observed, expected, shape, rate, c).sum(axis=1) for c in factors]
        return logsumexp(grown, axis=0) - np.log(len(factors))

    up = np.array(policy.hazard_factors)
    return np.stack(
        [
            mixed(_since(counts["expected_at_most"], bands), up),
            mixed(_since(counts["expected_at_least"], bands), 1 / up),
        ]
    )


def _since(column: pl.Series, bands: int) -> np.ndarray:
    """(cohorts, bands) sums over each cohort and all later ones."""
    return np.cumsum(column.to_numpy().reshape(-1, bands)[::-1], axis=0)[::-1]


def _log_ratio(
    observed: np.ndarray, expected: np.ndarray, shape: np.ndarray, rate: np.ndarray, factor: float
) -> np.ndarray:
    """Log ratio of gamma-Poisson probabilities: shape ``factor * shape`` against ``shape``, both at ``rate``."""
    grown = np.log1p(expected / rate)
    harm = gammaln(factor * shape + observed) - gammaln(factor * shape) - factor * shape * grown
    return harm - (gammaln(shape + observed) - gammaln(shape) - shape * grown)
