"""Evaluate: champion and challenger on the same later cases, as the gates will read it."""

import dagster as dg
import polars as pl

from selfheal_assets.core import evaluation, metrics
from selfheal_assets.core.bundle import Bundle
from selfheal_assets.core.credit import swap_counts
from selfheal_assets.defs.resources import Context, Stores, StoresParam, table_metadata
from selfheal_assets.defs.retrain import GROUP, shadow_models
from selfheal_assets.stores import cases
from selfheal_assets.stores.credit_marts import save_swap_set
from selfheal_assets.stores.gate_rows import compared as compared_models
from selfheal_assets.stores.gate_rows import gate_cases, scored_rows


def challenger_of(stores: Stores) -> tuple[int, Bundle]:
    """Version and bundle of the newest challenger.

    Raises:
        LookupError: none is registered.
    """
    version = stores.registry.aliased("challenger")
    if version is None:
        raise LookupError("no challenger is registered: materialize shadow_models first")
    return version, stores.registry.load(version)


@dg.asset(group_name=GROUP, kinds={"duckdb"}, deps=[shadow_models])
def shadow_evaluation(context: Context, stores: StoresParam) -> dg.MaterializeResult:
    """Champion and challenger on the same cases, later than anything either was trained on.

    On matured labels F1, Brier score and ROC AUC; on labels so far log loss, ROC AUC and expected over observed.
    Each with one-sided bounds of the paired difference, and the ranking (or F1) by segment.
    """
    version, challenger = challenger_of(stores)
    champion = stores.registry.load_champion()
    window, compared = challenger.reference, []
    rows = gate_cases(stores.warehouse, stores.case, champion[1] if champion else None, challenger)
    if champion and champion[0] != version:
        _save_swap_set(stores, *champion, version, challenger)
        try:
            compared = compared_models(stores.warehouse, stores.case, rows, champion[1], challenger)
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
