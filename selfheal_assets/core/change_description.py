"""What a change of counts consists of: how large, which way, which cells, how many rows."""

from dataclasses import dataclass

import numpy as np

from selfheal_assets.core.cell_counts import MISSING, UNSEEN, Cells


@dataclass(frozen=True)
class Change:
    """A change between two samples of counts.

    Attributes:
        direction: ``up``, ``down``, ``wider`` or ``narrower`` where an ordered feature moved; ``mix`` where
            categories did; ``more missing``, ``fewer missing``, ``unseen values``, ``fewer unseen values`` where
            such values moved most.
        effect_size: Cohen's w, √Σ(q−p)²/p̄ with p̄ the share in both samples; without any change it is about
            √((K−1)/rows).
        shift_sd: change of the mean in standard deviations of the rows before; null for categories.
        mass_moved: ½·Σ|q−p|, the share of rows that would have to move to another cell (total variation).
        grown, shrunk: cells that clearly gained or lost, in points, the largest first; null where none is clear.
    """

    direction: str
    effect_size: float
    shift_sd: float | None
    mass_moved: float
    grown: str | None
    shrunk: str | None


def describe_change(cells: Cells, before: np.ndarray, since: np.ndarray, confidence: float) -> Change | None:
    """Describe what is different in ``since``; None where a sample has no rows.

    Args:
        before, since: counts, shape (K,).
        confidence: of all cells named together (Bonferroni over the cells).
    """
    from scipy.stats import norm

    rows_before, rows = before.sum(), since.sum()
    if not rows_before or not rows:
        return None
    p, q = before / rows_before, since / rows
    both = (before + since) / (rows_before + rows)
    present = both > 0
    information = rows_before * rows / (rows_before + rows)
    gain = q - p
    deviation = np.zeros(len(p))
    # A cell that holds all rows has no variance, and cannot have moved.
    spread = np.sqrt(both * (1 - both) / information)
    deviation[spread > 0] = gain[spread > 0] / spread[spread > 0]
    clear = float(norm.isf((1 - confidence) / (2 * len(p))))
    moments = _moments(cells, p, q, information)
    return Change(
        direction=_direction(cells, deviation, moments),
        effect_size=float(np.sqrt((gain[present] ** 2 / both[present]).sum())),
        shift_sd=moments.shift_sd if moments else None,
        mass_moved=mass_moved(before, since),
        grown=_named(cells, gain, deviation >= clear),
        shrunk=_named(cells, -gain, deviation <= -clear),
    )


def mass_moved(before: np.ndarray, since: np.ndarray) -> float:
    """Total variation of two samples of counts, 0..1: the share of rows that would have to change cells."""
    moved = float(np.abs(since / since.sum() - before / before.sum()).sum() / 2)
    return min(moved, 1.0)  # of samples with nothing in common, rounding may make a little more


@dataclass(frozen=True)
class _Moments:
    shift_sd: float
    shift_z: float
    width_z: float


def _moments(cells: Cells, p: np.ndarray, q: np.ndarray, information: float) -> _Moments | None:
    """Change of mean and of width on the feature's scale, among the rows that have a place there."""
    if cells.positions is None:
        return None
    placed = np.isfinite(cells.positions)
    x, p, q = cells.positions[placed], p[placed], q[placed]
    if not p.sum() or not q.sum():
        return None
    p, q = p / p.sum(), q / q.sum()
    mean_p, mean_q = float(p @ x), float(q @ x)
    variance = float(p @ (x - mean_p) ** 2)
    if variance <= 0:
        return None
    shift = (mean_q - mean_p) / variance**0.5
    ratio = float(q @ (x - mean_q) ** 2) / variance
    kurtosis = float(p @ (x - mean_p) ** 4) / variance**2
    # Var of a sample variance is σ⁴(kurtosis − 1)/n; two equally likely places have none.
    width_z = (ratio - 1) * (information / (kurtosis - 1)) ** 0.5 if kurtosis > 1 + 1e-9 else 0.0
    return _Moments(shift, shift * information**0.5, width_z)


def _direction(cells: Cells, deviation: np.ndarray, moments: _Moments | None) -> str:
    largest = cells.names[int(np.argmax(np.abs(deviation)))]
    more = deviation[int(np.argmax(np.abs(deviation)))] > 0
    if largest == MISSING:
        return "more missing" if more else "fewer missing"
    if largest == UNSEEN:
        return "unseen values" if more else "fewer unseen values"
    if moments is None:
        return "mix"
    if abs(moments.width_z) > abs(moments.shift_z):
        return "wider" if moments.width_z > 0 else "narrower"
    return "up" if moments.shift_sd > 0 else "down"


def _named(cells: Cells, gain: np.ndarray, clear: np.ndarray) -> str | None:
    largest = [i for i in np.argsort(-gain, kind="stable") if clear[i]][:3]
    return ", ".join(f"{cells.names[i]} {100 * gain[i]:.1f}" for i in largest) or None
