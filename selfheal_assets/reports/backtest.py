"""The page of a backtest: would the loop have helped? The answer first, in words with intervals; then the figures."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from selfheal_assets.core.backtest import NEVER, ON_DRIFT, ORACLE, SELFHEAL, Backtest
from selfheal_assets.reports import backtest_figures as figures
from selfheal_assets.reports import backtest_tables as tables
from selfheal_assets.reports.page import Block, Notice, Page, Points, Section, Terms, Tile, Tone, render
from selfheal_assets.reports.text import count, is_known, moment, number, percent

WORDS = {
    "Policy": "A rule of when to train anew and what to deploy. Each lived through the same history, chunk by chunk, "
    "and saw on each day only what was known then.",
    "Oracle": "Sees every label at once. Nobody can have it: it is the ceiling.",
    "Regretted": "A promotion whose model was worse, on the labels that came later, than the one it replaced.",
    "Paired interval": "Both policies are judged on the same cases, drawn anew together: if 0 is inside, the cases "
    "do not tell them apart.",
}
_NAMES = {
    NEVER: "never retraining",
    ON_DRIFT: "retraining on every drift alarm",
    ORACLE: "an oracle that sees all labels at once",
}


def backtest_page(found: Backtest, outcome: str = "defaults", plotly_js: str | None = None) -> str:
    """HTML of a backtest.

    Args:
        found: what it found.
        outcome: plural of what the label means.
        plotly_js: name of a plotly.js file beside the page; None puts plotly.js into the page (4.6 MB).
    """
    lead = lead_of(found)
    verdict, tone = _verdict(found, lead, outcome)
    page = Page(
        title=f"Would it have helped? {found.title}",
        subtitle=f"Backtest of {len(found.policies)} policies · cases from {_day(found.compared_from)} to "
        f"{_day(found.compared_until)}, judged by the labels known in the end",
        verdict=verdict,
        tone=tone,
        tiles=_tiles(found, lead, outcome),
        sections=[
            Section("answer", "The answer, policy by policy", _answers(found, lead, outcome)),
            Section("summary", "All figures", _summary(found, lead)),
            Section("chunks", "Chunk by chunk", _chunks(found, lead, outcome)),
            Section("actions", "What each policy did", _actions(found)),
            Section("differences", f"How sure are the differences to {lead}?", _differences(found, lead)),
            Section("words", "How to read this page", [Terms(WORDS)]),
        ],
    )
    return render(page, plotly_js)


def lead_of(found: Backtest) -> str:
    """The policy that the others are compared with: the one that the differences are against, else the loop's."""
    if found.differences.height:
        return found.differences["against"][0]
    return SELFHEAL if SELFHEAL in found.policies else found.policies[0]


def named(policy: str) -> str:
    """A policy in a sentence."""
    return _NAMES.get(policy, f"retraining {policy}" if policy.startswith("every ") else f"'{policy}'")


def _day(value: Any) -> str:
    return moment(value)


def gain(found: Backtest, lead: str, other: str, metric: str) -> tuple[float, float, float] | None:
    """The lead's figure less the other's, with its interval; None where it was not compared."""
    rows = found.differences.filter(
        (pl.col("policy") == other) & (pl.col("against") == lead) & (pl.col("metric") == metric)
    )
    if rows.is_empty():
        return None
    row = rows.row(0, named=True)
    if not all(is_known(row[name]) for name in ("difference", "lower", "upper")):
        return None
    return -row["difference"], -row["upper"], -row["lower"]


def direction(found: tuple[float, float, float] | None) -> int | None:
    """1 if the interval lies above 0, -1 if below, 0 if it holds 0; None if not known."""
    if found is None:
        return None
    return 1 if found[1] > 0 else -1 if found[2] < 0 else 0


def _verdict(found: Backtest, lead: str, outcome: str) -> tuple[str, Tone]:
    """The lead against never retraining: good only where neither ranking nor calibration is proved worse."""
    other = NEVER if NEVER in found.policies else next((p for p in found.policies if p != lead), None)
    if other is None or other == lead:
        return f"Only {lead} was tried: there is nothing to compare it with.", "unknown"
    ranking, level = (gain(found, lead, other, metric) for metric in ("auc", "off_balance"))
    if ranking is None:
        return f"Not known: {lead} and {named(other)} could not be compared.", "unknown"
    ways = [direction(ranking), _nearer(level)]
    tone: Tone = "bad" if min(w for w in ways if w is not None) < 0 else "good" if 1 in ways else "neutral"
    return f"{_upper(lead)} {_sentence(found, lead, other, outcome)}", tone


def _upper(text: str) -> str:
    return text if text == SELFHEAL else text[:1].upper() + text[1:]


def _nearer(level: tuple[float, float, float] | None) -> int | None:
    """1 if the lead's balance is nearer to 1: a smaller distance is better."""
    way = direction(level)
    return None if way is None else -way


def _sentence(found: Backtest, lead: str, other: str, outcome: str) -> str:
    """``would have ranked better than …``, with figures and intervals."""
    rows = {row["policy"]: row for row in found.summary.iter_rows(named=True)}
    ours, theirs = rows[lead], rows[other]
    ranking, level = (gain(found, lead, other, metric) for metric in ("auc", "off_balance"))
    ranked = {1: "ranked better than", 0: "ranked as well as", -1: "ranked worse than", None: "been beside"}
    text = f"would have {ranked[direction(ranking)]} {named(other)}: ROC AUC {number(ours['auc'])} against "
    text += number(theirs["auc"])
    if ranking is not None:
        bounds = f"{ranking[1]:+.3f} to {ranking[2]:+.3f}"
        text += f", a difference of {ranking[0]:+.3f} ({percent(found.confidence, 0)} interval {bounds})"
    near = {1: "nearer to", 0: "as near to", -1: "farther from", None: "beside"}[_nearer(level)]
    levels = [number(row["expected_over_observed"]) for row in (ours, theirs)]
    return (
        f"{text}. Its forecast would have been {near} what happened: {levels[0]} {outcome} expected for each "
        f"observed, against {levels[1]}."
    )


def _answers(found: Backtest, lead: str, outcome: str) -> list[Block]:
    """A sentence for each other policy, and what the lead's own promotions were worth."""
    rows = {row["policy"]: row for row in found.summary.iter_rows(named=True)}
    said = []
    for other in (p for p in found.policies if p != lead):
        said.append(
            f"{_upper(lead)} {_sentence(found, lead, other, outcome)} "
            + _regrets(rows[lead], rows[other])
            + _cost(found, lead, other)
        )
    return [Points(said)] if said else [Notice(f"Only {lead} was tried.")]


def _regrets(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    pair = [
        f"{count(row['regretted_promotions'])} of {count(row['promotions'])} promotions"
        for row in (ours, theirs)
    ]
    return f"Regretted: {pair[0]}, against {pair[1]}."


def _cost(found: Backtest, lead: str, other: str) -> str:
    compared = gain(found, lead, other, "cost")
    if compared is None:
        return ""
    value, lower, upper = compared if compared[0] >= 0 else (-compared[0], -compared[2], -compared[1])
    way = "more" if compared[0] >= 0 else "less"
    return f" It would have cost {count(value)} {found.currency} {way} ({count(lower)} to {count(upper)})."


def _tiles(found: Backtest, lead: str, outcome: str) -> list[Tile]:
    rows = {row["policy"]: row for row in found.summary.iter_rows(named=True)}
    ours, never = rows[lead], rows.get(NEVER, {})
    beside = "never retrained" if never else ""
    return [
        Tile(
            f"ROC AUC, {lead}", number(ours["auc"]), f"{number(never.get('auc'))} {beside}" if never else ""
        ),
        Tile(
            f"{outcome.capitalize()} expected for each observed",
            number(ours["expected_over_observed"], 2),
            f"{number(never.get('expected_over_observed'), 2)} {beside}; 1 is right"
            if never
            else "1 is right",
        ),
        Tile("Trained anew", count(ours["retrainings"]), f"{count(ours['refusals'])} refused"),
        Tile(
            "Regretted promotions",
            count(ours["regretted_promotions"]),
            f"of {count(ours['promotions'])}; {count(ours['rollbacks'])} rolled back",
        ),
    ]


def _summary(found: Backtest, lead: str) -> list[Block]:
    return [tables.summary_table(found, lead)]


def _chunks(found: Backtest, lead: str, outcome: str) -> list[Block]:
    if found.chunks.is_empty():
        return [Notice("Plots: not drawn, because no chunk was lived through.")]
    return [
        figures.metric_figure(
            found, lead, "auc", "How well does each rank?", "ROC AUC by chunk: higher is better."
        ),
        figures.level_figure(found, lead, outcome),
        figures.metric_figure(
            found,
            lead,
            "brier",
            "How far are the probabilities off?",
            "Brier score by chunk: lower is better.",
        ),
        tables.chunks_table(found),
    ]


def _actions(found: Backtest) -> list[Block]:
    if found.actions.is_empty():
        return [Notice("No policy did anything.")]
    return [figures.actions_figure(found), tables.promotions_table(found), tables.actions_table(found)]


def _differences(found: Backtest, lead: str) -> list[Block]:
    if found.differences.is_empty():
        return [
            Notice("Differences: not computed, because no resamples were asked for, or one policy was tried.")
        ]
    return [*figures.difference_figures(found, lead), tables.differences_table(found, lead)]
