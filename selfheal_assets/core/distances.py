"""Distances between two distributions, from counts alone.

Each takes what was counted in the same cells in the reference and in a chunk, and gives the figure that NannyML
0.13.1 gives from the rows themselves (PSI, which it lacks, aside). The order of the operations is kept as well, so
that even a distance near zero, which is the root of a rounding error, agrees. Only what rounding carries out of 0..1
is brought back: NannyML answers NaN there, or a little more than 1. Counting is ``stores.pushdown``'s work, and
judging ``core.drift_alarms``'s.
"""

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.special import chdtrc
from scipy.stats import chi2, wasserstein_distance

from selfheal_assets.core.metrics import UndefinedMetric

Array = np.ndarray


def _shares(reference: Array, observed: Array, elsewhere: float) -> tuple[Array, Array]:
    """Both counts as shares; rows of the chunk in no cell of the reference become one more cell."""
    total = observed.sum() + elsewhere
    if not reference.sum() or not total:
        raise UndefinedMetric("no values to compare")
    p, q = reference / reference.sum(), observed / total
    left = 1 - np.sum(q)
    return (np.append(p, 0.0), np.append(q, left)) if left > 0 else (p, q)


def _within_one(distance: float) -> float:
    """A distance from 0 to 1 that rounding has carried beyond its ends: of equal shares the root may be of −1e-17."""
    return 0.0 if np.isnan(distance) else min(float(distance), 1.0)


def jensen_shannon(reference: Array, observed: Array, elsewhere: float = 0) -> float:
    """Jensen–Shannon distance, the root of the divergence to base 2: 0 (equal) to 1 (nothing in common).

    Args:
        reference: rows by cell, shape (cells,).
        observed: the chunk's rows in the same cells.
        elsewhere: the chunk's rows in none of them: out of the reference's range, or unseen categories.
    """
    shares = _shares(reference, observed, elsewhere)
    with np.errstate(invalid="ignore"):
        return _within_one(jensenshannon(*shares, base=2))


def hellinger(reference: Array, observed: Array, elsewhere: float = 0) -> float:
    """Hellinger distance, ‖√p − √q‖₂ / √2: 0 to 1. Arguments as for :func:`jensen_shannon`."""
    p, q = _shares(reference, observed, elsewhere)
    return _within_one(np.sqrt(np.sum((np.sqrt(p) - np.sqrt(q)) ** 2)) / np.sqrt(2))


def l_infinity(reference: Array, observed: Array) -> float:
    """Largest difference of a category's share. ``reference`` is 0 where a category is new."""
    if not reference.sum() or not observed.sum():
        raise UndefinedMetric("no values to compare")
    return _within_one(np.max(np.abs(reference / reference.sum() - observed / observed.sum())))


def chi_square(reference: Array, observed: Array) -> tuple[float, float]:
    """Pearson's χ² of the table of both counts, and its p-value.

    With Yates's correction where there are two categories, as SciPy and NannyML do. Categories that neither side
    holds are left out. A single category cannot differ: 0, and p = 1.
    """
    if not reference.sum() or not observed.sum():
        raise UndefinedMetric("no values to compare")
    table = np.column_stack([reference, observed])
    table = table[table.sum(axis=1) > 0]
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    gap = np.abs(table - expected)
    if len(table) == 2:
        gap -= np.minimum(0.5, gap)
    statistic = float(np.sum(gap**2 / expected))
    return statistic, float(chdtrc(len(table) - 1, statistic)) if len(table) > 1 else 1.0


def kolmogorov_smirnov(reference: Array, observed: Array, below: float = 0, above: float = 0) -> float:
    """Largest difference of the cumulative shares at the cells' upper edges: 0 to 1.

    Args:
        reference: rows by cell, from the reference's least value to its greatest.
        observed: the chunk's rows in the same cells.
        below: the chunk's rows below the first cell.
        above: those above the last.
    """
    total = observed.sum() + below + above
    if not reference.sum() or not total:
        raise UndefinedMetric("no values to compare")
    cumulative = np.cumsum(reference / reference.sum())
    return _within_one(np.max(np.abs(cumulative - (below / total + np.cumsum(observed / total)))))


def wasserstein(
    reference: Array,
    observed: Array,
    width: float,
    below: tuple[float, float] = (0, 0.0),
    above: tuple[float, float] = (0, 0.0),
) -> float:
    """Wasserstein-1 distance in the feature's own unit, from cells of equal ``width``.

    Args:
        reference: rows by cell, from the reference's least value to its greatest.
        observed: the chunk's rows in the same cells.
        width: of a cell.
        below: rows of the chunk below the first cell, and the sum of their distances to its lower edge.
        above: rows above the last cell, and the sum of their distances to its upper edge.

    NannyML counts one row more below the range than there are, where there is any; so does this.
    """
    total = observed.sum() + below[0] + above[0]
    if not reference.sum() or not total:
        raise UndefinedMetric("no values to compare")
    start = (below[0] + 1) / total if below[0] else 0
    cumulative = np.cumsum(observed / total) + start
    within = np.sum(np.abs(np.cumsum(reference / reference.sum()) - cumulative) * width)
    return float(within + (below[1] + above[1]) / total)


def kolmogorov_smirnov_of_values(values: Array, reference: Array, observed: Array) -> float:
    """:func:`kolmogorov_smirnov`, exactly: ``values`` ascend, the other two count their rows on each side."""
    if not reference.sum() or not observed.sum():
        raise UndefinedMetric("no values to compare")
    gaps = np.cumsum(reference) / reference.sum() - np.cumsum(observed) / observed.sum()
    return _within_one(np.max(np.abs(gaps))) if len(values) else 0.0


def wasserstein_of_values(values: Array, reference: Array, observed: Array) -> float:
    """:func:`wasserstein`, exactly; arguments as for :func:`kolmogorov_smirnov_of_values`."""
    if not reference.sum() or not observed.sum():
        raise UndefinedMetric("no values to compare")
    return float(wasserstein_distance(values, values, reference, observed))


def population_stability_index(reference: Array, observed: Array) -> float:
    """PSI, Σ (q − p) ln(q / p), over cells that cover both sides: 0 upwards.

    A cell that one side leaves empty counts as half a row there, so that the logarithm exists (the usual
    correction; a fixed small share instead would let empty cells weigh more the more rows there are).
    Source: Yurdakul and Naranjo, Statistical properties of the population stability index, 2020.
    """
    used = (reference + observed) > 0
    if not reference.sum() or not observed.sum():
        raise UndefinedMetric("no values to compare")
    p, q = (np.where(c == 0, 0.5, c)[used] / c.sum() for c in (reference, observed))
    return float(np.sum((q - p) * np.log(q / p)))


def psi_cut_off(cells: int, reference_rows: float, rows: float, confidence: float) -> float:
    """What PSI exceeds by chance alone with probability 1 − ``confidence``: χ²(k−1) × (1/N + 1/M).

    Args:
        cells: k, the cells that PSI was taken over.
        reference_rows: N.
        rows: M, of the chunk.
        confidence: for instance 0.95.

    Source: as for :func:`population_stability_index`.
    """
    if cells < 2 or not reference_rows or not rows:
        raise UndefinedMetric("a cut-off needs two cells and rows on both sides")
    return float(chi2.ppf(confidence, cells - 1) * (1 / reference_rows + 1 / rows))
