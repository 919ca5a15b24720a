"""What a model card says in figures: how a version did on cases it never saw, where, by which features; its limits.

Computed from the bundle and its reference's rows alone. The card's page is ``reports.card``'s, the look-up of what
was decided about the version ``stores.model_cards``'s.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.encoding import encode
from selfheal_assets.core.feature_effects import EFFECT_SCHEMA, IMPORTANCE_SCHEMA, effects_of
from selfheal_assets.core.intervals import wilson
from selfheal_assets.core.metrics import UndefinedMetric, equal_count_bins
from selfheal_assets.core.outcomes import METRICS, Outcomes
from selfheal_assets.core.policies import AlarmPolicy, RealizedFigures
from selfheal_assets.core.realized import REALIZED_SCHEMA, realized_metrics
from selfheal_assets.core.segments import slices
from selfheal_assets.core.spec import Segment

BY_SEGMENT = ("roc_auc", "expected_over_observed")
SEGMENT_SCHEMA = {
    "segment": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "rows": pl.Int64,
    "positives": pl.Int64,
    "reason": pl.String,
    "note": pl.String,
}
CALIBRATION_SCHEMA = {
    "bin": pl.Int64,
    "rows": pl.Int64,
    "expected": pl.Float64,
    "observed": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
}


@dataclass(frozen=True, eq=False)
class CardFigures:
    """A version on the labelled cases of its reference.

    Attributes:
        metrics: as ``realized.realized_metrics``; empty where there are no cases.
        segments: one row per segment value and metric of ``BY_SEGMENT``: ``segment``, ``metric``, ``value``,
            ``lower``, ``upper``, ``rows``, ``positives``, ``reason`` (why there is no value), ``note`` (what was
            pooled).
        calibration: one row per bin of equally many cases, by rising score: ``bin``, ``rows``, ``expected`` (mean
            score), ``observed`` (share of positives) with Wilson's ``lower`` and ``upper``.
        importance: one row per feature, the strongest first, see ``feature_effects.effects_of``.
        effects: of the strongest features, see there.
    """

    metrics: pl.DataFrame
    segments: pl.DataFrame
    calibration: pl.DataFrame
    importance: pl.DataFrame
    effects: pl.DataFrame


@dataclass(frozen=True, eq=False)
class ModelCard:
    """A registered version and all that is told of it.

    Attributes:
        version: its number.
        bundle: the version itself.
        standing: ``champion``, ``previous champion``, ``challenger``, ``quarantined``, or ``retired``: the registry's
            aliases and tags in one word.
        quarantined: why it was taken back; empty where it was not.
        figures: on the cases of its reference.
        limits: what it was not tried on, in sentences.
        candidates: the family that it was chosen from: ``candidate``, ``validation_log_loss`` (nats), ``reason``,
            ``chosen``. Empty where that was not kept.
        comparison: rows of ``shadow_evaluation`` in which it is the challenger, with ``champion`` (the version).
        served: as ``realized.realized_metrics``, of the matured cases that it answered as champion, if any.
        served_curve: the calibration curve of the same cases, as ``CardFigures.calibration``.
        answered: how many cases it answered as champion, and the first and last of their days.
        trail: the decisions that name it, oldest first, as ``decision_ledger.recorded`` gives them.
    """

    version: int
    bundle: Bundle
    standing: str
    quarantined: str
    figures: CardFigures
    limits: list[str]
    candidates: pl.DataFrame
    comparison: pl.DataFrame
    served: pl.DataFrame
    served_curve: pl.DataFrame
    answered: tuple[int, datetime | None, datetime | None]
    trail: list[dict[str, Any]]


def card_figures(
    bundle: Bundle,
    rows: pl.DataFrame,
    segments: tuple[Segment, ...],
    policy: AlarmPolicy,
    figures: RealizedFigures,
    seed: int = 0,
) -> CardFigures:
    """Figures of a version.

    Args:
        bundle: the version.
        rows: labelled cases that it has not learned from: the features and ``label`` (0/1).
        segments: of the use case.
        policy: how few rows or positives are too few.
        figures: confidence, resamples and bins.
        seed: of the bootstrap.
    """
    if rows.is_empty():
        return CardFigures(*(pl.DataFrame(schema=s) for s in (
            REALIZED_SCHEMA, SEGMENT_SCHEMA, CALIBRATION_SCHEMA, IMPORTANCE_SCHEMA, EFFECT_SCHEMA,
        )))  # fmt: skip
    matrix = encode(rows, bundle.features, bundle.vocabulary)
    label, score = rows["label"].to_numpy().astype(np.int8), bundle.score_matrix(matrix)
    flagged = score >= bundle.threshold
    importance, effects = effects_of(bundle, rows, matrix)
    return CardFigures(
        realized_metrics(label, score, flagged, policy, None, seed, figures),
        _by_segment(rows, Outcomes(label, score, flagged, figures, seed), segments, policy),
        calibration_curve(label, score, figures.calibration_bins, figures.confidence),
        importance,
        effects,
    )


def _by_segment(
    rows: pl.DataFrame, all_cases: Outcomes, segments: tuple[Segment, ...], policy: AlarmPolicy
) -> pl.DataFrame:
    found = []
    parts = slices(rows, all_cases.label, segments, policy.min_rows, policy.min_positives)
    for part in list(parts)[1:]:  # the first is all cases
        cases = replace(
            all_cases,
            label=all_cases.label[part.mask],
            probability=all_cases.probability[part.mask],
            flagged=all_cases.flagged[part.mask],
        )
        few = cases.rows < policy.min_rows or cases.positives < policy.min_positives
        for metric in (m for m in METRICS if m.name in BY_SEGMENT):
            value, reason = None, f"fewer than {policy.min_rows} cases or {policy.min_positives} positives"
            try:
                value = None if few else metric.compute(cases)
            except UndefinedMetric as error:
                reason = str(error)
            bounds = (value.value, value.lower, value.upper) if value else (None, None, None)
            told = None if value else reason
            found.append((part.name, metric.name, *bounds, cases.rows, cases.positives, told, part.note))
    return pl.DataFrame(found, schema=SEGMENT_SCHEMA, orient="row")


def calibration_curve(label: np.ndarray, score: np.ndarray, bins: int, confidence: float) -> pl.DataFrame:
    """Expected and observed share of positives by bins of equally many cases; see :class:`CardFigures`."""
    place = equal_count_bins(score, bins)
    found = []
    for name in np.unique(place):
        inside = place == name
        share = wilson(int(label[inside].sum()), int(inside.sum()), confidence)
        mean = float(score[inside].mean())
        found.append((int(name), int(inside.sum()), mean, share.value, share.lower, share.upper))
    return pl.DataFrame(found, schema=CALIBRATION_SCHEMA, orient="row")


def limits_of(
    bundle: Bundle, found: CardFigures, segments: tuple[Segment, ...], horizon_months: int
) -> list[str]:
    """What the version was not tried on, and how far its figures reach, in sentences."""
    window = bundle.reference
    said = [
        f"Its figures are of cases from {window.start:%Y-%m-%d} to {window.end:%Y-%m-%d}, with the labels known on "
        f"{window.as_of:%Y-%m-%d}. On later cases it was not tried when it was decided on.",
        *_learned(bundle, horizon_months),
        *_off_level(found.calibration),
        *_small_groups(found.segments),
        *_unknown_values(bundle),
    ]
    if not any(s.fairness for s in segments):
        said.append("The use case names no group for fairness: whether groups fare alike was not tried.")
    return [*said, "Feature effects are the model's own, not causes: a feature may stand in for another."]


def _learned(bundle: Bundle, horizon_months: int) -> list[str]:
    """How old what it has learned is, and whether its labels were all in."""
    gap = (bundle.reference.as_of - bundle.trained_until).days / 30.4375
    if "immature_until" in bundle.notes:
        return [
            f"It has also learned from cases younger than the horizon of {horizon_months} months, by what was known "
            "of them so far: a change of how fast outcomes show would mislead it.",
            "Its level is that of its newest cases, not of its reference, which is older: expected over observed "
            "there says how the level has changed since, not only how well the model is calibrated.",
        ]
    return [f"It knows nothing of the {gap:.0f} months before its training, whose outcomes were still open."]


def _off_level(curve: pl.DataFrame) -> list[str]:
    """Bins whose score lies outside what was observed."""
    off = curve.filter((pl.col("expected") < pl.col("lower")) | (pl.col("expected") > pl.col("upper")))
    if off.is_empty():
        return []
    worst = off.sort((pl.col("expected") - pl.col("observed")).abs(), descending=True).row(0, named=True)
    way = "too high" if worst["expected"] > worst["observed"] else "too low"
    return [
        f"In {off.height} of {curve.height} score bands its probability is outside the interval of what was "
        f"observed; at worst {way}: {worst['expected']:.1%} expected, {worst['observed']:.1%} observed."
    ]


def _small_groups(segments: pl.DataFrame) -> list[str]:
    """Groups with too few cases to be judged, alone or pooled with others."""
    small = segments.filter(
        (pl.col("metric") == BY_SEGMENT[0]) & (pl.col("value").is_null() | pl.col("note").is_not_null())
    )
    return [
        f"{row['segment']}: {row['note'] or row['reason']}"
        + ("." if row["value"] is not None else "; too few to judge, even together." if row["note"] else ".")
        for row in small.iter_rows(named=True)
    ]


def _unknown_values(bundle: Bundle) -> list[str]:
    names = [name for name in bundle.vocabulary]
    if not names:
        return []
    return [
        f"A category it has not seen counts as missing ({', '.join(names)}); the prediction then says so."
    ]
