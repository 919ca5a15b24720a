"""Figures of answers that several policies gave to the same labelled cases, and paired differences of them.

Every figure is a function of weights on the cases, so that a resample costs no sorting: with all weights 1 it is the
figure itself, with the times that each case was drawn one draw of the bootstrap. Cases are drawn within their chunk,
the same ones for all policies.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from selfheal_assets.core.policies import Costs

Array = np.ndarray
FIGURES = (
    "auc",
    "auc_within",
    "f1",
    "brier",
    "log_loss",
    "expected_over_observed",
    "calibration_error",
    "cost",
)
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Answers:
    """What one policy answered.

    Attributes:
        label: 0/1 (i8), shape (cases,).
        probability: f64.
        flagged: bool, at the threshold of the model that served.
        chunk: whole numbers from 0, ascending.
        costs: what decisions are worth, if the policy says so.
        spent: on retrainings, in the costs' currency.
    """

    label: Array
    probability: Array
    flagged: Array
    chunk: Array
    costs: Costs | None = None
    spent: float = 0.0

    @cached_property
    def _code(self) -> Array:
        """Rank of each score among the distinct ones."""
        return np.unique(self.probability, return_inverse=True)[1]

    @cached_property
    def _code_within(self) -> tuple[Array, Array, Array]:
        """Rank of each score among the distinct ones of its chunk, chunks one after the other; each rank's chunk;
        and each chunk's first rank."""
        codes = int(self._code.max()) + 1
        values, code = np.unique(self.chunk * codes + self._code, return_inverse=True)
        chunk = values // codes
        return code, chunk, np.searchsorted(chunk, np.arange(int(self.chunk[-1]) + 1))

    @cached_property
    def _summed(self) -> Array:
        """What is summed over cases, f64, shape (7, cases): one, probability, flagged, positive, hit, squared error,
        log loss."""
        y, p = self.label.astype(np.float64), self.probability
        clipped = np.clip(p, _SMALLEST, 1 - _SMALLEST)
        loss = np.where(y == 1, -np.log(clipped), -np.log1p(-clipped))
        flagged = self.flagged.astype(np.float64)
        return np.stack([np.ones_like(y), p, flagged, y, y * flagged, (p - y) ** 2, loss])

    def figures(self, weight: Array) -> dict[str, float]:
        """Every figure of :data:`FIGURES` under weights (f64, one a case); NaN where it is not defined."""
        total, expected, flagged, observed, hits, squared, lost = map(float, self._summed @ weight)
        positive = weight * self._summed[3]
        off = np.bincount(self.chunk, weight * self.probability - positive)
        return {
            "auc": self._auc(weight, positive),
            "auc_within": self._auc_within(weight, positive),
            "f1": _ratio(2 * hits, flagged + observed),
            "brier": _ratio(squared, total),
            "log_loss": _ratio(lost, total),
            "expected_over_observed": _ratio(expected, observed),
            "calibration_error": _ratio(np.abs(off).sum(), total),
            "cost": self._cost(hits, flagged, observed, total),
        }

    def _auc(self, weight: Array, positive: Array) -> float:
        good = np.bincount(self._code, positive)
        bad = np.bincount(self._code, weight) - good
        below = np.cumsum(bad) - bad / 2
        return _ratio(good @ below, good.sum() * bad.sum())

    def _auc_within(self, weight: Array, positive: Array) -> float:
        """AUC within chunks, averaged over positives; chunks of one class are left out."""
        code, chunk, first = self._code_within
        good = np.bincount(code, positive)
        bad = np.bincount(code, weight) - good
        total = np.cumsum(bad)
        below = total - bad / 2 - (total[first] - bad[first])[chunk]
        won = np.bincount(chunk, good * below)
        positives, negatives = np.bincount(chunk, good), np.bincount(chunk, bad)
        told = (positives > 0) & (negatives > 0)
        return _ratio((won[told] / negatives[told]).sum(), positives[told].sum())

    def _cost(self, hits: float, flagged: float, observed: float, total: float) -> float:
        if self.costs is None:
            return float("nan")
        cells = (hits, flagged - hits, observed - hits, total - flagged - observed + hits)
        return self.spent - float(np.dot(cells, self.costs.worth))


def _ratio(above: Any, below: Any) -> float:
    return float(above / below) if below else float("nan")


def off_balance(ratio: float) -> float:
    """How far expected over observed is from 1, either way: |log ratio|; NaN where it is not defined."""
    return float(abs(np.log(ratio))) if ratio > 0 else float("nan")


def resampled(answers: dict[str, Answers], resamples: int, seed: int) -> dict[str, dict[str, Array]]:
    """Draws of every figure of every policy: arrays (resamples,) that belong together place by place."""
    one = next(iter(answers.values()))
    sizes = np.bincount(one.chunk)
    rng = np.random.default_rng(seed)
    draws = {name: {f: np.empty(resamples) for f in FIGURES} for name in answers}
    for i in range(resamples):
        weight = np.concatenate([np.bincount(rng.integers(0, n, n), minlength=n) for n in sizes if n])
        for name, given in answers.items():
            for figure, value in given.figures(weight.astype(np.float64)).items():
                draws[name][figure][i] = value
    return draws


def compared_figures(
    answers: dict[str, Answers], against: str, resamples: int, seed: int, confidence: float
) -> list[tuple[str, str, str, float, float, float]]:
    """Each policy's figure less another's: (policy, against, metric, difference, lower, upper).

    Beside :data:`FIGURES` there is ``off_balance``. Two-sided bootstrap intervals of percentiles; a figure that is
    not defined is left out.
    """
    draws = resampled(answers, resamples, seed)
    whole = {name: given.figures(np.ones(len(given.label))) for name, given in answers.items()}
    rows = []
    for name in answers:
        if name == against:
            continue
        for metric in FIGURES:
            rows.append(
                (
                    name,
                    metric,
                    whole[name][metric] - whole[against][metric],
                    draws[name][metric] - draws[against][metric],
                )
            )
        balance = [off_balance(whole[n]["expected_over_observed"]) for n in (name, against)]
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = [np.abs(np.log(draws[n]["expected_over_observed"])) for n in (name, against)]
        rows.append((name, "off_balance", balance[0] - balance[1], drawn[0] - drawn[1]))
    tail = (1 - confidence) / 2
    told = []
    for name, metric, difference, drawn in rows:
        if np.isfinite(difference):
            lower, upper = np.nanquantile(drawn, [tail, 1 - tail])
            told.append((name, against, metric, float(difference), float(lower), float(upper)))
    return told
