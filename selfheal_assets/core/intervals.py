"""Confidence intervals: of proportions in closed form, of metrics of scores by a bootstrap over groups of rows.

Two rows with the same label and score are the same to every metric of scores. Resampling rows is therefore drawing
how often each (score, label) occurs, from a multinomial; with at most ``MOST_GROUPS`` distinct scores this is the
ordinary bootstrap, exactly. With more, neighbouring scores share a group, so that time and memory do not grow with
the rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, norm

from selfheal_assets.core.metrics import Interval, equal_count_bins

MOST_GROUPS = 100
_BLOCK = 250  # resamples at a time: bounds the memory


def wilson(hits: int, among: int, confidence: float = 0.95) -> Interval:
    """A proportion with Wilson's score interval, which stays within [0, 1] and is no point at 0 or 1.

    Source: Wilson, Journal of the American Statistical Association 22, 1927; recommended by Brown, Cai and
    DasGupta, Statistical Science 16(2), 2001.
    """
    z2 = float(norm.ppf(0.5 + confidence / 2)) ** 2
    share = hits / among
    middle = (hits + z2 / 2) / (among + z2)
    half = (z2 * (share * (1 - share) / among + z2 / (4 * among**2))) ** 0.5 / (1 + z2 / among)
    return Interval(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def poisson(observed: float, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided bounds of the mean of a Poisson count.

    Source: Garwood, Biometrika 28, 1936.
    """
    tail = 0.5 - confidence / 2
    lower = float(chi2.ppf(tail, 2 * observed)) / 2 if observed else 0.0
    return lower, float(chi2.ppf(1 - tail, 2 * observed + 2)) / 2


@dataclass(frozen=True)
class Resampled:
    """Metrics of resampled rows, each of shape (resamples,). Of the average precision only the spread is meant.

    ``calibration_shift`` and ``gap_shift`` are distances from the sample, not metrics: the sum over bins of how far
    the mean residual moved (in units of the calibration error), and how far the gap between the classes'
    distributions moved where it moved most.
    """

    average_precision: np.ndarray
    brier: np.ndarray
    log_loss: np.ndarray
    calibration_shift: np.ndarray
    gap_shift: np.ndarray


@dataclass(frozen=True)
class ScoreGroups:
    """Rows counted by group of scores, ascending, and label. Arrays of shape (2, groups): negatives, positives.

    ``mean_loss`` and ``variance_loss`` are of the rows of a cell, by metric (Brier, log loss): shape (2, 2, groups).
    """

    counts: np.ndarray
    residual: np.ndarray
    mean_loss: np.ndarray
    variance_loss: np.ndarray
    bins: np.ndarray

    @property
    def rows(self) -> int:
        """All rows."""
        return int(self.counts.sum())


def score_groups(label: np.ndarray, probability: np.ndarray, bins: int) -> ScoreGroups:
    """Count rows by score and label; groups lie within the ``bins`` of the calibration error.

    Args:
        label: 0/1.
        probability: finite, in [0, 1], of the same length, which is above 0.
        bins: of the calibration error.
    """
    distinct, group = np.unique(probability, return_inverse=True)
    if len(distinct) > MOST_GROUPS:
        # A multiple of the bins: then equal-count groups never straddle two of them.
        _, group = np.unique(
            equal_count_bins(probability, bins * max(1, MOST_GROUPS // bins)), return_inverse=True
        )
    size = int(group.max()) + 1
    cell = label.astype(np.int64) * size + group

    def total(weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(cell, weights=weights, minlength=2 * size).reshape(2, size)

    counts = total()
    filled = np.maximum(counts, 1)
    p = np.clip(probability, 1e-12, 1 - 1e-12)
    losses = [(probability - label) ** 2, np.where(label == 1, -np.log(p), -np.log1p(-p))]
    mean = np.stack([total(loss) / filled for loss in losses])
    around = [(loss - m.reshape(-1)[cell]) ** 2 for loss, m in zip(losses, mean, strict=True)]
    bin_of_row = equal_count_bins(probability, bins)
    bin_of_group = np.zeros(size, dtype=np.int64)
    bin_of_group[group] = bin_of_row
    return ScoreGroups(
        counts,
        total(probability - label) / filled,
        mean,
        np.stack([total(a) / filled for a in around]),
        bin_of_group,
    )


def resample(groups: ScoreGroups, resamples: int, seed: int) -> Resampled:
    """Draw all rows anew ``resamples`` times, and compute what needs it; both classes must be among them."""
    rng = np.random.default_rng(seed)
    parts = [_of_draws(groups, draws, rng) for draws in _draws(groups.counts, resamples, rng)]
    return Resampled(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _draws(counts: np.ndarray, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Resampled counts in blocks of shape (block, 2, groups)."""
    flat = counts.reshape(-1)
    rows = int(flat.sum())
    cell_of_row = np.repeat(np.arange(len(flat)), flat)
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        if rows > 4 * len(flat):
            drawn = rng.multinomial(rows, flat / rows, size=size)
        else:  # the same distribution, but cheaper where there are few rows a cell
            picked = cell_of_row[rng.integers(0, rows, size=(size, rows))]
            picked += len(flat) * np.arange(size)[:, None]
            drawn = np.bincount(picked.reshape(-1), minlength=size * len(flat))
        yield drawn.reshape(size, *counts.shape)


def _of_draws(groups: ScoreGroups, draws: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    rows, cells = groups.rows, draws.reshape(len(draws), -1)
    within = rng.standard_normal((len(draws), 2))
    losses = []
    for i in range(2):
        # Rows of one cell differ a little where scores share a group: the spread of a sum of as many draws from it.
        spread = np.sqrt(cells @ groups.variance_loss[i].reshape(-1)) * within[:, i]
        losses.append((cells @ groups.mean_loss[i].reshape(-1) + spread) / rows)
    moved = ((draws - groups.counts) * groups.residual).sum(axis=1)
    in_bin = np.equal.outer(groups.bins, np.unique(groups.bins)).astype(float)
    gap = _gap(draws) - _gap(groups.counts[None, :, :])
    return {
        "average_precision": _average_precision(draws),
        "brier": losses[0],
        "log_loss": losses[1],
        "calibration_shift": np.abs(moved @ in_bin).sum(axis=1) / rows,
        "gap_shift": np.abs(gap).max(axis=1),
    }


def _gap(counts: np.ndarray) -> np.ndarray:
    """Difference of the classes' distribution functions at each group, shape (draws, groups)."""
    below = np.cumsum(counts, axis=2)
    share = below / np.maximum(below[:, :, -1:], 1)
    return share[:, 0] - share[:, 1]


def _average_precision(counts: np.ndarray) -> np.ndarray:
    """Average precision of each draw; 0 where a draw has no positive, the least that it can be."""
    highest_first = counts[:, :, ::-1]
    hits = highest_first[:, 1]
    found = np.cumsum(hits, axis=1)
    precision = found / np.maximum(np.cumsum(highest_first.sum(axis=1), axis=1), 1)
    return (precision * hits).sum(axis=1) / np.maximum(found[:, -1], 1)
