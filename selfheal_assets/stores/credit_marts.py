"""Rows of the credit marts for a span of cohorts, and the swap sets of past evaluations."""

from datetime import datetime

import polars as pl

from selfheal_assets.stores.warehouse import Warehouse

SWAPS = "swap_set"
MARTS = (
    "fct_stability",
    "fct_score_bands",
    "fct_ranking",
    "fct_vintage_curves",
    "fct_swap_set",
    "fct_group_approvals",
)


def missing_marts(warehouse: Warehouse) -> list[str]:
    """The credit marts that dbt has not built."""
    there = warehouse.query("select view_name from duckdb_views() where schema_name = 'main'")["view_name"]
    return sorted(set(MARTS) - set(there))


def mart_rows(
    warehouse: Warehouse, mart: str, since: datetime, until: datetime, **where: str
) -> pl.DataFrame:
    """Rows of a credit mart with cohorts in [since, until], by cohort; the marts stand at the warehouse's clock.

    ``where`` are further equalities.
    """
    also = "".join(f" and {column} = ?" for column in where)
    return warehouse.query(
        f"select * from {mart} where cohort >= ? and cohort <= ?{also} order by cohort",
        [since, until, *where.values()],
    )


def save_swap_set(
    warehouse: Warehouse, as_of: datetime, champion: int, challenger: int, counts: pl.DataFrame
) -> None:
    """Keep how champion and challenger would have decided on the cases that they were compared on."""
    named = counts.with_columns(
        as_of=pl.lit(as_of).cast(pl.Datetime("us")),
        champion_version=pl.lit(champion, dtype=pl.Int64),
        challenger_version=pl.lit(challenger, dtype=pl.Int64),
    )
    warehouse.replace(SWAPS, named, {"challenger_version": challenger})


def last_swap_set(warehouse: Warehouse, as_of: datetime) -> pl.DataFrame:
    """The swap set of the newest evaluation at or before ``as_of``; empty where there was none."""
    if not warehouse.has(SWAPS):
        return pl.DataFrame()
    return warehouse.query(
        f"""select * from {SWAPS} where as_of <= ?
            qualify rank() over (order by as_of desc, challenger_version desc) = 1""",
        [as_of],
    )
