"""Estimated performance of a chunk: two estimators, the one its own backtest prefers, and whether to trust it.

*CBPE* calibrates by the reference's scores alone; the *weighted* estimator weights the reference to look like the
chunk first. Which is nearer the truth depends on how the inputs shifted, which the reference's own calm history does
not show. So the backtest is tilted: chunks are redrawn from reference rows held out of the map, by the same weights,
and there the labels are known. What it finds holds for this chunk only if the weighted reference really looks like it,
which is checked first, without labels; where it does not, CBPE is used and not trusted.

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
from selfheal_assets.core.expected import ScoreGroups, expected_metrics, groups_of_rows
from selfheal_assets.core.monitoring import Status
from selfheal_assets.core.reference_rows import CBPE, WEIGHTED, Coverage, ReferenceRows, backtest, coverage
from selfheal_assets.core.sampling_error import sampling_errors
from selfheal_assets.core.spec import Costs, Estimation

Array = np.ndarray

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
        One row per metric (``ESTIMATE_SCHEMA``): ``value`` and its interval ``lower``–``upper``, the ``standard_error``
        of a chunk of this size, ``rows``, ``unit``, the ``estimator`` chosen and ``own_error``, its mean absolute error
        in the backtest; both estimators' values; ``trusted``; ``status`` (INSUFFICIENT_DATA where there is no value);
        ``reason``: why there is none, or why it is not trusted, or what was left out.
    """
    finite = np.isfinite(chunk.inputs.score)
    scored = ChunkRows(chunk.inputs.take(finite), chunk.flagged[finite])
    left_out = f"{int((~finite).sum())} of {len(finite)} scores are not finite and are left out"
    note = left_out if not finite.all() else None
    if len(scored.inputs) < policy.min_rows:
        need = f"{len(scored.inputs)} scored rows; estimation.min_rows asks for {policy.min_rows}"
        return _insufficient(len(scored.inputs), need if note is None else f"{need}; {note}")
    rarer = int(min(reference.label.sum(), len(reference.label) - reference.label.sum()))
    if rarer < policy.min_class_rows:
        need = (
            f"the reference has {rarer} rows of its rarer class; estimation.min_class_rows asks for "
            f"{policy.min_class_rows}"
        )
        return _insufficient(len(scored.inputs), need)
    try:
        plain = plain or plain_map(reference.inputs.score, reference.label)
    except CannotCalibrate as error:
        return _insufficient(len(scored.inputs), str(error))
    sample, inputs = _sampled(reference, scored.inputs, policy, seed)
    cover = coverage(sample, inputs, policy, seed)
    weighted = fit_isotonic(sample.inputs.score, sample.label, cover.weight)
    regroup = regroup or (
        lambda m: groups_of_rows(scored.inputs.score, m(scored.inputs.score), scored.flagged)
    )
    values = {CBPE: regroup(plain), WEIGHTED: regroup(weighted)}
    errors = backtest(sample, cover, len(scored.inputs), policy, costs, seed)
    return _table(values, errors, cover, policy, costs, seed, note)


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
    estimates = {name: expected_metrics(g, costs) for name, g in groups.items()}
    spread = {name: sampling_errors(g, costs, seed) for name, g in groups.items()}
    own = {row["metric"]: row for row in errors.iter_rows(named=True)}
    z = float(norm.ppf(0.5 + policy.confidence / 2))
    rows = []
    for plain, weighted in zip(*(e.iter_rows(named=True) for e in estimates.values()), strict=True):
        metric = plain["metric"]
        past = own.get(metric, {CBPE: None, WEIGHTED: None})
        name = WEIGHTED if _prefers_weighted(past, weighted["value"]) else CBPE
        value = weighted["value"] if name == WEIGHTED else plain["value"]
        error, own_error = spread[name].get(metric), past[name]
        doubts = [] if value is None else _doubts(plain["value"], weighted["value"], error, cover, policy)
        why = [plain["reason"]] if value is None else doubts
        half = (
            None if value is None or error is None else z * max(error, (own_error or 0) * np.sqrt(np.pi / 2))
        )
        rows.append(
            {
                "metric": metric,
                "value": value,
                "lower": None if half is None else value - half,
                "upper": None if half is None else value + half,
                "standard_error": error if value is not None else None,
                "rows": round(groups[CBPE].total),
                "unit": plain["unit"],
                "estimator": name,
                "own_error": own_error,
                "value_cbpe": plain["value"],
                "value_weighted": weighted["value"],
                "trusted": value is not None and not doubts,
                "status": (Status.insufficient if value is None else Status.passed).value,
                "reason": "; ".join(x for x in [*why, note] if x) or None,
            }
        )
    return pl.DataFrame(rows, schema=ESTIMATE_SCHEMA)


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
                f"the estimators disagree by {apart:.3g}, more than {policy.disagreement:g} standard errors of {error:.3g}"
            )
    return doubts


def _insufficient(rows: int, reason: str) -> pl.DataFrame:
    """The table of a chunk that cannot be estimated."""
    empty = groups_of_rows(np.empty(0), np.empty(0), np.empty(0, dtype=bool))
    metrics = expected_metrics(empty).select("metric", "unit")
    known = {
        "rows": rows, "trusted": False, "status": Status.insufficient.value, "reason": reason,
    }  # fmt: skip
    return pl.DataFrame(
        [{"metric": m, "unit": u, **known} for m, u in metrics.iter_rows()], schema=ESTIMATE_SCHEMA
    )
