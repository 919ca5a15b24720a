"""Metrics of a binary classifier's scores on known labels, and DeLong's intervals.

Each takes arrays of equal length: ``label`` (0/1), ``probability`` (0..1), ``flagged`` (bool: probability at
or above the model's threshold). A metric that is not defined (one class only) raises ``UndefinedMetric``; no
NaN leaves this module. What depends on four counts only is in ``confusion``, other intervals in ``intervals``.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

Array = np.ndarray


class UndefinedMetric(ValueError):
    """The rows cannot answer: for instance a ranking metric where all labels are equal."""


def _measurable(metric: str, label: Array, score: Array) -> None:
    if len(label) == 0:
        raise UndefinedMetric(f"{metric} needs at least one labelled row")
    if unusable := int(np.sum(~np.isfinite(score))):
        raise UndefinedMetric(f"{metric}: {unusable} of {len(score)} scores are not finite")


def _both_classes(label: Array, metric: str) -> None:
    positives = int(np.sum(label))
    if positives == 0 or positives == len(label):
        raise UndefinedMetric(
            f"{metric} needs both classes: {positives} positives among {len(label)} labelled rows"
        )


def _placements(label: Array, probability: Array) -> tuple[Array, Array]:
    """Share of the other class that each positive (negative) outranks; ties count half."""
    positive, negative = probability[label == 1], probability[label == 0]
    m, n = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[:m] - rankdata(positive)) / n
    below = 1.0 - (ranks[m:] - rankdata(negative)) / m
    return above, below


def roc_auc(label: Array, probability: Array) -> float:
    """Area under the ROC curve, ties counted half (Mann-Whitney)."""
    _measurable("ROC AUC", label, probability)
    _both_classes(label, "ROC AUC")
    above, _ = _placements(label, probability)
    return float(above.mean())


@dataclass(frozen=True)
class Interval:
    """A point estimate with a two-sided confidence interval."""

    value: float
    lower: float
    upper: float


def roc_auc_interval(label: Array, probability: Array, confidence: float = 0.95) -> Interval:
    """ROC AUC with DeLong's interval, clipped to [0, 1].

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44(3), 1988.
    """
    difference = roc_auc_difference(label, np.zeros(len(label)), probability, confidence)
    return Interval(
        difference.value + 0.5, max(0.0, difference.lower + 0.5), min(1.0, difference.upper + 0.5)
    )


def roc_auc_error(label: Array, probability: Array) -> float:
    """DeLong's standard error of the ROC AUC; 0 where the classes do not overlap."""
    found = roc_auc_difference(label, np.zeros(len(label)), probability)
    return (found.upper - found.lower) / 2 / float(norm.ppf(0.975))


def roc_auc_difference(
    label: Array, champion: Array, challenger: Array, confidence: float = 0.95
) -> Interval:
    """Challenger's ROC AUC minus the champion's on the same rows, with DeLong's paired interval.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44(3), 1988.
    """
    for scores in (champion, challenger):
        _measurable("ROC AUC", label, scores)
    _both_classes(label, "ROC AUC")
    above_a, below_a = _placements(label, champion)
    above_b, below_b = _placements(label, challenger)
    above, below = above_b - above_a, below_b - below_a
    if min(len(above), len(below)) < 2:
        raise UndefinedMetric("DeLong's interval needs at least two rows of each class")
    error = np.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))
    half = float(norm.ppf(0.5 + confidence / 2) * error)
    value = float(above.mean())
    return Interval(value, value - half, value + half)


def average_precision(label: Array, probability: Array) -> float:
    """Mean precision at each positive, highest score first; tied scores are one step, as in scikit-learn."""
    _measurable("average precision", label, probability)
    _both_classes(label, "average precision")
    _, place = np.unique(-probability, return_inverse=True)
    hits, all_at = np.bincount(place, weights=label), np.bincount(place)
    precision = np.cumsum(hits) / np.cumsum(all_at)
    return float(precision @ hits / hits.sum())


def kolmogorov_smirnov(label: Array, probability: Array) -> float:
    """Largest gap between the two classes' score distributions: the best of (true − false positive rate)."""
    _measurable("KS", label, probability)
    _both_classes(label, "KS")
    _, place = np.unique(probability, return_inverse=True)
    positives, all_at = np.bincount(place, weights=label), np.bincount(place)
    negatives = all_at - positives
    gap = np.cumsum(negatives) / negatives.sum() - np.cumsum(positives) / positives.sum()
    return float(np.abs(gap).max())


def equal_count_bins(probability: Array, bins: int) -> Array:
    """Bin of each row, 0 to ``bins`` − 1, with about equally many rows in each; tied scores share a bin.

    A bin may be empty where many scores are tied.
    """
    _, place, counts = np.unique(probability, return_inverse=True, return_counts=True)
    # Twice the mid-rank from 0, in whole numbers: no rounding may part what is tied.
    twice_middle = 2 * np.cumsum(counts) - counts
    return (twice_middle * bins // (2 * len(probability)))[place]


def expected_calibration_error(label: Array, probability: Array, bins: int = 10) -> float:
    """Mean distance between mean score and share of positives, over equal-count bins weighted by their rows.

    It is above 0 by chance even where the scores are right; its interval says whether 0 is possible.

    Source: Naeini, Cooper and Hauskrecht, AAAI 2015; equal-count bins as in Nixon et al., CVPR workshops 2019.
    """
    _measurable("expected calibration error", label, probability)
    residual = np.bincount(equal_count_bins(probability, bins), weights=probability - label)
    return float(np.abs(residual).sum() / len(label))


def f1_score(label: Array, flagged: Array) -> float:
    """F1 = 2 TP / (2 TP + FP + FN); 0 where nothing is flagged and nothing is positive.

    A label between 0 and 1 is the chance of a positive: then counts are expected counts.
    """
    hits = float(np.sum(label[flagged]))
    return 2 * hits / max(float(np.sum(flagged) + np.sum(label)), 1.0)


def brier_score(label: Array, probability: Array) -> float:
    """Mean squared difference between probability and outcome."""
    _measurable("Brier score", label, probability)
    return float(np.mean((probability - label) ** 2))


def log_loss(label: Array, probability: Array) -> float:
    """Mean negative log likelihood in nats; probabilities are kept 1e-12 away from 0 and 1."""
    _measurable("log loss", label, probability)
    p = np.clip(probability, 1e-12, 1 - 1e-12)
    return float(-np.mean(np.where(label == 1, np.log(p), np.log1p(-p))))


def expected_over_observed(label: Array, probability: Array) -> float:
    """Sum of probabilities divided by the number of positives: 1 is calibrated in the large."""
    _measurable("expected/observed", label, probability)
    observed = float(np.sum(label))
    if observed == 0:
        raise UndefinedMetric(f"expected/observed needs at least one positive among {len(label)} rows")
    return float(np.sum(probability)) / observed


def best_f1_threshold(label: Array, probability: Array) -> float:
    """The threshold with the highest F1, searched over 200 quantiles of the scores."""
    _measurable("F1", label, probability)
    candidates = np.unique(np.quantile(probability, np.linspace(0.0, 0.995, 200)))
    scores = [f1_score(label, probability >= t) for t in candidates]
    return float(candidates[int(np.argmax(scores))])
