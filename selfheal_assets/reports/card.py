"""The model card of one registered version: what it was made from, how good it is, its limits, its history."""

import polars as pl

from selfheal_assets.core.model_card import ModelCard
from selfheal_assets.reports import card_figures as figures
from selfheal_assets.reports import card_tables as tables
from selfheal_assets.reports.decisions import anchor, decision_entry
from selfheal_assets.reports.page import (
    PLOTLY_JS,
    Block,
    Entries,
    Link,
    Notice,
    Page,
    Points,
    Section,
    Tile,
    Tone,
    render,
)
from selfheal_assets.reports.text import count, interval, moment, number, percent

TONES: dict[str, Tone] = {"champion": "good", "quarantined": "bad"}
REPLAY = "replay.html"


def card_page(
    card: ModelCard, title: str, outcome: str, plotly_js: str | None = PLOTLY_JS, replayed: bool = False
) -> str:
    """HTML of a card.

    Args:
        card: what is told of the version.
        title: of the use case.
        outcome: plural of what the label means.
        plotly_js: name of the plotly.js file beside the page; None puts plotly.js into the page (4.6 MB).
        replayed: there is a replay's page beside this one, which tells of all versions.
    """
    page = Page(
        title=f"Model card: version {card.version}",
        subtitle=f"{title} · {card.standing}",
        verdict=_verdict(card, outcome),
        tone=TONES.get(card.standing, "neutral"),
        tiles=_tiles(card, outcome),
        sections=[
            Section("made", "What it was made from", [tables.facts_table(card), _family(card)]),
            Section("metrics", "How good it is", _metrics(card, outcome), _judged_on(card)),
            Section("segments", "Where it is better and worse", _segments(card)),
            Section("calibration", "Is its probability right?", _calibration(card, outcome)),
            Section("effects", "What moves its score", _effects(card)),
            Section("limits", "Limits", [Points(card.limits)]),
            Section("trail", "Decisions that name it", _trail(card, replayed)),
        ],
        related=[Link("The whole replay", REPLAY)] if replayed else [],
    )
    return render(page, plotly_js)


def _value(frame: pl.DataFrame, metric: str) -> dict:
    """A metric's row, as far as it is known."""
    found = frame.filter((pl.col("metric") == metric) & pl.col("value").is_not_null())
    return found.row(0, named=True) if found.height else {}


def _verdict(card: ModelCard, outcome: str) -> str:
    served, first, last = card.answered
    told = f"Version {card.version} is {_article(card.standing)}"
    if card.quarantined:
        told += f" ({card.quarantined.rstrip('.')})"
    if served:
        told += f"; it answered {count(served)} cases from {moment(first)} to {moment(last)}"
    auc = _value(card.figures.metrics, "roc_auc")
    if not auc:
        return f"{told}. How good it is was not measured: too few labelled cases in its reference."
    said = f"On {count(auc['rows'])} cases that it had not learned from its ROC AUC is {_bounded(auc)}"
    later = _value(card.served, "roc_auc")
    ratio = _value(card.served, "expected_over_observed")
    if later:
        said += f"; on the {count(later['rows'])} matured cases that it answered, {_bounded(later)}"
    if ratio:
        said += f", with {number(ratio['value'], 2)} {outcome} expected for each observed"
    return f"{told}. {said}."


def _article(standing: str) -> str:
    words = {
        "champion": "the champion",
        "previous champion": "the previous champion",
        "challenger": "the newest challenger",
        "retired": "not in service",
    }
    return words.get(standing, standing)


def _bounded(row: dict) -> str:
    return f"{number(row['value'])} ({interval(row['lower'], row['upper'])})"


def _tiles(card: ModelCard, outcome: str) -> list[Tile]:
    notes = card.bundle.notes
    rows, positives = notes.get("rows"), notes.get("positives")
    auc, ratio = (_value(card.figures.metrics, m) for m in ("roc_auc", "expected_over_observed"))
    later, level = (_value(card.served, m) for m in ("roc_auc", "expected_over_observed"))
    told = level or ratio
    where = f"{number(ratio.get('value'), 2)} on its reference" if level else "on its reference"
    return [
        Tile(
            "ROC AUC on its reference", number(auc.get("value")), interval(auc.get("lower"), auc.get("upper"))
        ),
        Tile(
            "ROC AUC of what it answered",
            number(later.get("value")),
            interval(later.get("lower"), later.get("upper")) if later else "no matured case yet",
        ),
        Tile(
            f"{outcome.capitalize()} expected for each observed",
            number(told.get("value"), 2),
            f"{interval(told.get('lower'), told.get('upper'), 2)}; {where}; 1 is right",
        ),
        Tile(
            "Learned from",
            count(rows),
            f"cases, {count(positives)} positive ({percent(positives / rows if rows and positives else None)})",
        ),
    ]


def _judged_on(card: ModelCard) -> str:
    window = card.bundle.reference
    return (
        f"Its reference: labelled cases from {moment(window.start)} to {moment(window.end)}, as known on "
        f"{moment(window.as_of)}. None of them was learned from."
    )


def _family(card: ModelCard) -> Block:
    if card.candidates.is_empty():
        return Notice("The family that it was chosen from was not kept.")
    return tables.family_table(card.candidates)


def _metrics(card: ModelCard, outcome: str) -> list[Block]:
    if card.figures.metrics.is_empty():
        return [Notice("Metrics: not computed, because its reference has no labelled case.")]
    compared = tables.comparison_table(card.comparison) if card.comparison.height else None
    missing = Notice("No comparison with a champion was kept: there was none, or it could not be measured.")
    return [tables.metrics_table(card.figures.metrics, card.served), compared or missing]


def _segments(card: ModelCard) -> list[Block]:
    if card.figures.segments.is_empty():
        return [Notice("Segments: the use case names none, or the reference has no labelled case.")]
    drawn = figures.segments_figure(card.figures)
    return [*([drawn] if drawn else []), tables.segments_table(card.figures.segments)]


def _calibration(card: ModelCard, outcome: str) -> list[Block]:
    if card.figures.calibration.is_empty():
        return [Notice("Calibration: not computed, because its reference has no labelled case.")]
    curve, served = card.figures.calibration, card.served_curve
    folded = [tables.calibration_table(curve, outcome, "on its reference")]
    folded += [tables.calibration_table(served, outcome, "as served")] if served.height else []
    return [figures.calibration_figure(curve, served, outcome), *folded]


def _effects(card: ModelCard) -> list[Block]:
    found = card.figures
    if found.importance.is_empty():
        return [Notice("Feature effects: not computed, because its reference has no labelled case.")]
    parts = found.effects.partition_by("feature", maintain_order=True)
    return [
        figures.importance_figure(found.importance),
        *map(figures.effect_figure, parts),
        tables.effects_table(found),
    ]


def _trail(card: ModelCard, replayed: bool) -> list[Block]:
    if not card.trail:
        return [Notice("No decision names it yet.")]
    entries = []
    for d in card.trail:
        own = (
            d["challenger"] == card.version
        )  # of the others, in which it defends itself, the replay's page has all
        links = [Link("In the replay", f"{REPLAY}#{anchor(d['id'])}")] if replayed else []
        entries.append(decision_entry(d, d["payload"] if own else None, links))
    return [Entries(entries)]
