"""Poisoned training sets: what must not be trained on, told by its cause. Held, not repaired.

How a real change and a poisoned one are told apart: a population moves gradually, so neighbouring cohorts differ by
little more than chance; what jumps is the pipeline's work. Each limit is on the part of a jump that chance does not
explain. Odds ratios with Haldane's correction and Woolf's standard error (Woolf 1955); distances of ages less the
margin of Dvoretzky, Kiefer and Wolfowitz with Massart's constant (1990).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import numpy as np
import polars as pl
from scipy.stats import norm, rankdata

from selfheal_assets.core.column_faults import Fault, column_faults, distance
from selfheal_assets.core.kept_rows import kept_faults
from selfheal_assets.core.periods import chunk_start
from selfheal_assets.core.soundness_policy import Soundness
from selfheal_assets.core.spec import ChunkPeriod, Feature, FeatureType

_TRUNCATED = {"day": "1d", "week": "1w", "month": "1mo", "quarter": "1q"}


@dataclass(frozen=True)
class Kept:
    """The last training set that was accepted: its rows, when they were known, where they ended in event time."""

    rows: pl.DataFrame
    known_at: datetime
    until: datetime


@dataclass(frozen=True)
class TrainingEvidence:
    """What a training set is judged by.

    Attributes:
        rows: ``entity_id`` (str), ``event_time`` (Datetime), the features, ``label`` (0/1); ``occurred_at`` and
            ``recorded_at`` (Datetime) and ``ledger_label`` of the ledger's newest record (null: none).
        as_of: nothing later may have been known.
        features: of the use case.
        period: the monitoring chunk, by which cohorts are made.
        kept: the last accepted training set; ``None`` before the first.
    """

    rows: pl.DataFrame
    as_of: datetime
    features: Sequence[Feature]
    period: ChunkPeriod
    kept: Kept | None


def training_faults(evidence: TrainingEvidence, policy: Soundness) -> list[Fault]:
    """Everything that forbids training on these rows; empty where they are sound.

    Rows that were trained on before are compared one by one with what they were. Of the others each cohort is
    compared with the one before it; before the first training, the newest quarter of the rows is the others.
    """
    rows, kept = evidence.rows, evidence.kept
    if rows.is_empty():
        return [Fault("empty", "no matured, labelled case was known")]
    since = kept.until if kept else rows["event_time"].sort()[3 * rows.height // 4]
    found = [*_identity(rows, since, evidence, policy), *_times(rows, evidence.as_of, policy), *_ledger(rows)]
    if kept:
        found += kept_faults(kept.rows, rows, kept.known_at, evidence.features, policy)
        found += _late(rows, kept, policy)
    return found + _new_rows(rows, since, evidence, policy)


def _identity(
    rows: pl.DataFrame, since: datetime, evidence: TrainingEvidence, policy: Soundness
) -> list[Fault]:
    twice = rows.filter(pl.col("entity_id").is_duplicated())
    if twice.height:
        cases = twice.group_by("entity_id").agg(pl.col("label").n_unique())
        torn = int((cases["label"] > 1).sum())
        said = f"{cases.height} cases are there more than once, in {twice.height} of {rows.height} rows"
        if torn:
            return [
                Fault(
                    "contradicting", f"labels contradict each other: {said}, {torn} of them with both labels"
                )
            ]
        return [Fault("duplicated", f"rows are duplicated: {said}")]
    same = ["event_time", *(f.name for f in evidence.features)]
    alike = rows.select("event_time", alike=pl.struct(same).is_duplicated())
    old, new = (
        alike.filter(c)["alike"] for c in (pl.col("event_time") < since, pl.col("event_time") >= since)
    )
    shares = [float(s.mean() or 0) for s in (old, new)]  # type: ignore[arg-type]
    if len(new) < policy.min_rows or shares[1] - shares[0] <= policy.max_duplicate_share:
        return []
    said = (
        f"{shares[1]:.1%} of the {len(new)} rows since {since:%Y-%m-%d} equal another in event time and every "
        "feature"
    )
    return [Fault("duplicated", f"rows are duplicated under other ids: {said}, before {shares[0]:.1%}")]


def _times(rows: pl.DataFrame, as_of: datetime, policy: Soundness) -> list[Fault]:
    found = []
    future = rows.filter((pl.col("recorded_at") >= as_of) | (pl.col("occurred_at") >= as_of))
    if future.height:
        said = (
            f"labels come from the future: {future.height} of {rows.height} were recorded or occurred after "
            f"{as_of:%Y-%m-%d}"
        )
        found.append(Fault("future_label", said, {"rows": future.height}))
    early = rows.filter(
        (pl.col("occurred_at") < pl.col("event_time")) | (pl.col("recorded_at") < pl.col("event_time"))
    )
    if early.height > policy.max_implausible_share * rows.height:
        said = f"{early.height} of {rows.height} labels were true or recorded before their case happened"
        found.append(Fault("early_label", f"label dates are shifted: {said}", {"rows": early.height}))
    return found


def _ledger(rows: pl.DataFrame) -> list[Fault]:
    """A label that is not what the ledger's newest record says."""
    wrong = rows.filter(pl.col("ledger_label").is_not_null() & (pl.col("ledger_label") != pl.col("label")))
    if wrong.is_empty():
        return []
    said = (
        f"labels contradict the ledger: {wrong.height} of {rows.height} are not what its newest record says"
    )
    return [Fault("label_changed", said, {"rows": wrong.height})]


def _late(rows: pl.DataFrame, kept: Kept, policy: Soundness) -> list[Fault]:
    before = rows.filter(pl.col("event_time") < kept.until)
    late = before.join(kept.rows, on="entity_id", how="anti")
    if late.height <= policy.max_late_share * max(before.height, 1):
        return []
    said = (
        f"foreign rows were mixed in: {late.height} of {before.height} rows from before {kept.until:%Y-%m-%d} were "
        "not among those that were trained on"
    )
    return [Fault("foreign", said, {"late": late.height, "rows": before.height})]


def _new_rows(
    rows: pl.DataFrame, since: datetime, evidence: TrainingEvidence, policy: Soundness
) -> list[Fault]:
    """The cohorts since ``since``, each against the one before it."""
    cohorts = _cohorts(rows, since, evidence.period, policy.min_rows)
    new = rows.filter(pl.col("event_time") >= since)
    found = _constant(new, policy) + _volume(rows, since, evidence.period, policy)
    for before, after in pairwise(cohorts):
        found += column_faults(before, after, evidence.features, policy)
        if not any(f.cause == "constant" for f in found):
            found += _rate(before, after, evidence.features, policy)
    if not found:  # each of these is also a consequence of what is above
        found += _timing(rows, cohorts, since, policy) + _leaks(new, evidence.features, policy)
    return found


def _cohorts(rows: pl.DataFrame, since: datetime, period: ChunkPeriod, least: int) -> list[pl.DataFrame]:
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


def _constant(new: pl.DataFrame, policy: Soundness) -> list[Fault]:
    positives = int(new["label"].sum())
    if new.height < policy.min_rows or positives not in (0, new.height):
        return []
    said = (
        f"the label is constant: all {new.height} newest rows are {'positive' if positives else 'negative'}"
    )
    return [Fault("constant", said, {"rows": new.height, "positives": positives})]


def _rate(
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


def _volume(rows: pl.DataFrame, since: datetime, period: ChunkPeriod, policy: Soundness) -> list[Fault]:
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


def _timing(
    rows: pl.DataFrame, cohorts: list[pl.DataFrame], since: datetime, policy: Soundness
) -> list[Fault]:
    """The ages at which positives became known, in the newest cohorts against all that were known before."""
    old = _ages(rows.filter(pl.col("event_time") < since))
    for cohort in cohorts[1:]:
        new = _ages(cohort)
        if min(len(old), len(new)) < 2:
            continue
        chance = np.sqrt(np.log(2 / (1 - policy.confidence)) / 2 * (1 / len(old) + 1 / len(new)))
        certain = distance(old, new) - float(chance)
        if certain > policy.max_timing_jump:
            said = (
                f"label timing jumped: the {len(new)} positives from {cohort['event_time'].min():%Y-%m-%d} on became "
                f"known after {np.median(new):.0f} days in the median, the {len(old)} before them after "
                f"{np.median(old):.0f}; their timing curves differ by at least {certain:.2f}, more than "
                f"{policy.max_timing_jump:g}"
            )
            return [Fault("timing_jump", said, {"certain_distance": certain})]
    return []


def _leaks(new: pl.DataFrame, features: Sequence[Feature], policy: Soundness) -> list[Fault]:
    """Features that rank the newest rows as only the label itself could; categories by their share of positives."""
    label = new["label"].to_numpy()
    positives = int(label.sum())
    if new.height < policy.min_rows or not 20 <= positives <= new.height - 20:
        return []
    found = []
    for feature in features:
        value = new[feature.name]
        if feature.type is FeatureType.category:
            if value.n_unique() > new.height / 20:
                continue  # so many categories tell each row apart, and its label with it
            score = new.select(pl.col("label").mean().over(feature.name))["label"].to_numpy()
        else:
            if value.null_count() == new.height:
                continue
            score = value.cast(pl.Float64).fill_null(strategy="min").to_numpy()
        auc = (rankdata(score)[label == 1].sum() - positives * (positives + 1) / 2) / (
            positives * (new.height - positives)
        )
        if feature.name not in policy.ignored and max(auc, 1 - auc) > policy.max_feature_auc:
            said = (
                f"{feature.name} leaks the label: alone it ranks the {new.height} newest rows with ROC AUC "
                f"{max(auc, 1 - auc):.3f}"
            )
            found.append(Fault("leak", said, {"column": feature.name, "auc": float(max(auc, 1 - auc))}))
    return found
