"""Poisoned training sets: what must not be trained on, told by its cause. Held, not repaired.

How a real change and a poisoned one are told apart: a population moves gradually, so neighbouring cohorts differ by
little more than chance; what jumps is the pipeline's work. Each limit is on the part of a jump that chance does not
explain (``cohort_jumps``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import polars as pl
from scipy.stats import rankdata

from selfheal_assets.core.cohort_jumps import cohorts_since, rate_jumps, timing_jumps, volume_jumps
from selfheal_assets.core.column_faults import Fault, column_faults
from selfheal_assets.core.kept_rows import kept_faults
from selfheal_assets.core.soundness_policy import Soundness
from selfheal_assets.core.spec import ChunkPeriod, Feature, FeatureType


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
    cohorts = cohorts_since(rows, since, evidence.period, policy.min_rows)
    new = rows.filter(pl.col("event_time") >= since)
    found = _constant(new, policy) + volume_jumps(rows, since, evidence.period, policy)
    for before, after in pairwise(cohorts):
        found += column_faults(before, after, evidence.features, policy)
        if not any(f.cause == "constant" for f in found):
            found += rate_jumps(before, after, evidence.features, policy)
    if not found:  # each of these is also a consequence of what is above
        found += timing_jumps(rows, cohorts, since, policy) + _leaks(new, evidence.features, policy)
    return found


def _constant(new: pl.DataFrame, policy: Soundness) -> list[Fault]:
    positives = int(new["label"].sum())
    if new.height < policy.min_rows or positives not in (0, new.height):
        return []
    said = (
        f"the label is constant: all {new.height} newest rows are {'positive' if positives else 'negative'}"
    )
    return [Fault("constant", said, {"rows": new.height, "positives": positives})]


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
