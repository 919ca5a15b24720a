"""When did the counts change? The most likely first chunk of a change, and an interval around it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ChangePoint:
    """The most likely first chunk of a change.

    ``index`` into the starts; ``first`` is that chunk, ``earliest`` and ``latest`` bound the interval, ``score`` is
    its share of the likelihood of all starts (0..1), ``log_likelihood_ratio`` (nats) that of a change there against
    none.
    """

    index: int
    first: str
    earliest: str
    latest: str
    score: float
    log_likelihood_ratio: float


def change_point(
    starts: Sequence[str], before: np.ndarray, total: np.ndarray, confidence: float
) -> ChangePoint | None:
    """Maximum-likelihood split of counts into those before a chunk and those from it on.

    The log likelihood ratio of a split is half of G² of the two samples (Wilks 1938; Hinkley 1970 for the split).
    The likelihoods of all splits, normalised, are the posterior under a uniform prior over starts; the interval is
    from the first to the last of the most likely starts that together hold ``confidence``.

    Args:
        starts: names of the chunks, in order, at which a change may have begun, S of them.
        before: counts before each start, shape (S, K): the reference's and the earlier chunks'.
        total: counts of everything, shape (K,).

    Returns:
        The change point, or None where no start has rows on both sides.
    """
    ratio = split_log_likelihood(before, total)
    possible = np.flatnonzero(np.isfinite(ratio))
    if len(possible) == 0:
        return None
    likelihood = np.zeros(len(ratio))
    likelihood[possible] = np.exp(ratio[possible] - ratio[possible].max())
    share = likelihood / likelihood.sum()
    # Of equal starts the latest: an empty chunk before the change is not its beginning.
    best = len(ratio) - 1 - int(np.argmax(share[::-1]))
    order = np.argsort(-share, kind="stable")
    held = order[: int(np.searchsorted(np.cumsum(share[order]), confidence)) + 1]
    held = np.append(held[np.isfinite(ratio[held])], best)
    return ChangePoint(
        index=best,
        first=starts[best],
        earliest=starts[int(held.min())],
        latest=starts[int(held.max())],
        score=float(share[best]),
        log_likelihood_ratio=float(ratio[best]),
    )


def split_log_likelihood(before: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Log likelihood ratio (nats) of a change at each start against none; −inf without rows on both sides."""
    from scipy.special import xlogy

    since = total - before
    rows_before, rows = before.sum(axis=1), since.sum(axis=1)
    apart = (xlogy(before, before) + xlogy(since, since)).sum(axis=1)
    apart = apart - xlogy(rows_before, rows_before) - xlogy(rows, rows)
    together = xlogy(total, total).sum() - xlogy(total.sum(), total.sum())
    return np.where((rows_before > 0) & (rows > 0), apart - together, -np.inf)
