"""Harm in labels that are not complete yet: a test that may be looked at every day.

The null hypothesis is not that the champion is perfect. By age band the hazard of turning positive may be what the
reference's own cases showed (with that sample's uncertainty), times the ratio that the policy tolerates. A
gambler's wealth against it, one stake per first cohort of a change and direction, ever reaches 1/alpha with
probability at most alpha (Ville). The counts are ``partial_counts``.

Sources: Grünwald, Ly, Pérez-Ortiz and ter Schure, The safe log-rank test, 2021; Shafer, Testing by betting, 2021.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from scipy.special import gammaln, logsumexp
from scipy.stats import chi2

from selfheal_assets.core.betting import log_limit, start_weights
from selfheal_assets.core.evidence_policy import HarmAlarms

DIRECTIONS = ("more", "fewer")


@dataclass(frozen=True)
class PartialAlarm:
    """What all cohorts together say of harm, at one look.

    Attributes:
        log_e: log of the wealth of the best stake; ``None`` where there is nothing to test.
        limit: log(1 / alpha), which chance alone exceeds with probability at most alpha in a year of cohorts.
        budget_spent: the chance of a false alarm that the stakes so far have used up.
        direction: ``more`` or ``fewer`` positives than expected.
        first_cohort: from which on the best stake holds the hazard to have changed.
        ratio, lower, upper: observed over expected from then on, exact 95 % Poisson interval.
        insufficient: the counts are too small to tell.
    """

    log_e: float | None
    limit: float
    budget_spent: float
    direction: str | None
    first_cohort: datetime | None
    observed: float
    expected: float
    ratio: float | None
    lower: float | None
    upper: float | None
    insufficient: bool
    reason: str

    @property
    def harmful(self) -> bool:
        """Whether the evidence exceeds its limit."""
        return self.log_e is not None and self.log_e >= self.limit


def log_wealth_by_start(counts: pl.DataFrame, reference: pl.DataFrame, policy: HarmAlarms) -> np.ndarray:
    """Log wealth of the bets that all cohorts from a first one on have changed.

    The observed count of a band is Poisson with mean theta times the cumulated hazard (which is conservative for
    cases that can turn only once). The reference's n observed and e expected positives leave theta a gamma(s, e)
    with s = n + 1/2 where more positives are suspected and s = n where fewer are (a band without any then says
    nothing); harm by a factor c is gamma(c s, e). The ratio of the two marginal probabilities rises with the count
    for c > 1, so it is safe for every smaller theta, and falls for c < 1.

    Args:
        counts: of :func:`partial_counts.hazard_counts`, every cohort tested.
        reference: the same of the reference's cases, all mature.

    Returns:
        (2, cohorts): for more and for fewer positives; mixed over the policy's factors.
    """
    known = reference.group_by("age_band").agg(pl.col("observed", "expected").sum()).sort("age_band")
    positives, rate = known["observed"].to_numpy(), known["expected"].to_numpy()
    counts, bands = counts.sort("cohort", "age_band"), known.height
    observed, factors = _since(counts["observed"], bands), np.array(policy.hazard_factors)

    def mixed(expected: np.ndarray, shape: np.ndarray, times: np.ndarray) -> np.ndarray:
        told = (shape > 0) & (rate > 0)
        grown = [
            _log_ratio(observed[:, told], expected[:, told], shape[told], rate[told], c).sum(axis=1)
            for c in times
        ]
        return logsumexp(grown, axis=0) - np.log(len(times))

    return np.stack(
        [
            mixed(_since(counts["expected_at_most"], bands), positives + 0.5, factors),
            mixed(_since(counts["expected_at_least"], bands), positives, 1 / factors),
        ]
    )


def _since(column: pl.Series, bands: int) -> np.ndarray:
    """(cohorts, bands) sums over each cohort and all later ones."""
    return np.cumsum(column.to_numpy().reshape(-1, bands)[::-1], axis=0)[::-1]


def _log_ratio(
    observed: np.ndarray, expected: np.ndarray, shape: np.ndarray, rate: np.ndarray, factor: float
) -> np.ndarray:
    """Log ratio of gamma-Poisson probabilities: shape ``factor * shape`` against ``shape``, both at ``rate``."""
    grown = np.log1p(expected / rate)
    harm = gammaln(factor * shape + observed) - gammaln(factor * shape) - factor * shape * grown
    return harm - (gammaln(shape + observed) - gammaln(shape) - shape * grown)


def partial_alarm(counts: pl.DataFrame, reference: pl.DataFrame, policy: HarmAlarms) -> PartialAlarm:
    """Whether the positives so far show that the champion expects far too few or far too many.

    Args:
        counts: newest counts of every cohort since monitoring began (:func:`partial_counts.newest_counts`): money
            is staked on each as it comes, so leaving early cohorts out would spend it twice.
        reference: counts of the reference's cases, all of them mature.
        policy: budget, tolerated ratio, factors.
    """
    limit = log_limit(policy.partial_alpha)
    cohorts = counts.group_by("cohort").agg(pl.col("observed", "expected").sum()).sort("cohort")
    observed, expected = float(cohorts["observed"].sum()), float(cohorts["expected"].sum())
    weights = start_weights(cohorts.height, policy)
    spent = float(np.exp(weights).sum()) * policy.partial_alpha

    def insufficient(reason: str) -> PartialAlarm:
        return PartialAlarm(
            None, limit, spent, None, None, observed, expected, None, None, None, True, reason
        )

    if cohorts.is_empty():
        return insufficient("no case to look at")
    known = float(reference["observed"].sum())
    if known < policy.min_positives:
        return insufficient(
            f"{known:.0f} positives in the reference; min_positives asks for {policy.min_positives}"
        )
    if max(observed, expected) < policy.min_positives:
        return insufficient(
            f"{expected:.1f} positives expected and {observed:.0f} observed so far; min_positives asks for "
            f"{policy.min_positives}"
        )
    stakes = weights + log_wealth_by_start(counts, reference, policy) - np.log(len(DIRECTIONS))
    side, first = np.unravel_index(int(np.argmax(stakes)), stakes.shape)
    log_e, direction = float(stakes[side, first]), DIRECTIONS[side]
    since = cohorts[int(first) :]
    seen, due = float(since["observed"].sum()), float(since["expected"].sum())
    ratio, lower, upper = poisson_ratio(seen, due)
    start = since["cohort"][0]
    shown = "not defined (none is expected)" if ratio is None else f"{ratio:.2f} ({lower:.2f}–{upper:.2f})"
    before, _, _ = poisson_ratio(known, float(reference["expected"].sum()))
    usual = "not defined (none was expected)" if before is None else f"{before:.2f}"
    reason = (
        f"{due:.0f} positives expected and {seen:.0f} observed so far in cohorts from {start:%Y-%m-%d}: "
        f"observed/expected {shown}, in the reference {usual}; log evidence of {direction} positives "
        f"{log_e:.1f}, limit {limit:.1f}"
    )
    return PartialAlarm(log_e, limit, spent, direction, start, seen, due, ratio, lower, upper, False, reason)


def poisson_ratio(observed: float, expected: float) -> tuple[float | None, float | None, float | None]:
    """Observed over expected and its exact 95 % interval (Garwood 1936); nulls where nothing is expected."""
    if expected <= 0:
        return None, None, None
    lower = chi2.ppf(0.025, 2 * observed) / 2 if observed else 0.0
    upper = chi2.ppf(0.975, 2 * (observed + 1)) / 2
    return observed / expected, float(lower / expected), float(upper / expected)
