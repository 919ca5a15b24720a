"""The plots of a replay's page: performance, calibration, and what was done about it."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from textwrap import wrap
from typing import Any

import polars as pl

from selfheal_assets.reports import figures as fig
from selfheal_assets.reports.page import Figure
from selfheal_assets.reports.text import UNKNOWN, number, percent

TINTS = ("#2372b0", "#1b5687")
DECISION_MARKS = {
    "PROMOTE": ("triangle-up", fig.GREEN, "promoted"),
    "REJECT": ("x", fig.VERMILLION, "refused"),
    "INCONCLUSIVE": ("circle-open", fig.GREY, "inconclusive"),
    "ROLL_BACK": ("triangle-down", fig.VERMILLION, "rolled back"),
    "HOLD": ("line-ew-open", fig.GREY, "held"),
    "SUPPRESS": ("line-ns-open", fig.GREY, "suppressed"),
    "FIX_DATA": ("diamond-open", fig.VERMILLION, "data to be mended"),
}


def chunk_ends(chunks: pl.DataFrame) -> list[datetime]:
    """End of each chunk: the start of the next; the last is as long as the one before."""
    starts = chunks["chunk"].to_list()
    length = starts[-1] - starts[-2] if len(starts) > 1 else timedelta(days=91)
    return [*starts[1:], starts[-1] + length]


def _middles(chunks: pl.DataFrame) -> list[datetime]:
    return [start + (end - start) / 2 for start, end in zip(chunks["chunk"], chunk_ends(chunks), strict=True)]


def _time_axis(chunks: pl.DataFrame) -> dict[str, Any]:
    """Time from the first chunk to the end of the last; years named where there are many."""
    first, last = chunks["chunk"][0], chunk_ends(chunks)[-1]
    ticks = {"dtick": "M12", "tickformat": "%Y"} if last - first > timedelta(days=3 * 365) else {}
    hover = "%b %Y" if last - first > timedelta(days=28) * chunks.height else "%d %b %Y"
    return fig.axis(type="date", range=[first, last], hoverformat=hover, **ticks)


def _promotions(chunks: pl.DataFrame) -> pl.DataFrame:
    """Chunks that ended with a promotion, their ``end``, and the version that took over, ``promoted``."""
    return chunks.with_columns(
        promoted=pl.col("champion").shift(-1), end=pl.Series(chunk_ends(chunks), dtype=pl.Datetime("us"))
    ).filter(pl.col("decision") == "PROMOTE")


def _promotion_marks(chunks: pl.DataFrame) -> dict[str, Any]:
    """A dotted line at each promotion, named after the version where the next leaves room for the name."""
    room = (chunk_ends(chunks)[-1] - chunks["chunk"][0]) / 22
    promoted = (
        _promotions(chunks).with_columns(next=pl.col("end").shift(-1)).select("end", "next", "promoted")
    )
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
        xaxis=_time_axis(chunks),
        yaxis=value_axis,
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
    x, hover = _middles(chunks), "%{y:.3f}"
    estimate, lower, upper = (chunks[f"estimated_{name}"].to_list() for name in ("auc", "lower", "upper"))
    traces = [
        *fig.band(x, lower, upper, "estimate's interval"),
        fig.line(x, estimate, "estimated, without labels", fig.GREY, dash="dot", size=4, hovertemplate=hover),
        *_both_models(x, chunks["realized_auc"], chunks["never_retrained_auc"], "realized", hover),
    ]
    names = ("realized_auc", "never_retrained_auc", "estimated_auc")
    means = [number(value) for value in chunks.select(pl.col(names).mean()).row(0)]
    return Figure(
        title="How well does it rank good cases above bad ones?",
        caption="ROC AUC by chunk: 0.5 is guessing, 1 is perfect. ▲ with a dotted line is a promotion; where "
        "the solid blue line is above the dashed one, healing paid.",
        alt=f"Lines over time. Mean: {means[0]} healed, {means[1]} never retrained, {means[2]} estimated.",
        spec=fig.spec(traces, _against_time(chunks, 430, fig.axis("ROC AUC"))),
    )


def calibration_figure(chunks: pl.DataFrame, outcome: str) -> Figure:
    """Rate of the outcome by chunk: observed, and what either model expected."""
    names = ("observed", "expected", "never_retrained_expected")
    rates = chunks.select(pl.col(name) / pl.col("rows") for name in names)
    x, hover = _middles(chunks), "%{y:.1%}"
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


def failed_by_check(chunks: pl.DataFrame) -> pl.DataFrame:
    """``check`` (str), ``chunk`` (Datetime), ``label``: one row per failed check and chunk."""
    parts = chunks.select("chunk", "label", check=pl.col("failed_checks").fill_null("").str.split(","))
    return (
        parts.explode("check").with_columns(pl.col("check").str.strip_chars()).filter(pl.col("check") != "")
    )


def timeline_figure(chunks: pl.DataFrame, anchors: Mapping[datetime, str]) -> Figure:
    """A strip by chunk: which checks failed, what was decided, which champion served.

    Args:
        chunks: as ``replay.replay_page`` takes them.
        anchors: place in the page of each chunk's decision; a click on its mark goes there.
    """
    failed = failed_by_check(chunks)
    checks = failed.group_by("check").len().sort("len", "check")["check"].to_list()
    middle = dict(zip(chunks["chunk"], _middles(chunks), strict=True))
    traces = [*_failures(failed, middle), *_decisions(chunks, middle, anchors), *_champions(chunks)]
    order = ["champion", "decision", *map(fig.plain, checks)]
    look = fig.layout(
        130 + 30 * len(order),
        xaxis=_time_axis(chunks),
        yaxis=fig.axis(
            type="category", categoryorder="array", categoryarray=order, range=[-0.6, len(order) - 0.4]
        ),
        barmode="overlay",
        bargap=0.3,
    )
    promoted = ", ".join(_promotions(chunks)["label"].to_list())
    return Figure(
        title="What failed, what was decided, who served",
        caption="From the top: failed checks (■), decisions (a click leads to the reasons), the champion.",
        alt=f"{failed.height} checks failed in {chunks.height} chunks. Promoted after {promoted or 'none'}.",
        spec=fig.spec(traces, look),
    )


def _failures(failed: pl.DataFrame, middle: Mapping[datetime, datetime]) -> list[fig.Trace]:
    if failed.is_empty():
        return []
    x, y = [middle[start] for start in failed["chunk"]], [fig.plain(check) for check in failed["check"]]
    trace = fig.line(x, y, "check failed", fig.VERMILLION, mode="markers", symbol="square", size=11)
    details = [["", fig.plain(label)] for label in failed["label"]]
    return [trace | {"customdata": details, "hovertemplate": "%{customdata[1]}: %{y} failed<extra></extra>"}]


def _decisions(
    chunks: pl.DataFrame, middle: Mapping[datetime, datetime], anchors: Mapping[datetime, str]
) -> list[fig.Trace]:
    traces = []
    for action, (symbol, color, name) in DECISION_MARKS.items():
        rows = chunks.filter(pl.col("decision") == action).select("chunk", "label", "reason").rows()
        if rows:
            x, y = [middle[start] for start, _, _ in rows], ["decision"] * len(rows)
            trace = fig.line(x, y, name, color, mode="markers", symbol=symbol, size=12)
            trace["customdata"] = [
                [anchors.get(c, ""), fig.plain(label), _wrapped(r)] for c, label, r in rows
            ]
            hover = f"%{{customdata[1]}}: {name}<br>%{{customdata[2]}}<extra></extra>"
            traces.append(trace | {"hovertemplate": hover})
    return traces


def _wrapped(text: str | None) -> str:
    """A reason broken into lines, since a hover box does not break any."""
    return "<br>".join(fig.plain(part) for part in wrap(text or UNKNOWN, 70)[:6])


def _champions(chunks: pl.DataFrame) -> list[fig.Trace]:
    """One bar for each stretch with the same champion, in alternating tints and named in it."""
    ends = pl.Series(chunk_ends(chunks), dtype=pl.Datetime("us"))
    spans = (
        chunks.with_columns(end=ends, run=pl.col("champion").rle_id())
        .group_by("run", maintain_order=True)
        .agg(pl.first("champion", "chunk", "label"), pl.last("end"))
    )
    trace = {
        "type": "bar", "orientation": "h", "name": "champion", "showlegend": False,
        "y": ["champion"] * spans.height,
        "base": spans["chunk"].to_list(),
        "x": [(end - start).total_seconds() * 1000 for start, end in spans.select("chunk", "end").rows()],
        "text": [UNKNOWN if version is None else f"v{version}" for version in spans["champion"]],
        "textposition": "inside", "insidetextanchor": "middle", "textangle": 0,
        "insidetextfont": {"color": "#ffffff"},
        "marker": {"color": [TINTS[index % 2] for index in range(spans.height)]},
        "customdata": [["", fig.plain(label)] for label in spans["label"]],
        "hovertemplate": "%{text} since %{customdata[1]}<extra></extra>",
    }  # fmt: skip
    return [trace]
