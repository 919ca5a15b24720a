"""The cases that the gates judge by, and both models on them: what ``shadow_evaluation`` and a backtest compare."""

import polars as pl

from selfheal_assets.core import evaluation, partial_comparison
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.plan import plan_of
from selfheal_assets.stores import cases
from selfheal_assets.stores.warehouse import Warehouse
from selfheal_assets.use_case import UseCase


def scored_rows(frame: pl.DataFrame, champion: Bundle, challenger: Bundle) -> evaluation.ScoredRows:
    """Both models on the same labelled rows, each at its own threshold."""
    a, b = champion.score(frame), challenger.score(frame)
    label = frame["label"].to_numpy().astype("int8")
    return evaluation.ScoredRows(label, a, b, a >= champion.threshold, b >= challenger.threshold)


def gate_cases(
    warehouse: Warehouse, case: UseCase, champion: Bundle | None, challenger: Bundle
) -> pl.DataFrame:
    """The cases that the gates judge by: the reference's matured ones, or all of the newest months as known so far.

    The latter are later than anything either model was trained on. A first model is judged on the reference.
    """
    window = challenger.reference
    if champion is None or case.policy.gates.evidence == "matured":
        return cases.matured_cases(warehouse, case, window.as_of, window.start, window.end)
    newest = plan_of(challenger).immature_until or window.end
    start = max(newest, champion.trained_until, challenger.trained_until)
    return cases.cases_so_far(warehouse, case, window.as_of, start)


def compared(
    warehouse: Warehouse, case: UseCase, rows: pl.DataFrame, champion: Bundle, challenger: Bundle
) -> list[evaluation.Comparison]:
    """Both models on the gates' cases (:func:`gate_cases`), overall and by segment.

    Raises:
        core.metrics.UndefinedMetric: these cases cannot tell.
    """
    policy, segments = case.policy.gates, case.segments
    if policy.evidence == "matured":
        known = rows.filter(pl.col("label").is_not_null())
        scored, seed = scored_rows(known, champion, challenger), case.training.seed
        overall = evaluation.compare(scored, policy, seed)
        return overall + evaluation.compare_segments(known, scored, segments, policy, seed)
    curve = cases.timing_curve(warehouse, case, challenger.reference.as_of)
    scored = partial_comparison.PartialRows.of(rows, curve, champion.score(rows), challenger.score(rows))
    overall = partial_comparison.compare_partial(scored, policy)
    return overall + partial_comparison.compare_partial_segments(rows, scored, segments, policy)
