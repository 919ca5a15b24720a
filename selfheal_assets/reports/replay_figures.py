"""The plots of a replay's page: performance, calibration. What was done about it is in ``replay_timeline``."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl

from selfheal_assets.reports import figures as fig
from selfheal_assets.reports.page import Figure
from selfheal_assets.reports.text import check_name, number, percent

RATIOS = ("partial_ratio", "partial_lower", "partial_upper", "ratio_lower", "ratio_upper")
TICKS = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]


def chunk_ends(chunks: pl.DataFrame) -> list[datetime]:
    """End of each chunk: the start of the next; the last is as long as the one before."""
    starts = chunks["chunk"].to_list()
    length = starts[-1] - starts[-2] if len(starts) > 1 else timedelta(days=91)
    return [*starts[1:], starts[-1] + length]


def middles(chunks: pl.DataFrame) -> list[datetime]:
    """Middle of each chunk, where its figures are drawn."""
    return [start + (end - start) / 2 for start, end in zip(chunks["chunk"], chunk_ends(chunks), strict=True)]


def time_axis(chunks: pl.DataFrame) -> dict[str, Any]:
    """Time from the first chunk to the end of the last; years named where there are many."""
    first, last = chunks["chunk"][0], chunk_ends(chunks)[-1]
    ticks = {"dtick": "M12", "tickformat": "%Y"} if last - first > timedelta(days=3 * 365) else {}
    edge = (last - first) / 80  # a mark on the first or last day is not to be cut, nor to touch the names
    hover = "%b %Y" if last - first > timedelta(days=28) * chunks.height else "%d %b %Y"
    return fig.axis(type="date", range=[first - edge, last + edge], hoverformat=hover, **ticks)


def time_margin(chunks: pl.DataFrame) -> dict[str, int]:
    """Margins that all plots of a replay share, so that one day is at one place in all of them.

    The left one is as wide as the longest name of a failed check takes in the strip.
    """
    names = ",".join(chunks["failed_checks"].fill_null("").to_list()).split(",")
    longest = max(len(check_name(name.strip())) for name in names)
    return {"l": max(88, round(7 * longest) + 14), "r": 16, "t": 34, "b": 28}


def promotions(chunks: pl.DataFrame) -> pl.DataFrame:
    """Chunks that ended with a promotion, their ``end``, and the version that took over, ``promoted``."""
    return chunks.with_columns(
        promoted=pl.col("champion").shift(-1), end=pl.Series(chunk_ends(chunks), dtype=pl.Datetime("us"))
    ).filter(pl.col("decision") == "PROMOTE")


def _promotion_marks(chunks: pl.DataFrame) -> dict[str, Any]:
    """A dotted line at each promotion, named after the version where the next leaves room for the name."""
    room = (chunk_ends(chunks)[-1] - chunks["chunk"][0]) / 22
    promoted = promotions(chunks).with_columns(next=pl.col("end").shift(-1)).select("end", "next", "promoted")
    notes = []
    for moment, following, version in promoted.rows():
        crowded = following is not None and following - moment < room
        text = "▲" if version is None or crowded else f"▲ v{version}"
        notes.append(fig.note(text, x=moment, y=1, yref="paper", yanchor="bottom", xanchor="left", xshift=-7))
    return {"shapes": [fig.vertical(mark["x"], fig.GREEN) for mark in notes], "annotations": notes}


def _against_time(chunks: pl.DataFrame, height: int, value_axis: dict[str, Any]) -> dict[str, Any]:
    """Layout of a plot by chunk: promotions marked, legend below so that it stays clear of the marks."""
    look = fig.layout(
        height,
        margin=time_margin(chunks) | {"b": 84},
        xaxis=time_axis(chunks),
        yaxis=value_axis | {"automargin": False},
        hovermode="x unified",
        bargap=0.15,
        **_promotion_marks(chunks),
    )
    look["legend"] |= {"y": -0.1, "yanchor": "top"}
    return look


def _both_models(
    x: list[datetime], healed: pl.Series, never: pl.Series, what: str, hover: str
) -> list[fig.Trace]:
    """The healed and the never-retrained model, the same look in every plot."""
    dashed = {"dash": "dash", "symbol": "square-open"}
    return [
        fig.line(
            x, never.to_list(), f"{what}, never retrained", fig.VERMILLION, hovertemplate=hover, **dashed
        ),
        fig.line(x, healed.to_list(), f"{what}, healed", fig.BLUE, width=3, hovertemplate=hover),
    ]


def performance_figure(chunks: pl.DataFrame) -> Figure:
    """AUC by chunk: estimated with its band, realized of the healed and of the never-retrained model."""
    x, hover = middles(chunks), "%{y:.3f}"
    estimate, lower, upper = (chunks[f"estimated_{name}"].to_list() for name in ("auc", "lower", "upper"))
    realized = (chunks["realized_lower"].to_list(), chunks["realized_upper"].to_list())
    traces = [
        *fig.band(x, lower, upper, "estimate's interval"),
        *fig.band(x, *realized, "realized: its interval", fig.BLUE_BAND),
        fig.line(x, estimate, "estimated, without labels", fig.GREY, dash="dot", size=4, hovertemplate=hover),
        *_both_models(x, chunks["realized_auc"], chunks["never_retrained_auc"], "realized", hover),
    ]
    names = ("realized_auc", "never_retrained_auc", "estimated_auc")
    means = [number(value) for value in chunks.select(pl.col(names).mean()).row(0)]
    return Figure(
        title="How well does it rank good cases above bad ones?",
        caption="ROC AUC by chunk: 0.5 is guessing, 1 is perfect. ▲ with a dotted line is a promotion; where "
        "the solid blue line is above the dashed one, healing paid. A band is a 95 % interval: where the never "
        "retrained model is inside the blue one, one chunk alone does not tell them apart.",
        alt=f"Lines over time. Mean: {means[0]} healed, {means[1]} never retrained, {means[2]} estimated.",
        spec=fig.spec(traces, _against_time(chunks, 430, fig.axis("ROC AUC"))),
    )


def calibration_figure(chunks: pl.DataFrame, outcome: str) -> Figure:
    """Rate of the outcome by chunk: observed, and what either model expected."""
    names = ("observed", "expected", "never_retrained_expected")
    rates = chunks.select(pl.col(name) / pl.col("rows") for name in names)
    x, hover = middles(chunks), "%{y:.1%}"
    traces = [
        fig.bars(x, rates["observed"].to_list(), "observed", fig.GREY, hovertemplate=hover, opacity=0.45),
        *_both_models(x, rates["expected"], rates["never_retrained_expected"], "expected", hover),
    ]
    value_axis = fig.axis("share of rows", tickformat=".0%", rangemode="tozero")
    worst = [
        percent(v) for v in rates.sort("observed", descending=True, nulls_last=True).select(names).row(0)
    ]
    return Figure(
        title=f"Did it see the {outcome} coming?",
        caption=f"Share of {outcome} by chunk. The bars are what happened in the end; a line that follows "
        "their tops is a model that forecast the right number.",
        alt=f"At the worst, {worst[0]} observed; {worst[1]} expected healed, {worst[2]} never retrained.",
        spec=fig.spec(traces, _against_time(chunks, 380, value_axis)),
    )


def ratio_figure(chunks: pl.DataFrame, outcome: str) -> Figure:
    """Expected over observed: what partial labels said on the day, and what came out, each with its band."""
    x, hover = middles(chunks), "%{y:.2f}"
    of = {name: chunks[name].to_list() for name in RATIOS}
    never = chunks.select(
        pl.when(pl.col("observed") > 0).then(pl.col("never_retrained_expected") / pl.col("observed"))
    ).to_series()
    traces = [
        *fig.band(x, of["partial_lower"], of["partial_upper"], "partial: its interval"),
        *fig.band(x, of["ratio_lower"], of["ratio_upper"], "realized: its interval", fig.BLUE_BAND),
        fig.line(
            x,
            of["partial_ratio"],
            "partial, as known on the day",
            fig.GREY,
            dash="dot",
            size=4,
            hovertemplate=hover,
        ),
        *_both_models(x, chunks["realized_ratio"], never, "realized", hover),
    ]
    value_axis = fig.axis(
        f"{outcome} expected ÷ observed", type="log", tickvals=TICKS, ticktext=list(map(str, TICKS))
    )
    look = _against_time(chunks, 380, value_axis)
    right = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "layer": "between"}
    look["shapes"] = [*look["shapes"], right | {"line": {"color": fig.GREEN, "width": 2, "dash": "dash"}}]
    first = chunks.filter(pl.col("partial_upper") < 1)["label"].to_list()
    return Figure(
        title="Was the level right, and when could one have known?",
        caption="1 (the dashed green line) is right, below it harm was underestimated. Partial: of the cohorts "
        "watched that day, what was expected and seen so far by their age, years before all labels are in. Realized: "
        "of the chunk's own cases, in the end. Bands are 95 % intervals.",
        alt="Lines over time. Partial labels showed too few expected, beyond chance, in "
        f"{len(first)} of {chunks.height} chunks{f', first in {first[0]}' if first else ''}.",
        spec=fig.spec(traces, look),
    )
