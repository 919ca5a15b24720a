"""Evaluate: champion and challenger on the same later cases, as the gates will read it."""

import dagster as dg
import polars as pl

from selfheal_assets.core import evaluation, metrics, partial_comparison
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.credit import swap_counts
from selfheal_assets.core.plan import plan_of
from selfheal_assets.defs.resources import Context, Stores, StoresParam, table_metadata
from selfheal_assets.defs.retrain import GROUP, shadow_models
from selfheal_assets.stores import cases
from selfheal_assets.stores.credit_marts import save_swap_set


def challenger_of(stores: Stores) -> tuple[int, Bundle]:
    """Version and bundle of the newest challenger.

    Raises:
        LookupError: none is registered.
    """
    version = stores.registry.aliased("challenger")
    if version is None:
        raise LookupError("no challenger is registered: materialize shadow_models first")
    return version, stores.registry.load(version)


def scored_rows(frame: pl.DataFrame, champion: Bundle, challenger: Bundle) -> evaluation.ScoredRows:
    """Both models on the same labelled rows, each at its own threshold."""
    a, b = champion.score(frame), challenger.score(frame)
    label = frame["label"].to_numpy().astype("int8")
    return evaluation.ScoredRows(label, a, b, a >= champion.threshold, b >= challenger.threshold)


def gate_cases(stores: Stores, champion: Bundle | None, challenger: Bundle) -> pl.DataFrame:
    """The cases that the gates judge by: the reference's matured ones, or all of the newest months as known so far.

    The latter are later than anything either model was trained on. A first model is judged on the reference.
    """
    window, case = challenger.reference, stores.case
    if champion is None or case.policy.gates.evidence == "matured":
        return cases.matured_cases(stores.warehouse, case, window.as_of, window.start, window.end)
    newest = plan_of(challenger).immature_until or window.end
    start = max(newest, champion.trained_until, challenger.trained_until)
    return cases.cases_so_far(stores.warehouse, case, window.as_of, start)


def _compared(
    stores: Stores, rows: pl.DataFrame, champion: Bundle, challenger: Bundle
) -> list[evaluation.Comparison]:
    """Both models on the gates' cases, overall and by segment.

    Raises:
        metrics.UndefinedMetric: these cases cannot tell.
    """
    policy, segments = stores.case.policy.gates, stores.case.segments
    if policy.evidence == "matured":
        known = rows.filter(pl.col("label").is_not_null())
        scored, seed = scored_rows(known, champion, challenger), stores.case.training.seed
        overall = evaluation.compare(scored, policy, seed)
        return overall + evaluation.compare_segments(known, scored, segments, policy, seed)
    curve = cases.timing_curve(stores.warehouse, stores.case, challenger.reference.as_of)
    scored = partial_comparison.PartialRows.of(rows, curve, champion.score(rows), challenger.score(rows))
    overall = partial_comparison.compare_partial(scored, policy)
    return overall + partial_comparison.compare_partial_segments(rows, scored, segments, policy)


@dg.asset(group_name=GROUP, kinds={"duckdb"}, deps=[shadow_models])
def shadow_evaluation(context: Context, stores: StoresParam) -> dg.MaterializeResult:
    """Champion and challenger on the same cases, later than anything either was trained on.

    On matured labels F1, Brier score and ROC AUC; on labels so far log loss, ROC AUC and expected over observed.
    Each with one-sided bounds of the paired difference, and the ranking (or F1) by segment.
    """
    version, challenger = challenger_of(stores)
    champion = stores.registry.load_champion()
    window, compared = challenger.reference, []
    rows = gate_cases(stores, champion[1] if champion else None, challenger)
    if champion and champion[0] != version:
        _save_swap_set(stores, *champion, version, challenger)
        try:
            compared = _compared(stores, rows, champion[1], challenger)
        except metrics.UndefinedMetric as error:
            context.log.warning(f"no comparison: {error}")
    elif not champion:
        compared = _alone(rows.filter(pl.col("label").is_not_null()), challenger)
    table = _comparison_table(compared, window.as_of, champion[0] if champion else None, version)
    stores.save_table("shadow_evaluation", table, {"challenger": version})
    return dg.MaterializeResult(
        metadata={
            "challenger": version,
            "champion": champion[0] if champion else "none yet",
            "evidence": stores.case.policy.gates.evidence if champion else "matured",
            "cases": rows.height,
            "from": f"{rows['event_time'][0]:%Y-%m-%d}" if rows.height else "no case",
            "as_of": f"{window.as_of:%Y-%m-%d}",
            "dagster/row_count": table.height,
            "comparison": table_metadata(table),
        }
    )


def _save_swap_set(
    stores: Stores, champion_version: int, champion: Bundle, version: int, challenger: Bundle
) -> None:
    """Who is approved by one and refused by the other, on the reference's matured cases."""
    window = challenger.reference
    rows = cases.matured_cases(stores.warehouse, stores.case, window.as_of, window.start, window.end)
    counts = swap_counts(scored_rows(rows.filter(pl.col("label").is_not_null()), champion, challenger))
    save_swap_set(stores.warehouse, window.as_of, champion_version, version, counts)


def _alone(rows: pl.DataFrame, bundle: Bundle) -> list[evaluation.Comparison]:
    """Held-out figures of a first model: it has nobody to be compared with, so it stands on both sides."""
    label, p = rows["label"].to_numpy(), bundle.score(rows)
    auc = metrics.roc_auc(label, p)
    size, positives = len(label), int(label.sum())
    return [evaluation.Comparison("roc_auc", auc, auc, 0.0, 0.0, size, positives)]


def _comparison_table(compared, as_of, champion: int | None, challenger: int) -> pl.DataFrame:
    schema = {
        "segment": pl.String,
        "metric": pl.String,
        "champion_value": pl.Float64,
        "challenger_value": pl.Float64,
        "lower": pl.Float64,
        "upper": pl.Float64,
        "rows": pl.Int64,
        "positives": pl.Int64,
    }
    rows = [
        (c.segment, c.metric, c.champion, c.challenger, c.lower, c.upper, c.rows, c.positives)
        for c in compared
    ]
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        as_of=pl.lit(as_of).cast(pl.Datetime("us")),
        champion=pl.lit(champion, dtype=pl.Int64),
        challenger=pl.lit(challenger, dtype=pl.Int64),
    )
