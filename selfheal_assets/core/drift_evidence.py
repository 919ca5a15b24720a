"""Have counts on cells changed? The two statistics of drift, on plain arrays of counts.

Both compare what came since with *everything* before it: the reference and the chunks since. That treats the
reference as the sample it is, and makes the tests of successive chunks independent of one another.
"""

from dataclasses import dataclass
from math import comb

import numpy as np

from selfheal_assets.core.evidence_policy import DriftAlarms

# Jeffreys' prior of a multinomial: half a row in each cell.
PRIOR_ROWS = 0.5


@dataclass(frozen=True)
class TwoSample:
    """Pearson's χ² of two samples of counts: ``statistic``, ``degrees`` of freedom, ``p_value``."""

    statistic: float
    degrees: int
    p_value: float


def two_sample_test(before: np.ndarray, since: np.ndarray, min_expected: float) -> TwoSample | str:
    """Pearson's χ² test that two samples come from one distribution, with small cells grouped.

    Cells are grouped by the counts of both samples together, rarest first, so that each group expects
    ``min_expected`` rows in either sample. Given those sums the null distribution of ``since`` is the multivariate
    hypergeometric one, whatever the true shares: the p-value is asymptotic (χ²), its independence of the tests of
    earlier chunks is not (see ``warn_level``).

    Args:
        before, since: counts, shape (K,).

    Returns:
        The test, or in words why there is none.
    """
    from scipy.special import chdtrc

    both = before + since
    rows_before, rows = float(before.sum()), float(since.sum())
    if rows == 0:
        return "the chunk has no rows of this feature"
    smaller = min(rows, rows_before) / (rows + rows_before)
    group = _grouped(both, min_expected / smaller)
    cells = int(group.max()) + 1
    if cells < 2:
        rest = 1 - both.max() / both.sum()
        if rest == 0:
            return "one value only, in the reference and since: nothing can have moved"
        needed = int(np.ceil(min_expected / rest))
        return (
            f"χ² needs about {needed} rows on either side; {rows_before:.0f} before, {rows:.0f} in the chunk"
        )
    b, s, t = (np.bincount(group, x, cells) for x in (before, since, both))
    expected_before = t * rows_before / (rows + rows_before)
    expected = t - expected_before
    statistic = float(((b - expected_before) ** 2 / expected_before + (s - expected) ** 2 / expected).sum())
    return TwoSample(statistic, cells - 1, float(chdtrc(cells - 1, statistic)))


def _grouped(rows: np.ndarray, least: float) -> np.ndarray:
    """Group of each cell, packed from the rarest on until a group has ``least`` rows."""
    group = np.zeros(len(rows), dtype=np.int64)
    number, held = 0, 0.0
    order = np.argsort(rows, kind="stable")
    for cell in order:
        group[cell] = number
        held += rows[cell]
        if held >= least:
            number, held = number + 1, 0.0
    if number and held < least:  # what is left over joins the last group
        group[group == number] = number - 1
    return group


def warn_level(policy: DriftAlarms, features: int) -> float:
    """Level a of each chunk's and feature's test, so that 'hits of window' keeps the warning tier's budget.

    Under no change the p-values of one feature's chunks are independent (Basu: given everything up to and with
    chunk t, how chunk t was drawn from it says nothing about how the earlier ones were). So ``hits`` given chunks
    are all below a with chance aʰ; a chunk ends C(window−1, hits−1) such sets; the union over sets, chunks of a
    year and features is at most features × chunks × C(window−1, hits−1) × aʰ. This solves it for a.
    """
    sets = features * policy.chunks_per_year * comb(policy.warn_window - 1, policy.warn_hits - 1)
    return (policy.false_alarm_budget * policy.warn_share / sets) ** (1 / policy.warn_hits)


def act_limit(policy: DriftAlarms, features: int) -> float:
    """Log evidence from which one feature asks for action: log(features ÷ budget) (Ville, and a union bound)."""
    budget = policy.false_alarm_budget * (1 - policy.warn_share)
    return float(np.log(features / budget))


def log_evidence(before: np.ndarray, total: np.ndarray, policy: DriftAlarms) -> float:
    """Log of the evidence that the distribution changed at one of the starts: an e-process.

    For each start the likelihood of the counts since, if they came from a changed distribution, over their
    likelihood if nothing changed. The true shares are known only through the rows before: unchanged, counts are
    Dirichlet-multinomial about them (the Bayesian predictive with Jeffreys' prior); changed, they are
    Dirichlet-multinomial about the same shares with the concentration (K−1)/w² of a change of Cohen's w, averaged
    over ``effect_sizes`` (Gunel and Dickey 1974, 'Bayes factors for independence in contingency tables'). Each start
    has the weight 1/``chunks_per_year``, so a year's starts weigh 1 together and a run of T chunks alarms falsely at
    a level α with chance at most α·T/``chunks_per_year`` (Ville's inequality; the sum over starts is an e-detector:
    Shin, Ramdas and Rinaldo 2024).

    Exact if the true shares are a draw from that Dirichlet distribution, which is so by frequentist theory for cells
    between quantiles of a continuous feature's reference (uniform spacings), up to the half row; for other
    cells it is asymptotic in the rows per cell. Simulated in ``make bench-alarms`` and in the tests.

    Args:
        before: counts before each start, shape (S, K): the reference's and the earlier chunks'.
        total: counts of everything, shape (K,).
    """
    from scipy.special import gammaln

    since = total - before
    prior = before + PRIOR_ROWS
    mass, rows = prior.sum(axis=1), since.sum(axis=1)
    after = total + PRIOR_ROWS
    unchanged = gammaln(mass) - gammaln(after.sum()) + gammaln(after).sum() - gammaln(prior).sum(axis=1)
    concentration = (before.shape[1] - 1) / np.asarray(policy.effect_sizes) ** 2
    pseudo = concentration[:, None, None] * (prior / mass[:, None])
    changed = (gammaln(concentration)[:, None] - gammaln(concentration[:, None] + rows)) + (
        gammaln(pseudo + since) - gammaln(pseudo)
    ).sum(axis=2)
    by_start = np.logaddexp.reduce(changed, axis=0) - np.log(len(concentration)) - unchanged
    return float(np.logaddexp.reduce(by_start) - np.log(policy.chunks_per_year))
