"""Harm on known losses, by betting: a test that may be looked at after every chunk.

A gambler who may bet on losses above a mean m, at fair odds if that mean is right, cannot grow rich but by luck:
the wealth of ``prod(1 + bet * (loss - m))`` is a non-negative supermartingale while the mean of the losses is
at most m, and by Ville's inequality it ever reaches 1/alpha with probability at most alpha, however often it is
looked at. The wealth is spread over sizes of the bet and over chunks at which the betting starts, so that a
change that comes late is met by money that has not been lost before it.

Sources: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, 2023; Shafer, Testing
by betting, 2021; Fan, Grama and Liu, Exponential inequalities for martingales, 2015 (the bound for sums).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from scipy.special import logsumexp
from scipy.stats import beta, norm

from selfheal_assets.core.spec import HarmAlarms

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


def log_gain(sums: LossSums, mean: float, bets: np.ndarray) -> np.ndarray:
    """Log growth of a stake over a chunk, per bet: the sum of log(1 + bet * (loss - mean)), or a lower bound.

    Exact for 0–1 losses. For others, with y = (loss - mean) / mean >= -1 and b = bet * mean in [0, 1):
    log(1 + b y) >= b y + y² (log(1 - b) + b) (Fan, Grama and Liu 2015, inequality 4.12), which needs the sums
    alone; a process below a supermartingale is as safe.
    """
    if sums.binary:
        return sums.total * np.log1p(bets * (1 - mean)) + (sums.rows - sums.total) * np.log1p(-bets * mean)
    share = bets * mean
    away = sums.total / mean - sums.rows
    squared = sums.squares / mean**2 - 2 * sums.total / mean + sums.rows
    return share * away + squared * (np.log1p(-share) + share)


def upper_mean(reference: LossSums, alpha: float) -> float:
    """Upper confidence bound of a mean loss, in (0, 1]: too low with probability at most ``alpha``.

    Clopper and Pearson's for 0–1 losses; else the empirical Bernstein bound (Maurer and Pontil, Empirical
    Bernstein bounds and sample variance penalization, 2009, theorem 4). 1 where there are too few rows to tell.
    """
    rows = reference.rows
    if rows < 2:
        return 1.0
    if reference.binary:
        errors = round(reference.total)
        return 1.0 if errors == rows else float(beta.ppf(1 - alpha, errors + 1, rows - errors))
    variance, doubt = reference.variance * rows / (rows - 1), np.log(2 / alpha)
    return min(
        1.0, float(reference.mean + np.sqrt(2 * variance * doubt / rows) + 7 * doubt / (3 * (rows - 1)))
    )


def bet_sizes(reference: LossSums, null_mean: float, ratios: Iterable[float]) -> np.ndarray:
    """The bet that gains most where the mean loss is ``ratio`` times ``null_mean``, for each ratio.

    For 0–1 losses Kelly's, (q - m) / (m (1 - m)); else its approximation with the reference's variance
    (aGRAPA in Waudby-Smith and Ramdas 2023): d / (variance + d²) with d = q - m.
    """
    excess = np.minimum(np.array(list(ratios)) * null_mean, 1.0) - null_mean
    if reference.binary:
        kelly = excess / max(null_mean * (1 - null_mean), 1e-300)
    else:
        kelly = excess / np.maximum(reference.variance + excess**2, 1e-300)
    return np.minimum(kelly, MOST_OF_A_STAKE / null_mean)


@dataclass(frozen=True)
class LossBet:
    """A bettor's books after some chunks: everything that the next chunk's test needs.

    A stake that starts at chunk j with bet k has grown by ``gains[t, k] - gains[j, k]`` (log) when t chunks were
    seen, so the books are the sums of what was seen, and can be rebuilt from the chunks' sums at any time.

    Attributes:
        reference: sums of the reference's losses.
        null_mean: upper bound of the reference's mean loss; the wealth grows only where losses exceed it.
        bets: size of each bet.
        gains: (chunks + 1, bets) cumulated log gains; the first row is 0.
        seen: (chunks + 1) cumulated sums, the first of no rows.
        policy: budget, its split, horizon.
    """

    reference: LossSums
    null_mean: float
    bets: np.ndarray
    gains: np.ndarray
    seen: tuple[LossSums, ...]
    policy: HarmAlarms

    @property
    def chunks(self) -> int:
        """Chunks seen so far, those without labels included."""
        return len(self.seen) - 1

    def observe(self, chunk: LossSums) -> "LossBet":
        """The books after one more chunk; one without rows leaves the wealth as it is."""
        gained = log_gain(chunk, self.null_mean, self.bets) if chunk.rows else np.zeros(len(self.bets))
        gains = np.vstack([self.gains, self.gains[-1] + gained])
        return LossBet(
            self.reference, self.null_mean, self.bets, gains, (*self.seen, self.seen[-1] + chunk), self.policy
        )

    def _log_stakes(self) -> np.ndarray:
        """(chunks,) log of weight times wealth of the stakes that started at each chunk, mixed over bets."""
        grown = self.gains[-1] - self.gains[:-1]
        return start_weights(self.chunks, self.policy) + _log_mean(grown)

    @property
    def log_e(self) -> float:
        """Log of the wealth: of the year of monitoring (``horizon_chunks``) whose money has grown most."""
        if not self.chunks:
            return 0.0
        stakes, horizon = self._log_stakes(), self.policy.horizon_chunks
        return max(
            float(np.logaddexp(logsumexp(stakes[y : y + horizon]), _unstaked(self.chunks - y, self.policy)))
            for y in range(0, self.chunks, horizon)
        )

    @property
    def limit(self) -> float:
        """What ``log_e`` must reach: log(1 / alpha), alpha being the budget less the reference's part of it."""
        return -float(np.log(self.policy.realized_alpha * (1 - self.policy.reference_share)))

    @property
    def harmful(self) -> bool:
        """Whether the losses are proven to be higher than the reference's."""
        return self.log_e >= self.limit

    @property
    def first_chunk(self) -> int | None:
        """Number (from 0) of the chunk from which the bets have won most; ``None`` before the first."""
        return int(np.argmax(self._log_stakes())) if self.chunks else None

    @property
    def since_change(self) -> LossSums:
        """Sums of the losses from ``first_chunk`` on."""
        start, last = self.seen[self.first_chunk or 0], self.seen[-1]
        return LossSums(last.rows - start.rows, last.total - start.total, last.squares - start.squares)


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


def _unstaked(started: int, policy: HarmAlarms) -> float:
    """Log of the money that is still kept for later chunks of the year; -inf if none is."""
    left = policy.horizon_chunks - started
    return (
        float(np.log((1 - policy.first_share) * left / (policy.horizon_chunks - 1))) if left > 0 else -np.inf
    )


def _log_mean(logs: np.ndarray) -> np.ndarray:
    return logsumexp(logs, axis=1) - np.log(logs.shape[1])


def open_bet(reference: LossSums, policy: HarmAlarms) -> LossBet:
    """Books before the first chunk.

    Args:
        reference: losses of the same kind on the reference period, held out from training.
        policy: the part ``reference_share`` of its ``realized_alpha`` is spent on the reference's own error.
    """
    null_mean = upper_mean(reference, policy.realized_alpha * policy.reference_share)
    bets = bet_sizes(reference, null_mean, policy.harm_ratios)
    return LossBet(reference, null_mean, bets, np.zeros((1, len(bets))), (LossSums(0, 0.0, 0.0),), policy)


def bet_on(reference: LossSums, chunks: Iterable[LossSums], policy: HarmAlarms) -> LossBet:
    """The books after all these chunks, in their order."""
    return reduce(lambda bet, chunk: bet.observe(chunk), chunks, open_bet(reference, policy))


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
