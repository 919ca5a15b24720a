"""Champion and challenger on cases that are not mature yet: nothing waits for the horizon.

A case of age a whose positive outcome shows by then with probability F(a) gives the outcome ``y / F(a)``: 1 / F(a)
if it is positive so far, else 0. Its mean is the eventual outcome's, whatever the ages (inverse probability of
censoring weights). F must be right and the same for high and low scores; with all F = 1 each figure is that of
matured labels.

Source: J. Robins, A. Rotnitzky, in *AIDS Epidemiology*, 1992; H. Uno et al., *JASA* 102(478), 2007.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from selfheal_assets.core import metrics
from selfheal_assets.core.evaluation import Comparison, ScoredRows
from selfheal_assets.core.policies import GatePolicy

Array = np.ndarray


@dataclass(frozen=True)
class PartialRows:
    """Rows scored by both models; arrays of equal length.

    ``positive_so_far``: 0/1. ``due``: F(age), the chance that a positive shows by that age, in [0, 1].
    """

    positive_so_far: Array
    due: Array
    champion: Array
    challenger: Array
    champion_flagged: Array
    challenger_flagged: Array

    @classmethod
    def of(cls, rows: ScoredRows, positive_so_far: Array, due: Array) -> "PartialRows":
        """Scored rows whose labels are what is known so far."""
        flagged = rows.champion_flagged, rows.challenger_flagged
        return cls(positive_so_far, due, rows.champion, rows.challenger, *flagged)

    def where(self, mask: Array) -> "PartialRows":
        """The rows where ``mask`` holds."""
        return PartialRows(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))


def compare_partial(rows: PartialRows, policy: GatePolicy) -> list[Comparison]:
    """F1, ROC AUC and Brier score as :func:`evaluation.compare` has them, from labels so far.

    Rows whose ``due`` is below ``min_due`` are left out: their weights would be large. ``positives`` are those so
    far. Bounds are one-sided, of the normal form, from each row's influence on the difference.

    Raises:
        metrics.UndefinedMetric: no positive so far, a score or ``due`` that is not finite, or too few rows.
    """
    if not np.isfinite(rows.due).all():
        raise metrics.UndefinedMetric("labels so far: the share due (F of the age) is not finite")
    rows = rows.where(rows.due >= policy.min_due)
    size, positives = len(rows.due), int(np.sum(rows.positive_so_far))
    if positives < 2 or positives == size:
        raise metrics.UndefinedMetric(
            f"labels so far: {positives} positives among {size} rows of which a share of {policy.min_due:g} is due; "
            "at least two, and a row that is not, are needed"
        )
    for scores in (rows.champion, rows.challenger):
        if not np.isfinite(scores).all():
            raise metrics.UndefinedMetric("labels so far: a score is not finite")
    outcome = rows.positive_so_far / rows.due
    models = (rows.champion, rows.challenger)
    flagged = (rows.champion_flagged, rows.challenger_flagged)
    found = {
        "f1": [_f1(outcome, f) for f in flagged],
        "roc_auc": [_roc_auc(outcome, p) for p in models],
        "brier": [_brier(outcome, p) for p in models],
    }
    z = float(norm.ppf(policy.confidence))
    compared = []
    for metric, ((before, one), (after, other)) in found.items():
        half = z * float(np.std(other - one, ddof=1)) / np.sqrt(size)
        change = after - before
        compared.append(Comparison(metric, before, after, change - half, change + half, size, positives))
    return compared


def _brier(outcome: Array, p: Array) -> tuple[float, Array]:
    """Mean of p² − 2 p y + y, as y² = y for the eventual outcome; and each row's influence."""
    terms = p * p - 2 * p * outcome + outcome
    return float(terms.mean()), terms - terms.mean()


def _f1(outcome: Array, flagged: Array) -> tuple[float, Array]:
    """F1 = 2 mean(y f) / mean(f + y), linearised: the influence of a ratio."""
    top, bottom = 2 * outcome * flagged, flagged + outcome
    value = float(top.mean() / bottom.mean())
    return value, (top - value * bottom) / bottom.mean()


def _roc_auc(outcome: Array, score: Array) -> tuple[float, Array]:
    """ROC AUC from the ranks of positives among all rows, as no negative is certain; and each row's influence.

    The chance A that a positive outranks any row, itself included, is s / 2 + (1 − s) AUC with s the share of
    positives; so AUC = (A − s / 2) / (1 − s). The influence of s cancels in a difference of near-equal models.
    """
    size, share = len(score), float(outcome.mean())
    if share >= 1:
        raise metrics.UndefinedMetric("labels so far: as many positives are expected as there are rows")
    outranked = (rankdata(score) - 0.5) / size
    overall = float(np.mean(outcome * outranked) / share)
    values, place = np.unique(score, return_inverse=True)
    at = np.bincount(place, weights=outcome, minlength=len(values))
    above = (at.sum() - np.cumsum(at) + at / 2)[place] / at.sum()
    influence = outcome * (outranked - overall) / share + above - overall
    return (overall - share / 2) / (1 - share), influence / (1 - share)
