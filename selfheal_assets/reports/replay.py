"""The page of a replay: what would have happened, chunk by chunk, and was it worth it?"""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from selfheal_assets.reports import replay_figures as plots
from selfheal_assets.reports.page import (
    Block,
    Column,
    Entries,
    Entry,
    Notice,
    Page,
    Section,
    Table,
    Terms,
    Tile,
    Tone,
    render,
)
from selfheal_assets.reports.statuses import action_badge
from selfheal_assets.reports.text import UNKNOWN, count, is_known, moment, number

WORDS = {
    "Champion": "The model in production. Its score is the one that counts.",
    "Challenger": "A freshly trained model that wants to take over. It must pass every gate, or it is refused.",
    "Estimated": "Performance computed from the scores alone, on the day, before any label is known.",
    "Realized": "Performance measured once the labels are in, often years later. The truth, but late.",
}


def replay_page(
    chunks: pl.DataFrame,
    decisions: pl.DataFrame,
    summary: Mapping[str, Any],
    title: str,
    outcome: str = "defaults",
    plotly_js: str | None = None,
) -> str:
    """HTML of a replay.

    Args:
        chunks: one row per chunk, in order: ``chunk`` (Datetime), ``label`` (str), ``rows``, ``labels_known``
            (int), ``estimated_auc``, ``estimated_lower``, ``estimated_upper``, ``realized_auc``,
            ``never_retrained_auc`` (f64), ``expected``, ``observed``, ``never_retrained_expected`` (counts among
            ``rows``), ``failed_checks`` (str, comma separated), ``decision`` (PROMOTE, REJECT, … or ''),
            ``reason`` (str), ``champion`` (int, the version that scored the chunk). Nulls are 'not known'.
        decisions: ``id`` (int), ``as_of`` (Datetime), ``action``, ``reason`` (str; parts divided by '; '),
            ``champion``, ``challenger`` (int).
        summary: ``auc_healed``, ``auc_never_retrained``, ``expected_over_observed_healed``,
            ``expected_over_observed_never_retrained``, ``promotions``, ``refusals``, ``seconds``, ``period``.
        title: heading of the page.
        outcome: plural of what the label means.
        plotly_js: name of a plotly.js file beside the page; None puts plotly.js into the page (4.6 MB).
    """
    verdict, tone = _verdict(summary, outcome)
    span = (
        f"{chunks['label'][0]} to {chunks['label'][-1]}, {chunks.height} chunks"
        if chunks.height
        else "no chunks"
    )
    page = Page(
        title=title,
        subtitle=f"Replay of recorded history · {span}",
        verdict=verdict,
        tone=tone,
        tiles=_tiles(summary, outcome),
        sections=[
            Section("words", "How to read this page", [Terms(WORDS)], _introduction(outcome)),
            Section("story", "What happened", _plots(chunks, outcome)),
            Section("table", "Chunk by chunk", [_table(chunks, outcome)]),
            Section("decisions", "Every decision and its reasons", _decisions(decisions)),
        ],
    )
    return render(page, plotly_js)


def _introduction(outcome: str) -> str:
    return (
        "Recorded history was played back day by day, with only what was known on each day. Each chunk was scored by "
        f"the champion of the time and monitored. The {outcome} became known later, one by one. Where a check failed, "
        "challengers were trained on what was known by then, and the gates decided. To tell what that was worth, the "
        "first model was left in place beside it and never retrained, and both were scored on the same rows."
    )


def _compared(healed: float | None, never: float | None) -> int | None:
    """1 if the first is larger, -1 if smaller, 0 if equal to three digits, None if not known."""
    if healed is None or never is None or not (is_known(healed) and is_known(never)):
        return None
    return 0 if round(healed, 3) == round(never, 3) else (1 if healed > never else -1)


def _off(ratio: float | None) -> float | None:
    """How far an expected/observed ratio is from 1, the same for half and for twice."""
    return -abs(math.log(ratio)) if ratio is not None and is_known(ratio) and ratio > 0 else None


def _verdict(summary: Mapping[str, Any], outcome: str) -> tuple[str, Tone]:
    healed, never = summary.get("auc_healed"), summary.get("auc_never_retrained")
    ratios = [summary.get(f"expected_over_observed_{which}") for which in ("healed", "never_retrained")]
    ranking, calibration = _compared(healed, never), _compared(_off(ratios[0]), _off(ratios[1]))
    if ranking is None or calibration is None:
        return (
            "Not known: too few labels to compare the healed model with the never-retrained one.",
            "unknown",
        )
    words = {1: "better", 0: "as well", -1: "worse"}
    nearer = {1: "nearer to", 0: "as far from", -1: "farther from"}
    text = (
        (
            f"Over {summary.get('period', UNKNOWN)} the healed model ranked {words[ranking]} than the never-retrained one "
            f"(AUC {number(healed)} against {number(never)}), and its forecast of {outcome} was {nearer[calibration]} "
            f"what happened ({number(ratios[0], 2)} expected for each observed, against {number(ratios[1], 2)})."
        )
        .replace("as well than", "as well as")
        .replace("as far from what happened", "as far from what happened as its")
    )
    tone: Tone = "good" if min(ranking, calibration) >= 0 < max(ranking, calibration) else "neutral"
    return text, "bad" if max(ranking, calibration) < 0 else tone


def _tiles(summary: Mapping[str, Any], outcome: str) -> list[Tile]:
    period, get = summary.get("period", ""), summary.get
    return [
        Tile(
            f"AUC {period}",
            number(get("auc_healed")),
            f"{number(get('auc_never_retrained'))} never retrained",
        ),
        Tile(
            f"{outcome.capitalize()} expected for each observed, {period}",
            number(get("expected_over_observed_healed"), 2),
            f"{number(get('expected_over_observed_never_retrained'), 2)} never retrained; 1 is right",
        ),
        Tile("Promotions", count(get("promotions")), f"{count(get('refusals'))} challengers refused"),
        Tile("Time it took", f"{count(get('seconds'))} s", "for the whole replay"),
    ]


def _plots(chunks: pl.DataFrame, outcome: str) -> list[Block]:
    if chunks.is_empty():
        return [Notice("Plots: not drawn, because no chunk was replayed.")]
    return [
        plots.performance_figure(chunks),
        plots.calibration_figure(chunks, outcome),
        plots.timeline_figure(chunks),
    ]


def _table(chunks: pl.DataFrame, outcome: str) -> Block:
    if chunks.is_empty():
        return Notice("Table: empty, because no chunk was replayed.")
    titles = (
        "Rows", "Labels known", "AUC estimated", "AUC realized", "AUC never retrained", f"{outcome} expected",
        f"{outcome} observed", "expected, never retrained",
    )  # fmt: skip
    words = [Column("Checks that failed", False), Column("Decision", False)]
    columns = [Column("Chunk", False), *map(Column, titles), *words, Column("Champion")]
    return Table("One row per chunk; a decision opens to its reason.", columns, [
        [
            r["label"], count(r["rows"]), count(r["labels_known"]), number(r["estimated_auc"]),
            number(r["realized_auc"]), number(r["never_retrained_auc"]), count(r["expected"]), count(r["observed"]),
            count(r["never_retrained_expected"]), (r["failed_checks"] or "").replace(",", ", "),
            action_badge(r["decision"], r["reason"] or "") if r["decision"] else "", _version(r["champion"]),
        ]
        for r in chunks.iter_rows(named=True)
    ])  # fmt: skip


def _version(version: int | None) -> str:
    return UNKNOWN if version is None else f"v{version}"


def _decisions(decisions: pl.DataFrame) -> list[Block]:
    if decisions.is_empty():
        return [Notice("No decision was taken.")]
    return [Entries([_entry(row) for row in decisions.iter_rows(named=True)])]


def _entry(row: dict[str, Any]) -> Entry:
    who = f"champion {_version(row['champion'])}"
    who += f", challenger {_version(row['challenger'])}" if row["challenger"] is not None else ""
    badge = action_badge(row["action"])
    reasons = [part.strip() for part in (row["reason"] or "no reason recorded").split(";") if part.strip()]
    headline = f"{moment(row['as_of'])} · {who}"
    return Entry(f"decision-{row['id']}", badge, headline, reasons)
