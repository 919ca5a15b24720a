"""The page of a replay: what would have happened, chunk by chunk, and was it worth it?"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import polars as pl

from selfheal_assets.reports import replay_figures, replay_tables
from selfheal_assets.reports.decisions import decision_entry, version
from selfheal_assets.reports.page import (
    Block,
    Entries,
    Link,
    Notice,
    Page,
    Section,
    Terms,
    Tile,
    Tone,
    render,
)
from selfheal_assets.reports.replay_timeline import timeline_figure
from selfheal_assets.reports.text import count, is_known, number

WORDS = {
    "Champion": "The model in production. Its score is the one that counts.",
    "Challenger": "A freshly trained model that wants to take over. It must pass every gate or is refused.",
    "Estimated": "Performance computed from the scores alone, on the day, before any label is known.",
    "Partial": "What the labels known so far say, case by case at its age, months after the score.",
    "Realized": "Performance measured once the labels are in, often years later. The truth, but late.",
}


def replay_page(
    chunks: pl.DataFrame,
    decisions: pl.DataFrame,
    summary: Mapping[str, Any],
    title: str,
    outcome: str = "defaults",
    plotly_js: str | None = None,
    evidence: Mapping[int, Mapping[str, Any]] | None = None,
    cards: Mapping[int, str] | None = None,
    chunk_pages: Mapping[datetime, str] | None = None,
) -> str:
    """HTML of a replay.

    Args:
        chunks: one row per chunk, in order: ``chunk`` (Datetime), ``label`` (str), ``rows``, ``labels_known``
            (int), ``estimated_auc``, ``estimated_lower``, ``estimated_upper``, the columns of
            ``core.hindsight.by_chunk`` and ``with_calibration``, ``failed_checks`` (str, comma separated),
            ``decision`` (PROMOTE, REJECT, … or ''), ``reason`` (str), ``champion`` (int, the version that scored
            the chunk). A null is 'not known'.
        decisions: ``id`` (int), ``as_of`` (Datetime), ``action``, ``reason`` (str; parts divided by '; '),
            ``champion``, ``challenger`` (int).
        summary: ``auc_healed``, ``auc_never_retrained``, ``expected_over_observed_healed``,
            ``expected_over_observed_never_retrained``, ``promotions``, ``refusals``, ``seconds``, ``period``.
        title: heading of the page.
        outcome: plural of what the label means.
        plotly_js: name of a plotly.js file beside the page; None puts plotly.js into the page (4.6 MB).
        evidence: what the ledger keeps of each decision, by its ``id``.
        cards: file of each version's model card, beside this page.
        chunk_pages: file of each chunk's drift report, likewise, by the chunk's start.
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
            Section("story", "What happened", _plots(chunks, decisions, outcome)),
            Section(
                "decisions",
                "Every decision and its evidence",
                _decisions(decisions, evidence or {}, cards or {}),
            ),
            Section("champions", "Who served when", [replay_tables.champions_table(chunks, cards or {})]),
            Section(
                "table",
                "Chunk by chunk",
                [replay_tables.chunks_table(chunks, decisions, outcome, chunk_pages or {})],
            ),
        ],
    )
    return render(page, plotly_js)


def _introduction(outcome: str) -> str:
    return (
        "Recorded history was played back day by day, with only what was known on each day. Each chunk was "
        f"scored by the champion of the time and monitored; its {outcome} became known later, one by one. "
        "Where a check failed, challengers were trained on what was known by then, and the gates decided. To "
        "tell what that was worth, the first model was kept beside it, never retrained, and both were judged "
        "on the same rows."
    )


def _span(summary: Mapping[str, Any]) -> str:
    """The period that the comparison covers."""
    period = summary.get("period")
    return str(period) if period and period != "all" else "the whole replay"


def _compared(healed: float | None, never: float | None) -> int | None:
    """1 if the first is larger, -1 if smaller, 0 if equal to three digits, None if not known."""
    if healed is None or never is None or not (is_known(healed) and is_known(never)):
        return None
    return 0 if round(healed, 3) == round(never, 3) else (1 if healed > never else -1)


def _off(ratio: float | None) -> float | None:
    """How far an expected/observed ratio is from 1, the same for half and for twice."""
    return -abs(math.log(ratio)) if ratio is not None and is_known(ratio) and ratio > 0 else None


def _verdict(summary: Mapping[str, Any], outcome: str) -> tuple[str, Tone]:
    """The comparison in a sentence: good only if neither ranking nor calibration lost, and one gained."""
    healed, never = summary.get("auc_healed"), summary.get("auc_never_retrained")
    ratios = [summary.get(f"expected_over_observed_{which}") for which in ("healed", "never_retrained")]
    ranking, calibration = _compared(healed, never), _compared(_off(ratios[0]), _off(ratios[1]))
    if ranking is None or calibration is None:
        return (
            "Not known: too few labels to compare the healed model with the never-retrained one.",
            "unknown",
        )
    ranked = {1: "ranked better than", 0: "ranked as well as", -1: "ranked worse than"}[ranking]
    forecast = {1: "nearer to", 0: "no nearer to", -1: "farther from"}[calibration]
    text = (
        f"Over {_span(summary)} the healed model {ranked} the never-retrained one (AUC {number(healed)} "
        f"against {number(never)}), and its forecast of {outcome} was {forecast} what happened "
        f"({number(ratios[0], 2)} expected for each one observed, against {number(ratios[1], 2)})."
    )
    tones: dict[bool, Tone] = {True: "good", False: "bad" if max(ranking, calibration) < 0 else "neutral"}
    return text, tones[min(ranking, calibration) >= 0 and max(ranking, calibration) > 0]


def _tiles(summary: Mapping[str, Any], outcome: str) -> list[Tile]:
    period, get = _span(summary), summary.get
    ratio = get("expected_over_observed_never_retrained")
    return [
        Tile(
            f"AUC, {period}",
            number(get("auc_healed")),
            f"{number(get('auc_never_retrained'))} never retrained",
        ),
        Tile(
            f"{outcome.capitalize()} expected for each observed, {period}",
            number(get("expected_over_observed_healed"), 2),
            f"{number(ratio, 2)} never retrained; 1 is right",
        ),
        Tile("Promotions", count(get("promotions")), f"{count(get('refusals'))} challengers refused"),
        Tile("Time it took", f"{count(get('seconds'))} s", "for the whole replay"),
    ]


def _plots(chunks: pl.DataFrame, decisions: pl.DataFrame, outcome: str) -> list[Block]:
    if chunks.is_empty():
        return [Notice("Plots: not drawn, because no chunk was replayed.")]
    return [
        replay_figures.performance_figure(chunks),
        replay_figures.calibration_figure(chunks, outcome),
        replay_figures.ratio_figure(chunks, outcome),
        timeline_figure(chunks, decisions),
    ]


def _decisions(
    decisions: pl.DataFrame, evidence: Mapping[int, Mapping[str, Any]], cards: Mapping[int, str]
) -> list[Block]:
    if decisions.is_empty():
        return [Notice("No decision was taken.")]
    rows = decisions.iter_rows(named=True)
    return [Entries([decision_entry(row, evidence.get(row["id"]), _named(row, cards)) for row in rows])]


def _named(row: Mapping[str, Any], cards: Mapping[int, str]) -> list[Link]:
    """Ways to the cards of the models that a decision names."""
    named = [v for v in (row["champion"], row["challenger"]) if v in cards]
    return [Link(f"Model card of {version(v)}", cards[v]) for v in dict.fromkeys(named)]
