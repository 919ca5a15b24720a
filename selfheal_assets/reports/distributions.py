"""How a feature was distributed then and is now: shares over the same few bins, and the change in words.

For looking, not for deciding: whether a feature drifted is the monitor's answer.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from selfheal_assets.core.cell_counts import apart
from selfheal_assets.reports.text import UNKNOWN, compact, percent

MOST_CATEGORIES = 8
MOST_BINS = 12
MISSING = "missing"
OTHER = "other"


@dataclass(frozen=True)
class Distribution:
    """Shares (0..1, of all rows) by bin, in the reference (``then``) and in the chunk (``now``)."""

    feature: str
    bins: list[str]
    then: list[float]
    now: list[float]
    change: str


def compare(reference: pl.Series, analysis: pl.Series) -> Distribution:
    """Both distributions over bins made from both, and the change in one sentence.

    Args:
        reference: values then, any type.
        analysis: values now, of the same kind.
    """
    numeric = reference.dtype.is_numeric() and analysis.dtype.is_numeric()
    pooled = pl.concat([reference.cast(pl.Float64), analysis.cast(pl.Float64)]) if numeric else None
    if pooled is not None and pooled.drop_nulls().n_unique() > MOST_BINS:
        integer = reference.dtype.is_integer() and analysis.dtype.is_integer()
        return _numeric(reference, analysis, bin_edges(pooled), integer)
    return _categories(reference, analysis, numeric)


def _step(span: float) -> float:
    """A round step that cuts a span into ten bins or fewer."""
    power = 10.0 ** np.floor(np.log10(span / 10))
    return next(float(power * k) for k in (1, 2, 2.5, 5, 10) if span / (power * k) <= 10)


def bin_edges(values: pl.Series) -> list[float]:
    """Round inner edges: 1-2-5 steps for a long right tail, else of equal width; the ends are open."""
    known = _known(values)
    low, middle, high = np.quantile(known, [0.01, 0.5, 0.99])
    positive = known[known > 0]
    if low >= 0 and len(positive) and high > 6 * middle:
        floor = max(float(np.quantile(positive, 0.02)), high / 1e4)
        powers = range(int(np.floor(np.log10(floor))), int(np.ceil(np.log10(high))) + 1)
        edges = [k * 10.0**p for p in powers for k in (1, 2, 5)]
        edges = [e for e in edges if floor <= e <= high]
        return edges if len(edges) <= MOST_BINS else edges[:: len(edges) // MOST_BINS + 1]
    if high <= low:
        return [float(low)]
    step = _step(float(high - low))
    return [float(e) for e in np.arange(np.ceil(low / step) * step, high + step / 2, step)]


def _bin_names(edges: list[float], integer: bool) -> list[str]:
    inner = [
        compact(a)
        if integer and b - a == 1
        else f"{compact(a)}–{compact(b - 1 if integer and b < 1000 else b)}"
        for a, b in pairwise(edges)
    ]
    first = "0" if integer and edges[0] == 1 else f"< {compact(edges[0])}"
    return [first, *inner, f"≥ {compact(edges[-1])}"]


def _known(values: pl.Series) -> np.ndarray:
    """The values that are there, as floats."""
    return values.cast(pl.Float64).drop_nulls().drop_nans().to_numpy()


def _numeric_shares(values: pl.Series, edges: list[float]) -> list[float]:
    """Share of each bin, and last of the missing."""
    known = _known(values)
    counts = np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1)
    return [float(n) / max(len(values), 1) for n in (*counts, len(values) - len(known))]


def _median(values: pl.Series) -> str:
    known = _known(values)
    return compact(float(np.median(known))) if len(known) else UNKNOWN


def _numeric(reference: pl.Series, analysis: pl.Series, edges: list[float], integer: bool) -> Distribution:
    names = [*_bin_names(edges, integer), MISSING]
    then, now = _numeric_shares(reference, edges), _numeric_shares(analysis, edges)
    change = (
        f"Median {_median(reference)} → {_median(analysis)}; "
        f"missing {percent(then[-1])} → {percent(now[-1])}."
    )
    return _without_empty_bins(Distribution(reference.name, names, then, now, change))


def _without_empty_bins(found: Distribution) -> Distribution:
    """Leave out bins that nobody is in, then and now."""
    keep = [i for i in range(len(found.bins)) if found.then[i] or found.now[i]]
    return Distribution(
        found.feature,
        [found.bins[i] for i in keep],
        [found.then[i] for i in keep],
        [found.now[i] for i in keep],
        found.change,
    )


def _category_shares(values: pl.Series, numeric: bool) -> dict[str, float]:
    """Share of each category by its name; integers and floats of the same value share a name."""
    known = values.cast(pl.Float64).fill_nan(None) if numeric else values.cast(pl.String)
    counted = known.rename("value").value_counts(name="rows").rows()
    return {_category_name(value): n / max(len(values), 1) for value, n in counted}


def _category_name(value: str | float | None) -> str:
    if value is None:
        return MISSING
    return apart(value, (MISSING, OTHER)) if isinstance(value, str) else f"{value:g}"


def _categories(reference: pl.Series, analysis: pl.Series, numeric: bool) -> Distribution:
    then, now = _category_shares(reference, numeric), _category_shares(analysis, numeric)
    every = set(then) | set(now)
    by_size = sorted(every, key=lambda c: (-max(then.get(c, 0), now.get(c, 0)), c))
    by_size = by_size if numeric else by_size[:MOST_CATEGORIES]
    shown = sorted(by_size, key=_as_number) if numeric else by_size
    moved = max(every, key=lambda c: (abs(now.get(c, 0) - then.get(c, 0)), c), default=None)
    change = (
        f"Largest change: {moved} {percent(then.get(moved, 0))} → {percent(now.get(moved, 0))}."
        if moved
        else ""
    )
    rest = [c for c in every if c not in shown]
    tail = [OTHER] if rest else []
    return Distribution(
        reference.name,
        shown + tail,
        [then.get(c, 0.0) for c in shown] + [sum(then.get(c, 0) for c in rest) for _ in tail],
        [now.get(c, 0.0) for c in shown] + [sum(now.get(c, 0) for c in rest) for _ in tail],
        change,
    )


def _as_number(name: str) -> float:
    return float(name) if name != MISSING else float("inf")
