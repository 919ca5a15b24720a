"""Labels that are not complete yet: what is known so far against what should be, by cohort and age.

A case with probability p is at risk of turning positive until it does, or until the horizon. With the timing
curve F its cumulated hazard by age a is -log(1 - p F(a)), so the positives so far less the cumulated hazard of
all cases while they were at risk are a martingale in time (the one-sample log-rank statistic): the same case may
be looked at every day as it grows older, and counts once. The test on these counts is ``partial_labels``.

Source: Breslow, Analysis of survival data under the proportional hazards model, 1975.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from scipy.stats import nbinom

from selfheal_assets.core.evidence_policy import HarmAlarms
from selfheal_assets.core.maturity import TimingCurve

HIGHEST_PROBABILITY = 1 - 1e-6
"""A probability of 1 has an infinite hazard; this one expects a positive as surely as counts can tell."""

LEAST_RATE = 1e-9
"""Of positives known at an age: below it, no number of cases is worth naming."""

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
    future = int(cases.select((positive.is_not_nan() & (positive > age)).sum()).item())
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
        ``cohort``, ``age_band`` (from 0), ``observed``, ``expected`` (cumulated hazard at p), ``expected_at_most``
        and ``expected_at_least`` (at the largest and smallest tolerated multiple of p), by cohort and band.
    """
    frame = usable_cases(cases).frame
    if frame.is_empty():
        return pl.DataFrame(schema=COUNT_SCHEMA)
    cohorts, code = np.unique(frame["cohort"].to_numpy(), return_inverse=True)
    p = frame["probability"].to_numpy()
    turned = frame["positive_age_days"].to_numpy()
    # Beyond the horizon F stays 1 and the last band is the last: no more hazard is spent.
    at_risk_until = np.fmin(frame["age_days"].to_numpy(), turned)
    edges = np.linspace(0, curve.horizon_days, policy.age_bands + 1)
    band_of = np.clip(np.searchsorted(edges, at_risk_until, side="left") - 1, 0, policy.age_bands - 1)
    known_at_edges = smoothed_knowledge(curve, policy.age_bands)
    known_at_end = np.interp(at_risk_until, edges, known_at_edges)
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


def smoothed_knowledge(curve: TimingCurve, bands: int) -> np.ndarray:
    """F at the edges of equal age bands up to the horizon, from 0 to 1, with half a positive added to each band.

    Where the reference has no positive, the empirical F says that none can come, and the first that does would be
    infinitely surprising. Half a positive is Jeffreys' prior for the shares of a multinomial; within a band F is
    straight.
    """
    edges = np.linspace(0, curve.horizon_days, bands + 1)
    counts = np.histogram(np.clip(curve.ages, 0, curve.horizon_days), edges)[0] + 0.5
    return np.concatenate([[0.0], np.cumsum(counts[:-1]) / counts.sum(), [1.0]])


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


def cohort_rows(
    cases: pl.DataFrame, curve: TimingCurve, reference_positives: float, policy: HarmAlarms
) -> pl.DataFrame:
    """Expected and observed positives so far, cohort by cohort, for people to read; no test.

    Args:
        cases: as for :func:`usable_cases`.
        curve: timing curve of the reference.
        reference_positives: positives that curve and calibration rest on; few widen the range.
        policy: ``min_positives``.

    Returns:
        One row per cohort: ``cohort``, ``rows``, ``mean_age_days``, ``share_known`` (mean F), ``expected`` (sum of
        p F(age)), ``observed`` (counts), ``variance`` (of the observed count if each p F(age) is right), ``lower``
        and ``upper`` (where 95 % of counts would lie: a negative binomial, so that the reference's sampling error is
        in it), ``reason`` (what was left out, or how many rows the cohort lacks; null where all is well). Figures
        that cannot be had are null.
    """
    usable = usable_cases(cases)
    due = curve.known_by(usable.frame["age_days"].to_numpy())
    so_far = usable.frame["probability"].to_numpy() * due
    rows = (
        usable.frame.with_columns(
            due=pl.Series(due, dtype=pl.Float64),
            so_far=pl.Series(so_far, dtype=pl.Float64),
            spread=pl.Series(so_far * (1 - so_far), dtype=pl.Float64),
        )
        .group_by("cohort")
        .agg(
            rows=pl.len().cast(pl.Int64),
            mean_age_days=pl.col("age_days").mean(),
            share_known=pl.col("due").mean(),
            expected=pl.col("so_far").sum(),
            observed=pl.col("positive_age_days").count().cast(pl.Float64),
            variance=pl.col("spread").sum(),
        )
    )
    empty = [c for c in usable.left_out if c not in set(rows["cohort"])]
    blank = pl.DataFrame({"cohort": empty, "rows": [0] * len(empty)}, schema_overrides=COHORT_SCHEMA)
    rows = pl.concat([rows, blank], how="diagonal").sort("cohort")
    ranges = [
        _range_and_reason(row, reference_positives, policy, usable.left_out.get(row["cohort"], ""))
        for row in rows.iter_rows(named=True)
    ]
    shown = (
        pl.DataFrame(ranges, schema=["lower", "upper", "reason"], orient="row") if ranges else pl.DataFrame()
    )
    made = pl.concat([rows, shown], how="horizontal") if ranges else rows
    lacking = [pl.lit(None).alias(c) for c in COHORT_SCHEMA if c not in made.columns]
    return made.with_columns(lacking).select(pl.col(c).cast(t) for c, t in COHORT_SCHEMA.items())


def _range_and_reason(
    row: dict, reference_positives: float, policy: HarmAlarms, left_out: str
) -> tuple[float | None, float | None, str | None]:
    """Range of the observed count where the champion is right, and what to say of the cohort."""
    said = [left_out] if left_out else []
    if not row["rows"]:
        return None, None, "; ".join([*said, "no usable case"])
    expected, observed = row["expected"], row["observed"]
    if max(expected, observed) < policy.min_positives:
        said.append(too_few(expected, observed, row["rows"], policy.min_positives))
    if expected <= 0:
        return None, None, "; ".join(said)
    shape = reference_positives + 0.5
    low, high = nbinom.ppf([0.025, 0.975], shape, shape / (shape + expected))
    return float(low), min(float(high), float(row["rows"])), "; ".join(said) or None


def too_few(expected: float, observed: float, rows: int, wanted: int) -> str:
    """Why the counts cannot tell, with the rows that would."""
    said = f"{expected:.1f} positives expected and {observed:.0f} observed so far among {rows} cases"
    rate = max(expected, observed) / rows if rows else 0.0
    if rate < LEAST_RATE:
        return f"{said}: none is expected to be known at this age; min_positives asks for {wanted}"
    return f"{said}; min_positives asks for {wanted}: about {int(np.ceil(wanted / rate))} cases of this age"
