"""Champion and challenger on cases that are not mature yet: nothing waits for the horizon.

What is known of a case of age a is whether it is positive so far. With probability p of a positive outcome and the
timing curve F, the share of eventual positives that shows by an age, it is so with probability p F(a). F must be the
same for high and low scores; no level of F favours either model's ranking. With all F = 1 each figure is that of
matured labels.

Sources: N. Jewell, M. van der Laan, Current status data, *Handbook of Statistics* 23, 2004 (the likelihood);
E. DeLong et al., *Biometrics* 44(3), 1988; F. Garwood, *Biometrika* 28, 1936.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.stats import chi2, norm, rankdata

from selfheal_assets.core import metrics
from selfheal_assets.core.evaluation import Comparison, segment_masks, shared_level
from selfheal_assets.core.maturity import DAYS_PER_MONTH, TimingCurve, log_losses_so_far
from selfheal_assets.core.policies import GatePolicy
from selfheal_assets.core.spec import Segment

Array = np.ndarray


@dataclass(frozen=True)
class PartialRows:
    """Rows scored by both models; arrays of equal length.

    ``positive_so_far``: 0/1. ``due``: F(age), in [0, 1]. ``stratum``: whole numbers; cases of about the same age,
    which are ranked among each other. ``champion``, ``challenger``: probabilities.
    """

    positive_so_far: Array
    due: Array
    stratum: Array
    champion: Array
    challenger: Array

    @classmethod
    def of(cls, frame: pl.DataFrame, curve: TimingCurve, champion: Array, challenger: Array) -> "PartialRows":
        """Scored cases with ``age_days`` and ``positive_so_far``; a stratum is a month of age."""
        age = frame["age_days"].to_numpy()
        stratum = (age // DAYS_PER_MONTH).astype(np.int64)
        positive = frame["positive_so_far"].to_numpy()
        return cls(positive, curve.known_by(age), stratum, champion, challenger)

    def where(self, mask: Array) -> "PartialRows":
        """The rows where ``mask`` holds."""
        return PartialRows(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))


def compare_partial(rows: PartialRows, policy: GatePolicy) -> list[Comparison]:
    """Log loss, ROC AUC and expected over observed of both models, from labels so far.

    - ``log_loss``: mean of −log p for a case that is positive so far (the timing's density is common to both models
      and left out), of −log(1 − p F(age)) for any other; in nats. Bounds by the normal form of the paired mean, over
      rows and not within classes: how many are positive by now is chance too, and moves both models' levels.
    - ``roc_auc``: see :func:`compare_ranking`.
    - ``expected_over_observed``: sum of p F(age) over the positives so far, with Garwood's bounds of their count.

    ``positives`` are those so far.

    Raises:
        metrics.UndefinedMetric: a score or ``due`` that is not a share, or too few rows of either kind.
    """
    for name, values in (
        ("share due", rows.due),
        ("champion's score", rows.champion),
        ("challenger's score", rows.challenger),
    ):
        # Not '<': what is not a number must fail.
        if not ((values >= 0) & (values <= 1)).all():
            raise metrics.UndefinedMetric(f"labels so far: a {name} is not between 0 and 1")
    ranking = compare_ranking(rows, policy)
    return [_log_loss(rows, policy), ranking, _expected_over_observed(rows, policy)]


def _log_loss(rows: PartialRows, policy: GatePolicy) -> Comparison:
    before, after = (
        log_losses_so_far(p, rows.positive_so_far, rows.due) for p in (rows.champion, rows.challenger)
    )
    size, change = len(before), after - before
    half = float(norm.ppf(policy.confidence) * change.std(ddof=1) / np.sqrt(size))
    mean = float(change.mean())
    positives = int(rows.positive_so_far.sum())
    values = float(before.mean()), float(after.mean())
    return Comparison("log_loss", *values, mean - half, mean + half, size, positives)


def _expected_over_observed(rows: PartialRows, policy: GatePolicy) -> Comparison:
    before, after = (float(np.sum(p * rows.due)) for p in (rows.champion, rows.challenger))
    positives = int(rows.positive_so_far.sum())
    ends = [(after - before) / count for count in count_bounds(positives, policy.confidence)]
    values = before / positives, after / positives
    return Comparison("expected_over_observed", *values, min(ends), max(ends), len(rows.due), positives)


def coverage_so_far(counted: Comparison) -> float:
    """The share of the positives expected by their ages that have been reported; at most 1.

    Args:
        counted: ``expected_over_observed``. Of the two models the one that expects fewer counts: a champion that
            expects far too many does not make whole labels look like few.
    """
    return 1 / max(min(counted.champion, counted.challenger), 1)


def count_bounds(count: int, confidence: float) -> tuple[float, float]:
    """Exact one-sided bounds of a Poisson count's mean (Garwood 1936), for a count of at least 1."""
    return float(chi2.ppf(1 - confidence, 2 * count) / 2), float(chi2.ppf(confidence, 2 * count + 2) / 2)


def compare_ranking(rows: PartialRows, policy: GatePolicy, segment: str = "all") -> Comparison:
    """ROC AUC of positives so far against those of the same stratum that are not positive yet.

    The estimand: the chance that a case that is positive by its age scores higher than one of about its age that is
    not, averaged over the positives so far. Eventual positives among the latter pull it towards 1/2, alike for both
    models. Bounds by DeLong's influence of each row, strata weighted by their positives; a stratum of one kind only
    has nothing to be ranked and is left out.

    Raises:
        metrics.UndefinedMetric: fewer than two positives, or two others, in strata that have both.
    """
    label = rows.positive_so_far.astype(bool)
    _, place = np.unique(rows.stratum, return_inverse=True)
    both = (np.bincount(place, label) > 0) & (np.bincount(place, ~label) > 0)
    kept = both[place]
    size, positives = int(kept.sum()), int(label[kept].sum())
    if min(positives, size - positives) < 2:
        raise metrics.UndefinedMetric(
            f"labels so far: {int(label.sum())} positives among {len(label)} rows; at least two of either kind are "
            "needed among cases of one age"
        )
    label, place = label[kept], place[kept]
    (before, one), (after, other) = (
        _stratified_auc(label, place, p[kept]) for p in (rows.champion, rows.challenger)
    )
    half = float(norm.ppf(policy.confidence) * np.sqrt(np.sum((other - one) ** 2)))
    change = after - before
    return Comparison("roc_auc", before, after, change - half, change + half, size, positives, segment)


def _stratified_auc(label: Array, place: Array, score: Array) -> tuple[float, Array]:
    """The AUC within strata, mean over positives; and each row's influence, whose squares add to the variance."""
    strata = int(place.max()) + 1
    positives, negatives = (np.bincount(place[kind], minlength=strata) for kind in (label, ~label))
    _, code = np.unique(score, return_inverse=True)
    key = place * (int(code.max()) + 1) + code  # orders by stratum, then by score; ties stay ties

    def ranks(among: Array) -> Array:
        """Mid-rank of each of those rows among those of its stratum."""
        sizes = np.bincount(place[among], minlength=strata)
        return rankdata(key[among]) - (np.cumsum(sizes) - sizes)[place[among]]

    placement, every = np.empty(len(score)), ranks(np.ones(len(score), dtype=bool))
    placement[label] = (every[label] - ranks(label)) / negatives[place[label]]
    placement[~label] = 1 - (every[~label] - ranks(~label)) / positives[place[~label]]
    auc = float(placement[label].mean())
    total = positives.sum()
    mean = np.bincount(place, placement * label, minlength=strata) / np.maximum(positives, 1)
    weight = positives / np.maximum(negatives, 1) / total
    influence = np.where(label, (placement - auc) / total, weight[place] * (placement - mean[place]))
    return auc, influence


def compare_partial_segments(
    frame: pl.DataFrame, rows: PartialRows, segments: tuple[Segment, ...], policy: GatePolicy
) -> list[Comparison]:
    """:func:`compare_ranking` by segment, as :func:`evaluation.compare_segments` compares them."""
    masks = segment_masks(frame, rows.positive_so_far, segments, policy)
    shared = shared_level(policy, len(masks))
    return [compare_ranking(rows.where(mask), shared, name) for name, mask in masks.items()]
