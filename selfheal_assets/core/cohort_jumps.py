"""Jumps between neighbouring cohorts that chance does not explain: of the label rate, its timing, the volume.

A population moves gradually; what jumps from one cohort to the next is the pipeline's work. Odds ratios with
Haldane's correction and Woolf's standard error (Woolf 1955); distances of ages less the margin of Dvoretzky, Kiefer
and Wolfowitz with Massart's constant (1990).
"""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl
from scipy.stats import norm

from selfheal_assets.core.column_faults import Fault
from selfheal_assets.core.periods import chunk_start
from selfheal_assets.core.soundness_policy import Soundness
from selfheal_assets.core.spec import ChunkPeriod, Feature, FeatureType

_TRUNCATED = {"day": "1d", "week": "1w", "month": "1mo", "quarter": "1q"}


def cohorts_since(rows: pl.DataFrame, since: datetime, period: ChunkPeriod, least: int) -> list[pl.DataFrame]:
    """The rows by chunk of event time, from the last chunk before ``since`` on; small ones join the one before."""
    start, found = chunk_start(since, period), []
    chunked = rows.sort("event_time").with_columns(
        __chunk=pl.col("event_time").dt.truncate(_TRUNCATED[period])
    )
    for part in chunked.partition_by("__chunk", maintain_order=True):
        if found and (part.height < least or found[-1].height < least):
            found[-1] = pl.concat([found[-1], part])
        else:
            found.append(part)
    first = max((n for n, c in enumerate(found) if c["__chunk"][0] < start), default=0)
    return [c.drop("__chunk") for c in found[first:]]


def rate_jumps(
    before: pl.DataFrame, after: pl.DataFrame, features: Sequence[Feature], policy: Soundness
) -> list[Fault]:
    """A jump of the odds of a positive over all rows; where there is none, in one category of a feature."""
    sums = [[int(f["label"].sum()), f.height - int(f["label"].sum())] for f in (before, after)]
    if (jump := _odds_jump(np.array(sums), policy)) > policy.max_odds_jump:
        return [_jumped(before, after, "the label rate", jump, policy)]
    for feature in features:
        if feature.type is FeatureType.category:
            for value, *counts in _by_category(before, after, feature.name, policy).iter_rows():
                jump = _odds_jump(np.array(counts).reshape(2, 2), policy)
                if jump > policy.max_odds_jump:
                    old, new = (f.filter(pl.col(feature.name) == value) for f in (before, after))
                    return [
                        _jumped(old, new, f"the label rate where {feature.name} is {value}", jump, policy)
                    ]
    return []


def _by_category(before: pl.DataFrame, after: pl.DataFrame, name: str, policy: Soundness) -> pl.DataFrame:
    """Positives and negatives before and after by category, for those with enough rows on both sides."""
    label = pl.col("label").cast(pl.Int64)
    counted = [f.group_by(name).agg(p=label.sum(), n=(1 - label).sum()) for f in (before, after)]
    enough = (pl.col("p") + pl.col("n") >= policy.min_rows) & (
        pl.col("p_after") + pl.col("n_after") >= policy.min_rows
    )
    return counted[0].join(counted[1], on=name, suffix="_after").filter(enough).sort(name)


def _odds_jump(counts: np.ndarray, policy: Soundness) -> float:
    """The factor by which the odds certainly moved; (2, 2) counts: before and after, positives and negatives."""
    counts = counts + 0.5
    log_ratio = np.log(counts[1, 0] / counts[1, 1]) - np.log(counts[0, 0] / counts[0, 1])
    chance = norm.ppf(policy.confidence) * np.sqrt((1 / counts).sum())
    return float(np.exp(max(abs(log_ratio) - chance, 0.0)))


def _jumped(before: pl.DataFrame, after: pl.DataFrame, what: str, jump: float, policy: Soundness) -> Fault:
    rates = [float(f["label"].mean()) for f in (before, after)]  # type: ignore[arg-type]
    said = (
        f"{what} jumped from {rates[0]:.1%} ({before.height} rows) to {rates[1]:.1%} ({after.height} rows from "
        f"{after['event_time'].min():%Y-%m-%d} on): by a factor of at least {jump:.2f} in odds, more than "
        f"{policy.max_odds_jump:g} between neighbouring cohorts"
    )
    return Fault("rate_jump", said, {"before": rates[0], "after": rates[1], "certain_factor": jump})


def volume_jumps(rows: pl.DataFrame, since: datetime, period: ChunkPeriod, policy: Soundness) -> list[Fault]:
    """Chunks from the one before ``since`` on, each against the one before it; the first and last may be cut off."""
    every = "1w" if period == "day" else _TRUNCATED[period]
    counted = rows.group_by(pl.col("event_time").dt.truncate(every)).agg(pl.len()).sort("event_time")
    chunks = counted.upsample("event_time", every=every).with_columns(pl.col("len").fill_null(0))[1:-1]
    last = chunks.filter(pl.col("event_time") <= since).height - 1
    chunks = chunks[max(last - 1, 0) :]
    for n, after in enumerate(chunks["len"][1:], 1):
        before = chunks["len"][n - 1]
        chance = norm.ppf(policy.confidence) * np.sqrt(1 / (before + 0.5) + 1 / (after + 0.5))
        certain = np.exp(abs(np.log((after + 0.5) / (before + 0.5))) - chance)
        if certain > policy.max_volume_jump:
            said = (
                f"the volume jumped: {before} rows in one chunk and {after} in the next, from "
                f"{chunks['event_time'][n]:%Y-%m-%d} on, a factor of at least {certain:.1f}: rows are missing, "
                "doubled or foreign"
            )
            return [Fault("volume_jump", said, {"before": before, "after": after})]
    return []


def _ages(rows: pl.DataFrame) -> np.ndarray:
    known = rows.filter((pl.col("label") == 1) & pl.col("recorded_at").is_not_null())
    return np.sort((known["recorded_at"] - known["event_time"]).dt.total_seconds().to_numpy() / 86400.0)


def _gap(first: np.ndarray, second: np.ndarray, tolerated: float) -> float:
    """Largest gap between the distribution functions of two sorted samples once either was moved by ``tolerated``.

    Labels that all come at one age, as those counted at a horizon of months do, differ by a day or two of the
    calendar: apart in Kolmogorov and Smirnov's distance, and next to each other in this one (Lévy's, with a fixed
    width).
    """
    every = np.concatenate([first, second])
    of_first, of_second = (np.searchsorted(s, every, side="right") / len(s) for s in (first, second))
    first_later, second_later = (
        np.searchsorted(s, every + tolerated, side="right") / len(s) for s in (first, second)
    )
    return float(max((of_first - second_later).max(), (of_second - first_later).max()))


def timing_jumps(
    rows: pl.DataFrame, cohorts: list[pl.DataFrame], since: datetime, policy: Soundness
) -> list[Fault]:
    """The ages at which positives became known, in the newest cohorts against all that were known before."""
    old = _ages(rows.filter(pl.col("event_time") < since))
    for cohort in cohorts[1:]:
        new = _ages(cohort)
        if min(len(old), len(new)) < 2:
            continue
        chance = np.sqrt(np.log(2 / (1 - policy.confidence)) / 2 * (1 / len(old) + 1 / len(new)))
        certain = _gap(old, new, policy.tolerated_timing_shift * old[-1]) - float(chance)
        if certain > policy.max_timing_jump:
            said = (
                f"label timing jumped: the {len(new)} positives from {cohort['event_time'].min():%Y-%m-%d} on became "
                f"known after {np.median(new):.0f} days in the median, the {len(old)} before them after "
                f"{np.median(old):.0f}; their timing curves differ by at least {certain:.2f}, more than "
                f"{policy.max_timing_jump:g}"
            )
            return [Fault("timing_jump", said, {"certain_distance": certain})]
    return []
