"""Suspected causes: how much of a change of score or estimated performance each drifted feature explains.

The reference's rows are reweighted so that drifted features have the distribution they have now, and a metric that
needs no labels is computed anew. What is not in the features' distributions, such as a changed relation between
features and outcome, shows in no reweighting: these are suspects, not proofs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
import polars as pl

from selfheal_assets.core.evidence_policy import Attribution

Metric = Callable[[np.ndarray], float | None]
"""From weights of the reference's rows to a figure; None where it is undefined."""

ATTRIBUTION_SCHEMA = {
    "metric": pl.String,
    "rank": pl.Int64,
    "feature": pl.String,
    "effect": pl.Float64,
    "share": pl.Float64,
    "total_change": pl.Float64,
    "reason": pl.String,
}
_SWEEPS, _CLOSE = 200, 1e-9  # raking stops when no margin is further off; so no smaller change is one


def mean_score(probability: np.ndarray) -> Metric:
    """The weighted mean of the scores."""
    return lambda weights: float(weights @ probability / weights.sum())


def expected_auc(score: np.ndarray, calibrated: np.ndarray) -> Metric:
    """Expected ROC AUC of weighted rows, were ``calibrated`` the chance of each to be positive; ties count half.

    Source: the CBPE estimator of NannyML, with weights.
    """
    _, place = np.unique(score, return_inverse=True)

    def area(weights: np.ndarray) -> float | None:
        positive = np.bincount(place, weights * calibrated)
        negative = np.bincount(place, weights * (1 - calibrated))
        if positive.sum() <= 0 or negative.sum() <= 0:
            return None
        below = np.cumsum(negative) - negative / 2
        return float(positive @ below / (positive.sum() * negative.sum()))

    return area


def attribute_change(
    cells: pl.DataFrame, since: pl.DataFrame, metrics: Mapping[str, Metric], policy: Attribution
) -> pl.DataFrame:
    """Rank the drifted features by what the drift of each does to each metric.

    A set of features is given its new distribution by raking (iterative proportional fitting: the weights nearest to
    equal ones in relative entropy that have all these margins; Deming and Stephan 1940, Csiszár 1975), which does
    not count a change twice where features go together. A feature's effect is its Shapley value over all sets
    (Shapley 1953): the mean, over all orders, of what it adds when it comes. The effects add up to the
    change that all make together, which neither 'this one alone' nor 'all but this one' do where features interact.

    Args:
        cells: a column for each drifted feature: the cell of each reference row (str). Rows in the order of the
            metrics' weights.
        since: ``feature``, ``cell``, ``rows``: counts since the change, on the same cells (``counts_since``).
        metrics: by name.
        policy: how many features are told apart. More are ranked by how many rows moved; the rest have a reason.

    Returns:
        One row per metric and feature: ``metric``, ``rank`` (1: the largest effect), ``feature``, ``effect`` (in the
        metric's units), ``share`` (of ``total_change``, what all of them do together; they sum to 1),
        ``reason``: why there is no effect, or what the effect leaves out.

    Raises:
        ValueError: a drifted feature has no column, or there are no reference rows.
    """
    names = since["feature"].unique(maintain_order=True).to_list()
    if lacking := [n for n in names if n not in cells.columns]:
        raise ValueError(f"no cells of the reference's rows for {', '.join(lacking)}")
    if cells.is_empty() and names:
        raise ValueError("there are no reference rows to reweight")
    margins = {n: _margin(cells[n], since.filter(pl.col("feature") == n)) for n in names}
    moved = {n: m.moved for n, m in margins.items() if not isinstance(m, str)}
    told = sorted(moved, key=lambda n: -moved[n])[: policy.max_features]
    weights = _reweightings({n: margins[n] for n in told}, cells.height)
    rows = [pl.DataFrame(schema=ATTRIBUTION_SCHEMA)]
    for metric, figure in metrics.items():
        left_out = {n: _left_out(margins[n], policy) for n in names if n not in told}
        rows.append(_ranked(metric, figure, weights, told, margins, left_out, policy))
    return pl.concat(rows)


@dataclass(frozen=True)
class _Margin:
    """A feature's new shares over the cells that the reference's rows have; ``place`` is each row's cell.

    ``moved``: share of rows that would have to change cells; ``lost``: share of the new rows in other cells.
    """

    place: np.ndarray
    new: np.ndarray
    moved: float
    lost: float


def _margin(column: pl.Series, since: pl.DataFrame) -> _Margin | str:
    counts = {str(c): float(n) for c, n in since.select("cell", "rows").iter_rows()}
    total = sum(counts.values())
    names, place = np.unique(column.to_numpy().astype(str), return_inverse=True)
    new = np.array([counts.get(str(n), 0.0) for n in names])
    if not total:
        return "it has no rows since the change"
    if not new.sum():
        return "all of its rows since the change are in cells that the reference has no rows in"
    old = np.bincount(place) / len(place)
    new_shares = new / new.sum()
    return _Margin(place, new_shares, float(np.abs(new_shares - old).sum() / 2), 1 - float(new.sum()) / total)


def _left_out(margin: _Margin | str, policy: Attribution) -> str:
    if isinstance(margin, str):
        return margin
    return f"only the {policy.max_features} features that moved most are told apart (max_features)"


def _reweightings(margins: Mapping[str, _Margin | str], rows: int) -> dict[frozenset[str], np.ndarray | str]:
    """Weights for each set of features, or why there are none."""
    known = {n: m for n, m in margins.items() if isinstance(m, _Margin)}
    sets = [frozenset(s) for k in range(len(known) + 1) for s in combinations(known, k)]
    return {s: _raked([known[n] for n in known if n in s], rows) for s in sets}


def _raked(margins: Sequence[_Margin], rows: int) -> np.ndarray | str:
    weights = np.full(rows, 1 / rows) if rows else np.empty(0)
    for _ in range(_SWEEPS):
        far = 0.0
        for m in margins:
            have = np.bincount(m.place, weights, len(m.new))
            far = max(far, float(np.abs(have - m.new).max()))
            weights = weights * np.divide(m.new, have, out=np.zeros(len(have)), where=have > 0)[m.place]
        if far < _CLOSE:
            return weights
        if not weights.sum():
            break
    return "no weights of the reference's rows have all the features' new distributions at once"


def _ranked(
    metric: str,
    figure: Metric,
    weights: Mapping[frozenset[str], np.ndarray | str],
    told: Sequence[str],
    margins: Mapping[str, _Margin | str],
    left_out: Mapping[str, str],
    policy: Attribution,
) -> pl.DataFrame:
    values = {s: _value(figure, w, policy) for s, w in weights.items()}
    why = next((v for v in values.values() if isinstance(v, str)), None)
    known = {s: v for s, v in values.items() if not isinstance(v, str)}
    effects = {} if why else {n: _shapley(n, told, known) for n in told}
    total = None if why or not told else known[frozenset(told)] - known[frozenset()]
    order = sorted(told, key=lambda n: -abs(effects.get(n, 0.0)))
    rows = []
    for rank, name in enumerate(order, 1):
        margin, effect = margins[name], effects.get(name)
        lost = margin.lost if isinstance(margin, _Margin) else 0.0
        reason = why
        if not why and lost:
            reason = (
                f"{100 * lost:.1f} % of its rows are in cells that the reference has no rows in; left out"
            )
        share = effect / total if effect is not None and total is not None and abs(total) > _CLOSE else None
        if share is None and reason is None:
            reason = "together they leave the metric as it is, so there is no share"
        rows.append((metric, rank if effect is not None else None, name, effect, share, total, reason))
    rows += [(metric, None, name, None, None, total, reason) for name, reason in left_out.items()]
    return pl.DataFrame(rows, schema=ATTRIBUTION_SCHEMA, orient="row")


def _value(figure: Metric, weights: np.ndarray | str, policy: Attribution) -> float | str:
    if isinstance(weights, str):
        return weights
    effective = float(weights.sum() ** 2 / (weights**2).sum())  # Kish 1965
    if effective < policy.min_effective_rows:
        return (
            f"reweighting leaves {effective:.0f} effective reference rows; "
            f"min_effective_rows asks for {policy.min_effective_rows}"
        )
    value = figure(weights)
    if value is None or not np.isfinite(value):
        return "the metric is not defined on the reweighted reference"
    return value


def _shapley(name: str, told: Sequence[str], values: Mapping[frozenset[str], float]) -> float:
    others, n = [o for o in told if o != name], len(told)
    effect = 0.0
    for k in range(n):
        weight = factorial(k) * factorial(n - k - 1) / factorial(n)
        for s in combinations(others, k):
            effect += weight * (values[frozenset((*s, name))] - values[frozenset(s)])
    return effect
