"""The tables of a replay's page: the chunks with what was known and what came out, and who served when."""

from bisect import bisect_left
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import polars as pl

from selfheal_assets.reports.decisions import anchor, version
from selfheal_assets.reports.page import Block, Cell, Column, Link, Notice, Table
from selfheal_assets.reports.replay_timeline import stretches
from selfheal_assets.reports.statuses import action_badge
from selfheal_assets.reports.text import check_name, count, interval, moment, number


def chunks_table(
    chunks: pl.DataFrame, decisions: pl.DataFrame, outcome: str, pages: Mapping[datetime, str]
) -> Block:
    """One row per chunk; its name leads to its drift report, its decision to the evidence.

    Args:
        chunks, decisions: as ``replay.replay_page`` takes them.
        outcome: plural of what the label means.
        pages: file of each chunk's drift report.
    """
    if chunks.is_empty():
        return Notice("Table: empty, because no chunk was replayed.")
    titles = (
        "Rows", "Labels known", "AUC estimated", "AUC realized", "its interval", "AUC never retrained",
        f"{outcome.capitalize()} expected", f"{outcome.capitalize()} observed", "Expected, never retrained",
    )  # fmt: skip
    words = [Column("Checks that failed", False), Column("Decision", False)]
    columns = [Column("Chunk", False), *map(Column, titles), *words, Column("Champion")]
    places = _last_decisions(chunks, decisions)
    rows = [
        _row(row, places.get(row["chunk"]), pages.get(row["chunk"])) for row in chunks.iter_rows(named=True)
    ]
    return Table("One row per chunk; a decision leads to its evidence.", columns, rows)


def _last_decisions(chunks: pl.DataFrame, decisions: pl.DataFrame) -> dict[datetime, int]:
    """Number of the last decision taken in each chunk, or at its end."""
    if decisions.is_empty():
        return {}
    starts = chunks["chunk"].to_list()
    placed = [(bisect_left(starts, at) - 1, number) for number, at in decisions.select("id", "as_of").rows()]
    return {starts[index]: number for index, number in placed if index >= 0}


def _row(row: dict[str, Any], decision: int | None, page: str | None) -> list[Cell]:
    checks = [check.strip() for check in (row["failed_checks"] or "").split(",")]
    return [
        Link(row["label"], page) if page else row["label"],
        count(row["rows"]),
        count(row["labels_known"]),
        number(row["estimated_auc"]),
        number(row["realized_auc"]),
        interval(row["realized_lower"], row["realized_upper"]),
        number(row["never_retrained_auc"]),
        count(row["expected"]),
        count(row["observed"]),
        count(row["never_retrained_expected"]),
        ", ".join(check_name(check) for check in checks),
        action_badge(row["decision"], row["reason"] or "", f"#{anchor(decision)}" if decision else "")
        if row["decision"]
        else "",
        version(row["champion"]),
    ]


def champions_table(chunks: pl.DataFrame, cards: Mapping[int, str]) -> Block:
    """One row for each stretch with the same champion.

    Args:
        chunks: as ``replay.replay_page`` takes them.
        cards: file of each version's model card.
    """
    if chunks.is_empty():
        return Notice("Nobody served, because no chunk was replayed.")
    columns = [
        Column("Champion", False), Column("From"), Column("Until"), Column("Chunks"), Column("Rows"),
        Column("Model card", False),
    ]  # fmt: skip
    spans = stretches(chunks)
    rows = [
        [
            version(row["champion"]),
            moment(row["chunk"]),
            moment(row["end"]) if number_of_row < spans.height else "still serving",
            count(row["chunks"]),
            count(row["rows"]),
            Link(f"card of {version(row['champion'])}", cards[row["champion"]])
            if row["champion"] in cards
            else "",
        ]
        for number_of_row, row in enumerate(spans.iter_rows(named=True), 1)
    ]
    return Table("Which version answered, by the chunks that it scored", columns, rows)
