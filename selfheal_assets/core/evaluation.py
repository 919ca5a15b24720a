"""Champion and challenger on the same held-out rows: values, paired intervals, segments."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
from scipy.stats import norm

from selfheal_assets.core import metrics
from selfheal_assets.core.policies import GatePolicy
from selfheal_assets.core.spec import Segment


@dataclass(frozen=True)
class Comparison:
    """One metric of both models on the same rows; ``lower``/``upper`` bound challenger minus champion."""

    metric: str
    champion: float
    challenger: float
    lower: float
    upper: float
    rows: int
    positives: int
    segment: str = "all"

    @property
    def difference(self) -> float:
        """Challenger minus champion, in the metric's own unit."""
        return self.challenger - self.champion


@dataclass(frozen=True)
class ScoredRows:
    """The same rows scored by both models; arrays of equal length."""

    label: np.ndarray
    champion: np.ndarray
    challenger: np.ndarray
    champion_flagged: np.ndarray
    challenger_flagged: np.ndarray

    def where(self, mask: np.ndarray) -> "ScoredRows":
        """The rows where ``mask`` holds."""
        return ScoredRows(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))


def bootstrap_f1_difference(rows: ScoredRows, resamples: int, seed: int) -> np.ndarray:
    """Resampled F1 differences, shape (resamples,); rows are drawn within each class, so prevalence stays.

    F1 depends on a row only through (label, flagged by champion, flagged by challenger): resampling the rows of a
    class is drawing its four counts from a multinomial, which is exact and does not grow with the number of rows.
    """
    cell = rows.label.astype(int) * 4 + rows.champion_flagged * 2 + rows.challenger_flagged
    classes = np.bincount(cell, minlength=8).reshape(2, 4)
    rng = np.random.default_rng(seed)
    draws = np.hstack([rng.multinomial(c.sum(), c / max(c.sum(), 1), size=resamples) for c in classes])
    label, champion, challenger = (np.arange(8) >> bit & 1 for bit in (2, 1, 0))

    def f1(flagged: np.ndarray) -> np.ndarray:
        hits = draws @ (flagged & label)
        return 2 * hits / np.maximum(draws @ flagged + draws @ label, 1)

    return f1(challenger) - f1(champion)


def mean_bounds(values: np.ndarray, label: np.ndarray, confidence: float) -> tuple[float, float]:
    """One-sided bounds of the mean of ``values``, stratified by label, by the normal form.

    The bootstrap of a mean has this very spread and, from some hundred rows on, this shape; its 2,000 x n draws
    would buy Monte Carlo error only. Each class needs two rows.
    """
    parts = [values[label == c] for c in (0, 1)]
    error = np.sqrt(sum(len(p) * p.var(ddof=1) for p in parts)) / len(values)
    half = float(norm.ppf(confidence) * error)
    return float(values.mean()) - half, float(values.mean()) + half


def _bounds(draws: np.ndarray, confidence: float) -> tuple[float, float]:
    """One-sided bounds at ``confidence`` each, so a gate that uses one side errs at 1 - confidence."""
    lower, upper = np.quantile(draws, [1 - confidence, confidence])
    return float(lower), float(upper)


def compare_f1(rows: ScoredRows, policy: GatePolicy, seed: int, segment: str = "all") -> Comparison:
    """F1 of both models, each at its own threshold, with paired-bootstrap bounds."""
    lower, upper = _bounds(bootstrap_f1_difference(rows, policy.resamples, seed), policy.confidence)
    return Comparison(
        "f1",
        metrics.f1_score(rows.label, rows.champion_flagged),
        metrics.f1_score(rows.label, rows.challenger_flagged),
        lower,
        upper,
        len(rows.label),
        int(rows.label.sum()),
        segment,
    )


def compare_roc_auc(rows: ScoredRows, policy: GatePolicy, seed: int, segment: str = "all") -> Comparison:
    """ROC AUC of both models with DeLong's paired bounds, one-sided at the policy's confidence each.

    Takes a seed only to be exchangeable with :func:`compare_f1`.

    Raises:
        metrics.UndefinedMetric: the rows hold one class only.
    """
    gain = metrics.roc_auc_difference(rows.label, rows.champion, rows.challenger, 2 * policy.confidence - 1)
    before = metrics.roc_auc(rows.label, rows.champion)
    size, positives = len(rows.label), int(rows.label.sum())
    return Comparison(
        "roc_auc", before, before + gain.value, gain.lower, gain.upper, size, positives, segment
    )


COMPARE = {"f1": compare_f1, "roc_auc": compare_roc_auc}


def compare(rows: ScoredRows, policy: GatePolicy, seed: int) -> list[Comparison]:
    """Overall comparison: F1 with paired-bootstrap bounds, Brier with their normal form, ROC AUC with DeLong's.

    Raises:
        metrics.UndefinedMetric: the rows hold one class only.
    """
    # First: it refuses the rows that no resampling can answer for.
    auc = compare_roc_auc(rows, policy, seed)
    squared = (rows.challenger - rows.label) ** 2 - (rows.champion - rows.label) ** 2
    lower, upper = mean_bounds(squared, rows.label, policy.confidence)
    before, after = (metrics.brier_score(rows.label, p) for p in (rows.champion, rows.challenger))
    return [
        compare_f1(rows, policy, seed),
        auc,
        Comparison("brier", before, after, lower, upper, auc.rows, auc.positives),
    ]


def band_names(cuts: Sequence[float]) -> list[str]:
    """Names of the bands between ascending ``cuts``: ``< 50000``, ``50000–250000``, ``≥ 250000``."""
    texts = [f"{cut:.0f}" if float(cut).is_integer() else repr(float(cut)) for cut in cuts]
    between = [f"{low}–{high}" for low, high in pairwise(texts)]
    return [f"< {texts[0]}", *between, f"≥ {texts[-1]}"]


def segment_of(frame: pl.DataFrame, segment: Segment) -> pl.Series:
    """Each row's segment value as text: the category, or the band between cuts; ``missing`` for nulls.

    A band includes its lower cut, not its upper one.
    """
    column = pl.col(segment.feature)
    if segment.cuts:
        number = column.cast(pl.Float64).fill_nan(None)
        column = number.bin_intervals(list(segment.cuts), labels=band_names(segment.cuts))
    return frame.select(column.cast(pl.String).fill_null("missing")).to_series()


def segment_masks(
    frame: pl.DataFrame, positive: np.ndarray, segments: tuple[Segment, ...], policy: GatePolicy
) -> dict[str, np.ndarray]:
    """The rows of each segment with ``min_segment_rows``, ``min_segment_positives`` and two rows that are none."""
    masks = {}
    for segment in segments:
        value = segment_of(frame, segment).to_numpy()
        for name in np.unique(value):
            mask = value == name
            rows, positives = int(mask.sum()), int(positive[mask].sum())
            enough = rows >= policy.min_segment_rows and positives >= policy.min_segment_positives
            if enough and rows - positives >= 2:
                masks[f"{segment.name}={name}"] = mask
    return masks


def compare_segments(
    frame: pl.DataFrame, rows: ScoredRows, segments: tuple[Segment, ...], policy: GatePolicy, seed: int
) -> list[Comparison]:
    """The primary metric by segment, for each segment of :func:`segment_masks`.

    The bounds are at Bonferroni's level: with m segments each errs with (1 - confidence) / m, so that all of them
    together err with at most 1 - confidence.
    """
    masks = segment_masks(frame, rows.label, segments, policy)
    shared, of = shared_level(policy, len(masks)), COMPARE[policy.primary_metric]
    return [of(rows.where(mask), shared, seed, name) for name, mask in masks.items()]


def shared_level(policy: GatePolicy, tests: int) -> GatePolicy:
    """The policy with its error shared by ``tests``, and resamples enough to have some beyond the bound."""
    alpha = (1 - policy.confidence) / max(tests, 1)
    # Twenty draws in the tail bring the quantile's Monte Carlo error to about a fifth of the tail.
    resamples = min(max(policy.resamples, round(20 / alpha)), 100_000)
    return policy.model_copy(update={"confidence": 1 - alpha, "resamples": resamples})


@dataclass(frozen=True)
class Approval:
    """A group's share of cases that the model does not flag, and how many cases it has."""

    rate: float
    rows: int


def impact_ratio(group: Approval, best: Approval) -> float:
    """Adverse impact ratio: the group's approval rate over the best one's, NaN where that is 0.

    Of the counts: a quotient of two rounded rates may miss by the last bit the four fifths that the rule asks for.
    """
    approved, most = np.rint(group.rate * group.rows), np.rint(best.rate * best.rows)
    return float(approved * best.rows / (most * group.rows)) if most else float("nan")


def approvals(frame: pl.DataFrame, flagged: np.ndarray, segment: Segment) -> dict[str, Approval]:
    """Approval of each group of the segment, by name."""
    groups = pl.DataFrame({"group": segment_of(frame, segment), "approved": ~flagged})
    rates = groups.group_by("group").agg(pl.col("approved").mean(), pl.len()).sort("group")
    return {group: Approval(rate, rows) for group, rate, rows in rates.iter_rows()}
