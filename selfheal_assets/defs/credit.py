"""The credit view of a chunk's report: rows of the marts in, tables of the core out."""

from collections.abc import Callable
from datetime import datetime
from functools import partial

import polars as pl

from selfheal_assets.core import credit
from selfheal_assets.core.periods import add_months, chunk_label, chunk_start, shift_chunks
from selfheal_assets.core.policies import CreditPolicy
from selfheal_assets.core.stability import SCORE, stability_table
from selfheal_assets.defs.resources import Chunk, Stores
from selfheal_assets.reports.credit import CreditView
from selfheal_assets.stores.credit_marts import last_swap_set, mart_rows, missing_marts

PARTS = ("stability", "bands", "ranking", "vintages", "impact", "swap")


def credit_view(stores: Stores, chunk: Chunk, policy: CreditPolicy) -> CreditView:
    """What the chunk's page says in credit's own terms.

    Stability and adverse impact are the chunk's; score bands and ranking are those of the newest cohorts that are
    mature at its end, vintages those of every cohort since.
    """
    if missing := missing_marts(stores.warehouse):
        return CreditView(not_computed=dict.fromkeys(PARTS, f"dbt has not built {', '.join(missing)}"))
    period = stores.case.monitoring.chunk
    mature = chunk_start(add_months(chunk.start, -stores.case.label.horizon_months), period)
    first_mature = shift_chunks(mature, period, 1 - policy.cohorts)
    first = shift_chunks(chunk.start, period, 1 - policy.cohorts)
    rows = partial(mart_rows, stores.warehouse)
    bands = rows("fct_score_bands", first_mature, mature)
    swap, swapped = _swap_set(stores, chunk, first_mature)
    every: dict[str, tuple[pl.DataFrame, Callable[[pl.DataFrame, CreditPolicy], pl.DataFrame]]] = {
        "stability": (rows("fct_stability", chunk.start, chunk.start), stability_table),
        "score_stability": (rows("fct_stability", first, chunk.start, kind=SCORE), stability_table),
        "bands": (bands, credit.score_bands),
        "ranking": (rows("fct_ranking", first_mature, mature), credit.ranking),
        "vintages": (rows("fct_vintage_curves", mature, chunk.start), credit.vintages),
        "impact": (rows("fct_group_approvals", chunk.start, chunk.start), credit.adverse_impact),
        "swap": (swap, credit.swap_set),
    }
    known = [bands["cohort"].min(), bands["cohort"].max()] if bands.height else []
    return CreditView(
        **{name: judge(found, policy) for name, (found, judge) in every.items() if not found.is_empty()},
        psi_bands=policy.psi_bands,
        least_ratio=policy.min_adverse_impact_ratio,
        banded=tuple(chunk_label(c, period) for c in known) if known else ("", ""),  # type: ignore[arg-type]
        swapped=swapped,
        not_computed=_reasons(stores, chunk, mature),
    )


def _swap_set(stores: Stores, chunk: Chunk, since: datetime) -> tuple[pl.DataFrame, str]:
    """Cases that both models scored live; without any, those of the last evaluation. And which these are."""
    shadowed = mart_rows(stores.warehouse, "fct_swap_set", since, chunk.start)
    if not shadowed.is_empty():
        newest = shadowed.row(-1, named=True)
        pair = ["champion_version", "challenger_version", "challenger_role"]
        same = shadowed.filter(*(pl.col(name) == newest[name] for name in pair))
        return same, (
            f"champion v{newest['champion_version']} and {newest['challenger_role']} v{newest['challenger_version']} "
            "on the cases that both scored live"
        )
    evaluated = last_swap_set(stores.warehouse, chunk.end)
    if evaluated.is_empty():
        return evaluated, ""
    versions = evaluated.row(0, named=True)
    return evaluated, (
        f"champion v{versions['champion_version']} and challenger v{versions['challenger_version']} on the matured "
        f"cases of the evaluation of {versions['as_of']:%Y-%m-%d}"
    )


def _reasons(stores: Stores, chunk: Chunk, mature: datetime) -> dict[str, str]:
    """Why a part may be empty."""
    period, months = stores.case.monitoring.chunk, stores.case.label.horizon_months
    young = (
        f"no prediction is mature: the newest mature cohort is {chunk_label(mature, period)}, {months} months ago, "
        "and nothing was served then"
    )
    nothing = f"nothing was served in {chunk.label}"
    return {
        "stability": nothing,
        "vintages": nothing,
        "impact": nothing if stores.case.segments else "the use case names no segments",
        "bands": young,
        "ranking": young,
        "swap": "no challenger was compared with a champion yet, and no case was scored by both "
        f"(serving.shadow is '{stores.case.serving.shadow}')",
    }
