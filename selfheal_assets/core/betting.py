"""Harm on known losses, by betting: a test that may be looked at after every chunk.

A gambler who bets on losses above the reference's, at odds that are fair if they are not, cannot grow rich but by
luck: by Ville's inequality the wealth of such a bet ever reaches 1/alpha with probability at most alpha, however
often it is looked at. A year's money is split over the chunks at which a bet starts, so that a change that comes
late is met by money that was not lost before, and each stake is judged alone (a weighted Bonferroni bound over
starts). All wealth is a function of the sums of losses since its start, so the sums of each chunk are the whole
state, and a corrected label is a chunk counted again.

Sources: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, 2023; Shafer, Testing
by betting, 2021; Fan, Grama and Liu, Exponential inequalities for martingales with applications, 2015.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import numpy as np
from scipy.special import betaln, logsumexp
from scipy.stats import beta, norm

from selfheal_assets.core.evidence_policy import HarmAlarms

MOST_OF_A_STAKE = 0.5
"""No bet risks more than this share of its money on one loss of 0, so that no wealth is ever lost whole."""


@dataclass(frozen=True)
class LossSums:
    """Losses in [0, 1] of a chunk or a reference, as sums that add up: of the losses and of their squares.

    For 0–1 losses both sums are the number of errors (:func:`error_counts`).

    Raises:
        ValueError: the sums are not those of ``rows`` losses in [0, 1].
    """

    rows: int
    total: float
    squares: float

    def __post_init__(self) -> None:
        finite = np.isfinite(self.total) and np.isfinite(self.squares)
        slack = 1e-9 * max(self.rows, 1)
        if (
            not finite
            or self.rows < 0
            or not -slack <= self.squares <= self.total + slack
            or self.total > self.rows + slack
            or self.total**2 > self.squares * self.rows + slack * max(self.rows, 1)
        ):
            raise ValueError(
                f"sum {self.total:g} and sum of squares {self.squares:g} are not those of {self.rows} losses "
                f"between 0 and 1"
            )

    def __add__(self, other: "LossSums") -> "LossSums":
        return LossSums(self.rows + other.rows, self.total + other.total, self.squares + other.squares)

    @property
    def binary(self) -> bool:
        """Whether each loss is 0 or 1: only then are the losses their own squares."""
        return abs(self.total - self.squares) <= 1e-9 * max(self.total, 1.0)

    @property
    def mean(self) -> float:
        """Mean loss; 0 without rows."""
        return self.total / self.rows if self.rows else 0.0

    @property
    def variance(self) -> float:
        """Mean squared distance from the mean; 0 without rows."""
        return max(self.squares / self.rows - self.mean**2, 0.0) if self.rows else 0.0


def error_counts(rows: int, errors: int) -> LossSums:
    """Sums of 0–1 losses."""
    return LossSums(rows, float(errors), float(errors))


def loss_sums(losses: np.ndarray) -> LossSums:
    """Sums of single losses, each in [0, 1]: 0–1 losses or squared errors of probabilities.

    Raises:
        ValueError: a loss is missing or outside [0, 1].
    """
    wrong = ~((losses >= 0) & (losses <= 1))
    if wrong.any():
        raise ValueError(f"{int(wrong.sum())} of {len(losses)} losses are missing or outside 0–1")
    return LossSums(len(losses), float(losses.sum()), float(np.square(losses).sum()))


def log_wealth_counts(errors: np.ndarray, rows: np.ndarray, reference: LossSums, factor: float) -> np.ndarray:
    """Log Bayes factor of 'the odds of an error are ``factor`` times the reference's' for counts since a start.

    Both hypotheses are beta-binomial: with e errors among n rows the reference leaves Jeffreys' posterior
    Beta(e + 1/2, n - e + 1/2) for the rate, and the harm is Beta(factor * (e + 1/2), n - e + 1/2). Their ratio
    rises with the errors, so fewer errors than the reference's are never evidence of harm.
    """
    a, b = reference.total + 0.5, reference.rows - reference.total + 0.5
    good = rows - errors
    harm = betaln(factor * a + errors, b + good) - betaln(factor * a, b)
    return harm - (betaln(a + errors, b + good) - betaln(a, b))


def log_wealth_sums(
    totals: np.ndarray, squares: np.ndarray, rows: np.ndarray, mean: float, bet: float
) -> np.ndarray:
    """A lower bound, from sums alone, of the log wealth of a bet on losses above ``mean`` since a start.

    The wealth is ``prod(1 + bet * (loss - mean))``. With y = (loss - mean) / mean >= -1 and b = bet * mean in
    [0, 1), log(1 + b y) >= b y + y² (log(1 - b) + b) (Fan, Grama and Liu 2015); what lies below a supermartingale
    is as safe.
    """
    share = bet * mean
    away = totals / mean - rows
    squared = squares / mean**2 - 2 * totals / mean + rows
    return share * away + squared * (np.log1p(-share) + share)


def upper_mean(reference: LossSums, alpha: float, counts: bool = True) -> float:
    """Upper confidence bound of a mean loss, in (0, 1]: too low with probability at most ``alpha``.

    Clopper and Pearson's for 0–1 losses; else the empirical Bernstein bound (Maurer and Pontil, Empirical
    Bernstein bounds and sample variance penalization, 2009, theorem 4), as without ``counts``. 1 where there are too
    few rows to tell.
    """
    rows = reference.rows
    if rows < 2:
        return 1.0
    if counts and reference.binary:
        errors = round(reference.total)
        return 1.0 if errors == rows else float(beta.ppf(1 - alpha, errors + 1, rows - errors))
    variance, doubt = reference.variance * rows / (rows - 1), np.log(2 / alpha)
    return min(
        1.0, float(reference.mean + np.sqrt(2 * variance * doubt / rows) + 7 * doubt / (3 * (rows - 1)))
    )


def bet_size(reference: LossSums, null_mean: float, ratio: float) -> float:
    """A bet that gains about most where the mean loss is ``ratio`` times ``null_mean`` (m): d / (variance + d²).

    d is the excess over m. Source: aGRAPA in Waudby-Smith and Ramdas 2023, with the reference's variance.
    """
    excess = min(ratio * null_mean, 1.0) - null_mean
    growth = excess / max(reference.variance + excess**2, 1e-12)
    return min(growth, MOST_OF_A_STAKE / null_mean)


@dataclass(frozen=True)
class LossBet:
    """A bettor's books: the reference, and the sums of every chunk seen so far, in order.

    Attributes:
        reference: losses of the same kind on the reference period, held out from training.
        seen: one per chunk; a chunk without labels has no rows.
        policy: budget, its split, horizon and the harm that is suspected.
        counts: whether losses are 0–1 by their kind; squared errors are not, though a reference's may all be 0 or 1.
    """

    reference: LossSums
    policy: HarmAlarms
    seen: tuple[LossSums, ...] = ()
    counts: bool = True

    @property
    def _counted(self) -> bool:
        return self.counts and self.reference.binary

    def observe(self, chunk: LossSums) -> "LossBet":
        """The books after one more chunk.

        Raises:
            ValueError: the chunk's losses are no 0–1 losses, and the reference's are.
        """
        if self._counted and not chunk.binary:
            raise ValueError("the reference holds 0–1 losses, this chunk does not: they cannot be compared")
        return replace(self, seen=(*self.seen, chunk))

    @cached_property
    def _since(self) -> np.ndarray:
        """(chunks, 3) sums since each start: rows, losses, squares."""
        sums = np.array([(c.rows, c.total, c.squares) for c in self.seen], dtype=float).reshape(-1, 3)
        return np.cumsum(sums[::-1], axis=0)[::-1]

    @cached_property
    def log_stakes(self) -> np.ndarray:
        """(chunks,) log of the wealth of the money staked at each chunk, as a part of a year's money of 1."""
        rows, totals, squares = self._since.T
        ratios = self.policy.harm_ratios
        if self._counted:
            grown = [log_wealth_counts(totals, rows, self.reference, r) for r in ratios]
        else:
            alpha = self.policy.realized_alpha * self.policy.reference_share
            mean = upper_mean(self.reference, alpha, counts=False)
            # The bound loses money on losses far beyond a large bet's ratio: the last bet is on the worst there is.
            bets = [bet_size(self.reference, mean, r) for r in (*ratios, np.inf)]
            grown = [log_wealth_sums(totals, squares, rows, mean, b) for b in bets]
        mixed = logsumexp(np.array(grown), axis=0) - np.log(len(grown))
        return start_weights(len(self.seen), self.policy) + mixed

    @property
    def log_e(self) -> float:
        """Log of the wealth of the stake that has grown most: the statistic. ``-inf`` before the first chunk."""
        return float(self.log_stakes.max(initial=-np.inf))

    @property
    def limit(self) -> float:
        """What ``log_e`` must reach: log(1 / alpha).

        alpha is the budget of a year; where the losses are no counts, less the part spent on the reference.
        """
        kept = 1.0 if self._counted else 1 - self.policy.reference_share
        return log_limit(self.policy.realized_alpha * kept)

    @property
    def harmful(self) -> bool:
        """Whether the losses are shown to be higher than the reference's."""
        return self.log_e >= self.limit

    @property
    def first_chunk(self) -> int | None:
        """Number (from 0) of the chunk at which the best stake started; ``None`` before the first."""
        return int(np.argmax(self.log_stakes)) if self.seen else None

    @property
    def since_change(self) -> LossSums:
        """Sums of the losses from ``first_chunk`` on."""
        return sum(self.seen[self.first_chunk or 0 :], LossSums(0, 0.0, 0.0))


def log_limit(alpha: float) -> float:
    """log(1 / alpha), which the log wealth exceeds by luck with probability at most alpha; infinite at 0."""
    return -float(np.log(alpha)) if alpha > 0 else np.inf


def start_weights(chunks: int, policy: HarmAlarms) -> np.ndarray:
    """Log of the share of a year's money that is staked at each chunk; a year's shares sum to 1.

    ``first_share`` at the first chunk, where a new champion or a new reference shows what it is worth; the rest
    evenly over the other chunks of the year.
    """
    horizon = policy.horizon_chunks
    if horizon == 1:
        return np.zeros(chunks)
    at = np.arange(chunks) % horizon
    return np.log(np.where(at == 0, policy.first_share, (1 - policy.first_share) / (horizon - 1)))


def bet_on(
    reference: LossSums, chunks: Sequence[LossSums], policy: HarmAlarms, counts: bool = True
) -> LossBet:
    """The books after all these chunks, in their order: what observing them one by one gives."""
    return reduce(LossBet.observe, chunks, LossBet(reference, policy, counts=counts))


@dataclass(frozen=True)
class EffectSize:
    """Mean loss since the change divided by the reference's, with a 95 % interval; null where it has none."""

    ratio: float | None
    lower: float | None
    upper: float | None
    reason: str | None


def effect_size(bet: LossBet) -> EffectSize:
    """How much worse: ratio of means, interval by the delta method on its logarithm.

    It describes; the first chunk was chosen by looking, so the interval is a little too narrow.
    """
    since, reference = bet.since_change, bet.reference
    for sums, of in ((since, "the chunks"), (reference, "the reference")):
        if sums.rows == 0 or sums.total <= 0:
            return EffectSize(
                None, None, None, f"the ratio needs a loss above 0 in {of}; {sums.rows} rows have none"
            )
    ratio = since.mean / reference.mean
    spread = sum(s.variance / (s.rows * s.mean**2) for s in (since, reference))
    factor = float(np.exp(norm.ppf(0.975) * np.sqrt(spread)))
    return EffectSize(ratio, ratio / factor, ratio * factor, None)
