"""Which features move a version's scores, and how: mean contributions over its reference's rows.

Contributions are TreeSHAP's on the calibrated log odds (see ``explanation``), so they add up to a score.
"""

import numpy as np
import polars as pl

from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.cell_counts import apart

MOST_ROWS = 500  # contributions take a tenth of a millisecond a row; means and tenths need no more rows
MOST_FEATURES, MOST_CELLS = 6, 8
IMPORTANCE_SCHEMA = {"feature": pl.String, "strength": pl.Float64, "share": pl.Float64}
EFFECT_SCHEMA = {
    "feature": pl.String,
    "cell": pl.String,
    "rows": pl.Int64,
    "effect": pl.Float64,
    "least": pl.Float64,
    "most": pl.Float64,
}


def effects_of(bundle: Bundle, rows: pl.DataFrame, matrix: np.ndarray) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Strength of every feature, and the effects of the strongest by their values.

    Args:
        bundle: the version.
        rows: its features as given; of more than ``MOST_ROWS`` rows, evenly spaced ones are taken.
        matrix: the same rows, encoded.

    Returns:
        ``feature``, ``strength`` (mean absolute contribution, log odds) and ``share`` (of all features' strength),
        the strongest first; and of the strongest ``MOST_FEATURES``, in that order, one row per cell of values:
        ``feature``, ``cell`` (a range, a category, or ``missing``; in order), ``rows``, ``effect`` (mean
        contribution, log odds; above 0 raises the score), ``least`` and ``most`` (its tenth and ninetieth
        percentile among the cell's rows).

    Source: Lundberg, Erion, Lee, Consistent Individualized Feature Attribution for Tree Ensembles, 2018.
    """
    taken = np.unique(np.linspace(0, rows.height - 1, min(rows.height, MOST_ROWS)).astype(int))
    shares = bundle.contributions(matrix[taken])[:, :-1]
    strength = np.abs(shares).mean(axis=0)
    names = [f.name for f in bundle.features]
    total = strength.sum()
    importance = pl.DataFrame(
        {"feature": names, "strength": strength, "share": strength / total if total else strength},
        schema=IMPORTANCE_SCHEMA,
    ).sort("strength", "feature", descending=[True, False])
    sample = rows[taken.tolist()]
    strongest = importance.filter(pl.col("strength") > 0).head(MOST_FEATURES)["feature"].to_list()
    parts = [_by_cell(name, sample[name], shares[:, names.index(name)]) for name in strongest]
    return importance, pl.concat([pl.DataFrame(schema=EFFECT_SCHEMA), *parts])


def _by_cell(name: str, values: pl.Series, share: np.ndarray) -> pl.DataFrame:
    place, cell = _cells(values)
    frame = pl.DataFrame({"place": place, "cell": cell, "share": share})
    found = frame.group_by("place", "cell").agg(
        rows=pl.len().cast(pl.Int64),
        effect=pl.col("share").mean(),
        least=pl.col("share").quantile(0.1),
        most=pl.col("share").quantile(0.9),
    )
    return found.sort("place").select(pl.lit(name).alias("feature"), pl.exclude("place"))


def _cells(values: pl.Series) -> tuple[list[int], list[str]]:
    """Place and name of each row's cell."""
    if not values.dtype.is_numeric():
        known = values.cast(pl.String)
        ours = {v: apart(v, ("missing", "other")) for v in known.drop_nulls().unique()}
        text = known.replace(ours).fill_null("missing")
        frequent = text.value_counts(sort=True).sort("count", values.name, descending=[True, False])
        order = frequent.head(MOST_CELLS)[values.name].to_list()
        named = [v if v in order else "other" for v in text]
        return [order.index(v) if v in order else MOST_CELLS for v in named], named
    number = values.cast(pl.Float64).fill_nan(None)
    known = number.drop_nulls()
    distinct = known.unique().sort().to_list()
    if len(distinct) <= MOST_CELLS:
        place = {v: i for i, v in enumerate(distinct)}
        return [place.get(v, MOST_CELLS) for v in number], [_short(v) for v in number]
    edges = sorted({_round(known.quantile(i / MOST_CELLS)) for i in range(1, MOST_CELLS)})
    names = [f"< {_short(edges[0])}", *map(_between, edges, edges[1:]), f"≥ {_short(edges[-1])}"]
    at = [len(names) if v is None else int(np.searchsorted(edges, v, side="right")) for v in number]
    return at, ["missing" if i == len(names) else names[i] for i in at]


def _between(low: float, high: float) -> str:
    return f"{_short(low)}–{_short(high)}"


def _round(value: float | None) -> float:
    """Two significant digits: an edge is to be read, not computed with."""
    return float(f"{value or 0.0:.2g}")


def _short(value: float | None) -> str:
    """``50k``, ``1.2M``; years and other whole numbers below ten thousand in full."""
    if value is None:
        return "missing"
    for limit, suffix in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e6 if suffix == 'M' else 1e3):.3g}{suffix}"
    return f"{value:g}"
