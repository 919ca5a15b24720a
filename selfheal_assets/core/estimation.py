"""Estimated performance of a chunk: two estimators, the one its own backtest prefers, and whether to trust it.

*CBPE* calibrates by the reference's scores alone; the *weighted* estimator weights the reference to look like the
chunk first. Which is nearer the truth depends on how the inputs shifted, which the reference's own calm history does
not show. So the backtest (``core.reference_rows``) is tilted: chunks are redrawn from held-out reference rows by the
same weights, and there the labels are known. What it finds holds for this chunk only if the weighted reference really
looks like it, which is checked first, without labels; where it does not, CBPE is used and not trusted.

Nothing here sees the chunk's labels. A change of P(positive | inputs) moves neither estimate: estimates may start a
look, they never certify health (docs/decisions/0014-choosing-the-estimator.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from scipy.stats import norm

from selfheal_assets.core.calibration import CannotCalibrate, IsotonicMap, fit_isotonic, plain_map
from selfheal_assets.core.density_ratio import Inputs
from selfheal_assets.core.evidence_policy import Estimation
from selfheal_assets.core.expected import POSSIBLE, expected_metrics
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.policies import Costs
from selfheal_assets.core.reference_rows import CBPE, WEIGHTED, Coverage, ReferenceRows, backtest, coverage
from selfheal_assets.core.sampling_error import sampling_errors
from selfheal_assets.core.score_groups import ScoreGroups, groups_of_rows

Array = np.ndarray

# KS is a maximum: redrawn rows repeat, which raises it, and so the backtest favours whoever overestimates it. It
# follows the ROC AUC, which the same two curves decide and which repeated rows do not bias.
CHOSEN_WITH: Final = {"ks": "roc_auc"}

ESTIMATE_SCHEMA: Final = {
    "metric": pl.String,
    "value": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "standard_error": pl.Float64,
    "rows": pl.Int64,
    "unit": pl.String,
    "estimator": pl.String,
    "own_error": pl.Float64,
    "value_cbpe": pl.Float64,
    "value_weighted": pl.Float64,
    "trusted": pl.Boolean,
    "status": pl.String,
    "reason": pl.String,
}


@dataclass(frozen=True)
class ChunkRows:
    """A chunk of predictions, no labels: arrays over the same rows."""

    inputs: Inputs
    flagged: Array


def estimate_chunk(
    reference: ReferenceRows,
    chunk: ChunkRows,
    policy: Estimation,
    costs: Costs | None = None,
    seed: int = 0,
    plain: IsotonicMap | None = None,
    regroup: Callable[[IsotonicMap], ScoreGroups] | None = None,
) -> pl.DataFrame:
    """Every metric of a chunk, by both estimators.

    Args:
        reference: labelled rows that the champion was not trained on.
        chunk: its rows, or, where it is large, a random sample of them.
        policy: limits.
        costs: of the business value.
        seed: of folds, draws and samples.
        plain: CBPE's map, where it has been fitted already.
        regroup: the chunk's groups under a map, where they are counted elsewhere over all its rows; by default
            those of ``chunk``.

    Returns:
        One row per metric (``ESTIMATE_SCHEMA``): ``value`` and its interval ``lower``–``upper`` (from the larger of
        the standard error and the estimator's own past error), the ``standard_error`` of a chunk of this size,
        ``rows``, ``unit``, the ``estimator`` chosen and ``own_error``, its mean absolute error in the backtest; both
        estimators' values; ``trusted``; ``status`` (INSUFFICIENT_DATA where there is no value); ``reason``: why there
        is none, or why it is not trusted, or what was left out.
    """
    finite = np.isfinite(chunk.inputs.score)
    scored = ChunkRows(chunk.inputs.take(finite), chunk.flagged[finite])
    left_out = f"{int((~finite).sum())} of {len(finite)} scores are not finite and are left out"
    note = left_out if not finite.all() else None
    rows = len(scored.inputs)
    if missing := _missing(reference, rows, policy):
        return insufficient(rows, _said(missing, note))
    try:
        plain = plain or plain_map(reference.inputs.score, reference.label)
    except CannotCalibrate as error:
        return insufficient(rows, str(error))
    sample, inputs = _sampled(reference, scored.inputs, policy, seed)
    cover = coverage(sample, inputs, policy, seed)
    weighted = fit_isotonic(sample.inputs.score, sample.label, cover.weight)
    regroup = regroup or (
        lambda m: groups_of_rows(scored.inputs.score, m(scored.inputs.score), scored.flagged)
    )
    values = {CBPE: regroup(plain), WEIGHTED: regroup(weighted)}
    errors = backtest(sample, cover, round(values[CBPE].total), policy, costs, seed)
    return _table(values, errors, cover, policy, costs, seed, note)


def _missing(reference: ReferenceRows, rows: int, policy: Estimation) -> str | None:
    """What estimating needs and is not there."""
    if rows < policy.min_rows:
        return f"{rows} scored rows; estimation.min_rows asks for {policy.min_rows}"
    rarer = int(min(reference.label.sum(), len(reference.label) - reference.label.sum()))
    if rarer < policy.min_class_rows:
        return (
            f"the reference has {rarer} rows of its rarer class; estimation.min_class_rows asks for "
            f"{policy.min_class_rows}"
        )
    return None


def _sampled(
    reference: ReferenceRows, chunk: Inputs, policy: Estimation, seed: int
) -> tuple[ReferenceRows, Inputs]:
    """At most ``max_rows`` rows of each side, in their order."""
    rng = np.random.default_rng(seed)

    def picks(rows: int) -> Array:
        if rows <= policy.max_rows:
            return np.arange(rows)
        return np.sort(rng.choice(rows, policy.max_rows, replace=False))

    return reference.take(picks(len(reference.label))), chunk.take(picks(len(chunk)))


def _table(
    groups: dict[str, ScoreGroups],
    errors: pl.DataFrame,
    cover: Coverage,
    policy: Estimation,
    costs: Costs | None,
    seed: int,
    note: str | None,
) -> pl.DataFrame:
    spread = {name: sampling_errors(g, costs, seed) for name, g in groups.items()}
    own = {row["metric"]: row for row in errors.iter_rows(named=True)}
    values = zip(*(expected_metrics(g, costs).iter_rows(named=True) for g in groups.values()), strict=True)
    rows = []
    for plain, weighted in values:
        metric = plain["metric"]
        past = own.get(metric, {CBPE: None, WEIGHTED: None})
        deciding = own.get(CHOSEN_WITH.get(metric, metric), past)
        chosen = WEIGHTED if _prefers_weighted(deciding, weighted["value"]) else CBPE
        value = (weighted if chosen == WEIGHTED else plain)["value"]
        known = {
            "metric": metric,
            "rows": round(groups[CBPE].total),
            "unit": plain["unit"],
            "estimator": chosen,
            "value_cbpe": plain["value"],
            "value_weighted": weighted["value"],
        }
        if value is None:
            why = {
                "trusted": False,
                "status": Status.insufficient.value,
                "reason": _said(plain["reason"], note),
            }
            rows.append(known | why)
            continue
        error = spread[chosen].get(metric)
        doubts = _doubts(plain["value"], weighted["value"], error, cover, policy)
        told = {"trusted": not doubts, "status": Status.passed.value, "reason": _said(*doubts, note)}
        rows.append(
            known | told | {"value": value} | interval(value, plain["unit"], error, past[chosen], policy)
        )
    return pl.DataFrame(rows, schema=ESTIMATE_SCHEMA)


def _said(*reasons: str | None) -> str | None:
    return "; ".join(r for r in reasons if r) or None


def interval(
    value: float, unit: str, error: float | None, own_error: float | None, policy: Estimation
) -> dict[str, float | None]:
    """Both errors hold chance and, in the backtest's, the estimator's bias; the larger rules.

    A mean absolute error is √(π/2) times smaller than a standard deviation, for normal errors.
    """
    known = {"standard_error": error, "own_error": own_error}
    if error is None:
        return known
    z = float(norm.ppf(0.5 + policy.confidence / 2))
    half = z * max(error, (own_error or 0.0) * float(np.sqrt(np.pi / 2)))
    least, most = POSSIBLE.get(unit, (-np.inf, np.inf))
    return known | {"lower": max(value - half, least), "upper": min(value + half, most)}


def _prefers_weighted(past: dict[str, float | None], value: float | None) -> bool:
    plain, weighted = past[CBPE], past[WEIGHTED]
    return value is not None and plain is not None and weighted is not None and weighted < plain


def _doubts(
    plain: float | None, weighted: float | None, error: float | None, cover: Coverage, policy: Estimation
) -> list[str]:
    """Why an estimate is not to be trusted."""
    doubts = []
    if not cover.balanced:
        doubts.append(str(cover.complaint()))
    if plain is not None and weighted is not None and error is not None:
        apart = abs(plain - weighted)
        if apart > policy.disagreement * error:
            doubts.append(
                f"the estimators disagree by {apart:.3g}, more than {policy.disagreement:g} standard errors "
                f"of {error:.3g}"
            )
    return doubts


def insufficient(rows: int, reason: str | None) -> pl.DataFrame:
    """The table of a chunk that cannot be estimated."""
    empty = groups_of_rows(np.empty(0), np.empty(0), np.empty(0, dtype=bool))
    metrics = expected_metrics(empty).select("metric", "unit")
    known = {
        "rows": rows, "trusted": False, "status": Status.insufficient.value, "reason": reason,
    }  # fmt: skip
    return pl.DataFrame(
        [{"metric": m, "unit": u, **known} for m, u in metrics.iter_rows()], schema=ESTIMATE_SCHEMA
    )
