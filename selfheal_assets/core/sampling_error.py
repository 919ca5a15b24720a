"""How far chance alone moves an estimated metric, at the size of the chunk.

The standard error of what a fresh chunk of as many rows, drawn from the same population, would realize: both the rows
and their labels vary. A group of rows with probability p is two cells, its positives and its negatives; a chunk is a
multinomial draw over the cells.

Where a metric is a smooth function of the cells' shares, its variance is the mean square of its influence function
(the delta method; van der Vaart, Asymptotic Statistics, ch. 20). Average precision, KS and the calibration error are
drawn instead, a seeded parametric bootstrap over at most ``BANDS`` bands of groups.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from scipy.special import digamma

from selfheal_assets.core.expected import CALIBRATION_BINS, expected_roc_auc
from selfheal_assets.core.policies import Costs
from selfheal_assets.core.score_groups import ScoreGroups, by_rank

Array = np.ndarray
BANDS: Final = 400
RESAMPLES: Final = 200


def sampling_errors(
    groups: ScoreGroups, costs: Costs | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, float]:
    """Standard error of each metric of :func:`core.expected.expected_metrics`, by name.

    A metric that is not defined for the groups, or whose sums were not collected, is left out. That of the log loss
    and the Brier score takes each group's scores for equal to their mean.
    """
    if groups.total <= 0:
        return {}
    errors = _ratio_errors(groups, costs) | _cell_errors(groups)
    positive, negative = groups.positives, groups.total - groups.positives
    if positive > 0 and negative > 0:
        auc = _roc_auc_error(groups)
        errors |= {"roc_auc": auc, "gini": 2 * auc}
    return errors | _drawn_errors(groups, seed, resamples)


def _ratio_errors(groups: ScoreGroups, costs: Costs | None) -> dict[str, float]:
    """Errors of metrics that are a sum over rows divided by another."""
    f = groups.flagged.astype(np.float64)
    one, zero = np.ones_like(f), np.zeros_like(f)
    # Numerator of a positive and of a negative row, then denominator of each.
    ratios = {
        "precision": (f, zero, f, f),
        "recall": (f, zero, one, zero),
        "specificity": (zero, 1 - f, zero, one),
        "accuracy": (f, 1 - f, one, one),
        "f1": (2 * f, zero, 1 + f, f),
    }
    rows = np.maximum(groups.rows, 1e-300)
    square = groups.score_square_sum / rows
    ratios["brier"] = (1 - 2 * groups.score_sum / rows + square, square, one, one)
    if groups.log_score_sum is not None and groups.log_complement_sum is not None:
        ratios["log_loss"] = (-groups.log_score_sum / rows, -groups.log_complement_sum / rows, one, one)
    if costs is not None:
        won = f * costs.caught_positive - (1 - f) * costs.missed_positive
        kept = (1 - f) * costs.accepted_good - f * costs.refused_good
        ratios["business_value"] = (won, kept, one, one)
    errors = {name: _ratio_error(groups, *parts) for name, parts in ratios.items()}
    return {name: error for name, error in errors.items() if error is not None}


def _ratio_error(
    groups: ScoreGroups, top_positive: Array, top_negative: Array, low_positive: Array, low_negative: Array
) -> float | None:
    """√(Σ (u − R·v)²) / Σ v over rows, for R = Σu/Σv; ``None`` where Σv is 0."""
    positive, negative = groups.classes()
    low = positive @ low_positive + negative @ low_negative
    if low <= 0:
        return None
    value = (positive @ top_positive + negative @ top_negative) / low
    squares = positive @ (top_positive - value * low_positive) ** 2
    squares += negative @ (top_negative - value * low_negative) ** 2
    return float(np.sqrt(squares) / low)


def _cell_errors(groups: ScoreGroups) -> dict[str, float]:
    """Errors of the confusion matrix's counts: binomial."""
    positive, negative = groups.classes()
    hit = groups.flagged
    counts = {
        "true_positives": positive[hit],
        "false_positives": negative[hit],
        "false_negatives": positive[~hit],
        "true_negatives": negative[~hit],
    }
    total = groups.total
    return {k: float(np.sqrt(v.sum() * max(1 - v.sum() / total, 0.0))) for k, v in counts.items()}


def _roc_auc_error(groups: ScoreGroups) -> float:
    """From the placements of each class in the other, as DeLong's; rows of a group lie evenly across it.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44(3), 1988.
    """
    positive, negative = by_rank(groups, *groups.classes())
    m, n, auc = positive.sum(), negative.sum(), expected_roc_auc(groups)
    below = (negative.sum() - np.cumsum(negative) + negative / 2) / n
    above = (np.cumsum(positive) - positive / 2) / m
    of_positive = positive @ ((below - auc) ** 2 + (negative / n) ** 2 / 12) / m**2
    of_negative = negative @ ((above - auc) ** 2 + (positive / m) ** 2 / 12) / n**2
    return float(np.sqrt(of_positive + of_negative))


def _drawn_errors(groups: ScoreGroups, seed: int, resamples: int) -> dict[str, float]:
    """Errors of what is no smooth function of the cells, from redrawn chunks."""
    rows, positive, score = _bands(groups)
    total, share = int(max(round(rows.sum()), 1)), rows.sum()
    p = np.clip(np.concatenate([positive, rows - positive]) / share, 0, None)
    draws = np.random.default_rng(seed).multinomial(total, p / p.sum(), size=resamples).astype(np.float64)
    hits, misses = np.split(draws, 2, axis=1)
    figures: dict[str, Callable[[Array, Array, Array], Array]] = {
        "average_precision": _average_precisions,
        "ks": _ks_distances,
        "expected_calibration_error": _calibration_errors,
    }
    errors = {}
    for name, figure in figures.items():
        known = (hits.sum(axis=1) > 0) & (misses.sum(axis=1) > 0)
        if name == "expected_calibration_error":
            known[:] = True
        if known.sum() > 1:
            errors[name] = float(figure(hits[known], misses[known], score).std(ddof=1))
    return errors


def _bands(groups: ScoreGroups) -> tuple[Array, Array, Array]:
    """Rows, positives and mean score by rank, highest first, in at most ``BANDS`` bands of neighbours."""
    rows, positive, score = by_rank(groups, groups.rows, groups.classes()[0], groups.score_sum)
    if len(rows) > BANDS:
        band = np.minimum((np.cumsum(rows) - rows / 2) / rows.sum() * BANDS, BANDS - 1).astype(int)
        starts = np.flatnonzero(np.concatenate([[True], np.diff(band) != 0]))
        rows, positive, score = (np.add.reduceat(x, starts) for x in (rows, positive, score))
    return rows, positive, score / np.maximum(rows, 1e-300)


def _average_precisions(hits: Array, misses: Array, score: Array) -> Array:
    rows = hits + misses
    before, found = np.cumsum(rows, axis=1) - rows, np.cumsum(hits, axis=1) - hits
    p = np.divide(hits, rows, out=np.zeros_like(rows), where=rows > 0)
    harmonic = digamma(before + rows + 1) - digamma(before + 1)
    return (p * (hits + (found - before * p) * harmonic)).sum(axis=1) / hits.sum(axis=1)


def _ks_distances(hits: Array, misses: Array, score: Array) -> Array:
    caught = np.cumsum(hits, axis=1) / hits.sum(axis=1, keepdims=True)
    alarmed = np.cumsum(misses, axis=1) / misses.sum(axis=1, keepdims=True)
    return np.abs(caught - alarmed).max(axis=1)


def _calibration_errors(hits: Array, misses: Array, score: Array) -> Array:
    rows = hits + misses
    at = np.cumsum(np.pad(rows, ((0, 0), (1, 0))), axis=1)
    gap = np.cumsum(np.pad(hits - rows * score, ((0, 0), (1, 0))), axis=1)
    edges = np.linspace(0, at[0, -1], CALIBRATION_BINS + 1)
    gaps = [np.abs(np.diff(np.interp(edges, a, g))).sum() for a, g in zip(at, gap, strict=True)]
    return np.array(gaps) / at[0, -1]
