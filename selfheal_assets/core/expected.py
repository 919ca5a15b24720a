"""Expected performance of a chunk from calibrated probabilities, before any label is known.

A row with calibrated probability p is positive with chance p, so each cell of the confusion matrix, and every
metric made of them, has an expected value (CBPE, confidence-based performance estimation). Rows that share a
probability count as one group (``core.score_groups``), so a figure costs the same at any number of rows.

How probabilities are calibrated belongs to ``core.calibration``, how far chance moves a metric to
``core.sampling_error``, which estimate to trust to ``core.estimation``.

Definitions are NannyML 0.13.1's where it has one (https://nannyml.readthedocs.io, 'Confidence-based Performance
Estimation'); a test holds the two together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from scipy.special import digamma, ndtr

from selfheal_assets.core.metrics import UndefinedMetric
from selfheal_assets.core.policies import Costs
from selfheal_assets.core.score_groups import ScoreGroups, by_rank

Array = np.ndarray
CALIBRATION_BINS: Final = 10
BUSINESS_VALUE: Final = "business_value"


@dataclass(frozen=True)
class ExpectedConfusion:
    """Expected number of rows in each cell of the confusion matrix."""

    tp: float
    fp: float
    fn: float
    tn: float


def expected_confusion(groups: ScoreGroups) -> ExpectedConfusion:
    """Cells as expected counts: a flagged row of probability p is p of a true and 1 − p of a false positive."""
    positive, negative = groups.classes()
    hit = groups.flagged
    return ExpectedConfusion(
        float(positive[hit].sum()),
        float(negative[hit].sum()),
        float(positive[~hit].sum()),
        float(negative[~hit].sum()),
    )


def _share(part: float, whole: float, missing: str) -> float:
    if whole <= 0:
        raise UndefinedMetric(missing)
    return part / whole


def expected_precision(groups: ScoreGroups) -> float:
    """TP / (TP + FP)."""
    c = expected_confusion(groups)
    return _share(c.tp, c.tp + c.fp, "precision needs at least one row predicted positive")


def expected_recall(groups: ScoreGroups) -> float:
    """TP / (TP + FN)."""
    c = expected_confusion(groups)
    return _share(c.tp, c.tp + c.fn, "recall needs expected positives: every probability is 0")


def expected_specificity(groups: ScoreGroups) -> float:
    """TN / (TN + FP)."""
    c = expected_confusion(groups)
    return _share(c.tn, c.tn + c.fp, "specificity needs expected negatives: every probability is 1")


def expected_f1(groups: ScoreGroups) -> float:
    """TP / (TP + (FP + FN) / 2); 0 where positives are expected and nothing is flagged."""
    c = expected_confusion(groups)
    missing = "F1 needs expected positives or a row predicted positive: there are none"
    return _share(c.tp, c.tp + (c.fp + c.fn) / 2, missing)


def expected_accuracy(groups: ScoreGroups) -> float:
    """(TP + TN) / rows."""
    c = expected_confusion(groups)
    return (c.tp + c.tn) / groups.total


def _ranked_classes(groups: ScoreGroups, metric: str) -> tuple[Array, Array]:
    """Expected positives and negatives by rank, highest first, where both classes are expected."""
    positive, negative = by_rank(groups, *groups.classes())
    if positive.sum() <= 0 or negative.sum() <= 0:
        only = "negatives" if positive.sum() <= 0 else "positives"
        raise UndefinedMetric(f"{metric} needs both classes: only {only} are expected among the rows")
    return positive, negative


def expected_roc_auc(groups: ScoreGroups) -> float:
    """Area under the curve of expected true against expected false positives.

    Within a group both grow in proportion, so its piece of the curve is straight and the trapezoid exact, whether
    its rows are ties or not.
    """
    positive, negative = _ranked_classes(groups, "ROC AUC")
    above = np.cumsum(positive) - positive
    return float(negative @ (above + positive / 2) / (positive.sum() * negative.sum()))


def expected_gini(groups: ScoreGroups) -> float:
    """2·AUC − 1."""
    return 2 * expected_roc_auc(groups) - 1


def expected_ks(groups: ScoreGroups) -> float:
    """Kolmogorov–Smirnov: largest distance between the classes' expected score distributions.

    The maximum of the expected curve; that of a curve realized on few positives is larger, by its noise.
    """
    positive, negative = _ranked_classes(groups, "KS")
    distance = np.cumsum(positive) / positive.sum() - np.cumsum(negative) / negative.sum()
    return float(min(np.abs(distance).max(), 1.0))


def expected_average_precision(groups: ScoreGroups) -> float:
    """Σ over rows, highest score first, of expected precision so far times the row's share of the positives.

    In a group of n rows of probability p, after n₀ rows with T₀ expected positives, the sum over j = 1..n of
    p·(T₀ + j·p)/(n₀ + j) is p·(n·p + (T₀ − n₀·p)·(ψ(n₀ + n + 1) − ψ(n₀ + 1))), ψ the digamma function: the rows
    themselves are not needed.
    """
    rows, positive = by_rank(groups, groups.rows, groups.classes()[0])
    if positive.sum() <= 0:
        raise UndefinedMetric("average precision needs expected positives: every probability is 0")
    before, hits = np.cumsum(rows) - rows, np.cumsum(positive) - positive
    p = np.divide(positive, rows, out=np.zeros_like(rows), where=rows > 0)
    harmonic = digamma(before + rows + 1) - digamma(before + 1)
    return float(np.sum(p * (positive + (hits - before * p) * harmonic)) / positive.sum())


def expected_brier(groups: ScoreGroups) -> float:
    """Mean of p·(1 − s)² + (1 − p)·s², for raw score s and calibrated p: p − 2ps + s²."""
    p = groups.probability
    squares = p @ groups.rows - 2 * (p @ groups.score_sum) + groups.score_square_sum.sum()
    return max(float(squares / groups.total), 0.0)  # where s is p and certain, rounding leaves −1e-16


def expected_log_loss(groups: ScoreGroups) -> float:
    """Mean of −p·ln(s) − (1 − p)·ln(1 − s), in nats, for raw score s and calibrated p."""
    if groups.log_score_sum is None or groups.log_complement_sum is None:
        raise UndefinedMetric(
            "log loss needs the sums of ln(score) and ln(1 − score), which were not collected"
        )
    p = groups.probability
    return float(-(p @ groups.log_score_sum + (1 - p) @ groups.log_complement_sum) / groups.total)


def expected_calibration_error(groups: ScoreGroups) -> float:
    """What the raw score's ECE will come out at once the labels are known.

    ECE cuts the rows, in score order, into ten bins of equal size and averages |mean score − share of positives|.
    Chance moves each bin's share, so even a perfect score has an ECE above 0; the expected value is that of a folded
    normal with mean Σ(p − s) and variance Σp(1 − p). A group that a bin's edge cuts is divided in proportion. Of
    fewer than ten rows each is a bin.

    Source of the bins: NannyML 0.13.1, ``calibration._calculate_expected_calibration_error``.
    """
    p, rows = groups.probability, groups.rows
    cumulated = np.cumsum(np.column_stack([rows, p * rows - groups.score_sum, p * (1 - p) * rows]), axis=0)
    at, gap, variance = np.vstack([np.zeros(3), cumulated]).T
    edges = np.linspace(0, at[-1], int(min(CALIBRATION_BINS, max(at[-1], 1))) + 1)
    mean = np.diff(np.interp(edges, at, gap))
    spread = np.sqrt(np.maximum(np.diff(np.interp(edges, at, variance)), 0))
    return float(folded_normal_mean(mean, spread).sum() / groups.total)


def folded_normal_mean(mean: Array, spread: Array) -> Array:
    """E|X| for X normal. Source: Leone, Nelson and Nottingham, Technometrics 3(4), 1961."""
    z = np.divide(mean, spread, out=np.zeros_like(mean), where=spread > 0)
    folded = spread * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) + mean * (1 - 2 * ndtr(-z))
    return np.where(spread > 0, folded, np.abs(mean))


def business_value(groups: ScoreGroups, costs: Costs | None) -> float:
    """Expected value per case: gains of right decisions minus costs of wrong ones, in the policy's currency."""
    if costs is None:
        raise UndefinedMetric("business value needs costs: the policy declares none")
    c = expected_confusion(groups)
    gained = c.tp * costs.caught_positive + c.tn * costs.accepted_good
    return (gained - c.fn * costs.missed_positive - c.fp * costs.refused_good) / groups.total


METRICS: Final[dict[str, tuple[str, Callable[[ScoreGroups], float]]]] = {
    "roc_auc": ("share", expected_roc_auc),
    "average_precision": ("share", expected_average_precision),
    "f1": ("share", expected_f1),
    "precision": ("share", expected_precision),
    "recall": ("share", expected_recall),
    "specificity": ("share", expected_specificity),
    "accuracy": ("share", expected_accuracy),
    "brier": ("squared probability", expected_brier),
    "log_loss": ("nats", expected_log_loss),
    "ks": ("share", expected_ks),
    "gini": ("index", expected_gini),
    "expected_calibration_error": ("probability", expected_calibration_error),
    "true_positives": ("rows", lambda g: expected_confusion(g).tp),
    "false_positives": ("rows", lambda g: expected_confusion(g).fp),
    "false_negatives": ("rows", lambda g: expected_confusion(g).fn),
    "true_negatives": ("rows", lambda g: expected_confusion(g).tn),
}
"""Unit and function of each metric that needs no costs; the order of every table of estimates."""

POSSIBLE: Final = {
    "share": (0.0, 1.0),
    "index": (-1.0, 1.0),
    "probability": (0.0, 1.0),
    "squared probability": (0.0, 1.0),
    "nats": (0.0, np.inf),
    "rows": (0.0, np.inf),
}
"""Smallest and largest value of a metric, by its unit; money has none."""

EXPECTED_SCHEMA: Final = {
    "metric": pl.String,
    "value": pl.Float64,
    "unit": pl.String,
    "reason": pl.String,
}


def expected_metrics(groups: ScoreGroups, costs: Costs | None = None) -> pl.DataFrame:
    """Every metric of a chunk.

    Returns:
        One row per metric: ``metric``, ``value`` (null where it is not defined), ``unit``, ``reason`` (why there is
        no value; null otherwise). ``business_value`` is per case.
    """
    figures = METRICS | {BUSINESS_VALUE: (_currency(costs), lambda g: business_value(g, costs))}
    rows = [_figure(groups, name, *figure) for name, figure in figures.items()]
    return pl.DataFrame(rows, schema=EXPECTED_SCHEMA, orient="row")


def _currency(costs: Costs | None) -> str:
    return f"{costs.currency} per case" if costs else "per case"


def _figure(
    groups: ScoreGroups, name: str, unit: str, compute: Callable[[ScoreGroups], float]
) -> tuple[str, float | None, str, str | None]:
    if groups.total <= 0:
        return name, None, unit, "the chunk has no scored row; at least 1 is needed"
    try:
        return name, compute(groups), unit, None
    except UndefinedMetric as missing:
        return name, None, unit, str(missing)
