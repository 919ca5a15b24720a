"""The plots of a replay's page: performance, calibration, and what was done about it."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl

from selfheal_assets.reports import figures as fig
from selfheal_assets.reports.page import Figure
from selfheal_assets.reports.text import UNKNOWN, number, percent

HEALED = "healed"
NEVER = "never retrained"
DECISION_MARKS = {
    "PROMOTE": ("triangle-up", fig.GREEN, "promoted"),
    "REJECT": ("x", fig.VERMILLION, "refused"),
    "INCONCLUSIVE": ("circle-open", fig.GREY, "inconclusive"),
    "ROLL_BACK": ("triangle-down", fig.VERMILLION, "rolled back"),
    "HOLD": ("line-ew-open", fig.GREY, "held"),
    "SUPPRESS": ("line-ns-open", fig.GREY, "suppressed"),
}


def chunk_ends(chunks: pl.DataFrame) -> list[datetime]:
    """End of each chunk: the start of the next; the last is as long as the one before."""
    starts = chunks["chunk"].to_list()
    length = starts[-1] - starts[-2] if len(starts) > 1 else timedelta(days=91)
    return [*starts[1:], starts[-1] + length]


def _time_axis(chunks: pl.DataFrame, **more: Any) -> dict[str, Any]:
    first, last = chunks["chunk"][0], chunk_ends(chunks)[-1]
    pad = (last - first) / 80
    return fig.axis(
        type="date", range=[first - pad, last], dtick="M12", tickformat="%Y", hoverformat="%b %Y", **more
    )


def _promotions(chunks: pl.DataFrame) -> pl.DataFrame:
    """Chunks that ended with a promotion, with the version that took over, ``promoted``."""
    following = pl.col("champion").shift(-1).fill_null(pl.col("champion"))
    return chunks.with_columns(promoted=following).filter(pl.col("decision") == "PROMOTE")


def _promotion_marks(chunks: pl.DataFrame) -> dict[str, Any]:
    """A dotted line at each promotion, named after the version where there is room."""
    promoted = _promotions(chunks)
    ends = dict(zip(chunks["chunk"], chunk_ends(chunks), strict=True))
    moments = [ends[start] for start in promoted["chunk"]]
    names = (
        [f"▲ v{version}" for version in promoted["promoted"]]
        if promoted.height <= 14
        else ["▲"] * promoted.height
    )
    notes = [
        fig.note(name, x=x, y=1, yref="paper", yanchor="bottom", xanchor="center")
        for x, name in zip(moments, names, strict=True)
    ]
    return {"shapes": [fig.vertical(x, fig.GREEN) for x in moments], "annotations": notes}


def performance_figure(chunks: pl.DataFrame) -> Figure:
    """AUC by chunk: estimated with its band, realized of the healed and of the never-retrained model."""
    x, hover = chunks["chunk"].to_list(), "%{y:.3f}"
    estimated = [chunks[name].to_list() for name in ("estimated_lower", "estimated_upper", "estimated_auc")]
    traces = [
        *fig.band(x, estimated[0], estimated[1], "estimate's interval"),
        fig.line(x, estimated[2], "estimated, without labels", fig.GREY, dash="dot", size=4, hovertemplate=hover),
        fig.line(x, chunks["never_retrained_auc"], f"realized, {NEVER}", fig.VERMILLION, dash="dash",
                 symbol="square-open", hovertemplate=hover),
        fig.line(x, chunks["realized_auc"], f"realized, {HEALED}", fig.BLUE, width=3, hovertemplate=hover),
    ]  # fmt: skip
    look = fig.layout(
        430,
        xaxis=_time_axis(chunks),
        yaxis=fig.axis("ROC AUC (0.5 is guessing, 1 is perfect)"),
        hovermode="x unified",
        **_promotion_marks(chunks),
    )
    look["legend"] |= {"y": -0.1, "yanchor": "top"}
    means = [number(chunks[c].mean()) for c in ("realized_auc", "never_retrained_auc", "estimated_auc")]
    return Figure(
        title="How well the model ranks, by chunk",
        caption="Dotted verticals with ▲ are promotions. Where the blue line is above the dashed one, healing paid.",
        alt=f"Lines over time. Mean AUC: {means[0]} healed, {means[1]} never retrained, {means[2]} estimated.",
        spec=fig.spec(traces, look),
    )


def calibration_figure(chunks: pl.DataFrame, outcome: str) -> Figure:
    """Rate of the outcome by chunk: observed, and what either model expected."""
    rates = chunks.select("chunk", *(
        (pl.col(name) / pl.col("rows")).alias(name) for name in ("observed", "expected", "never_retrained_expected")
    ))  # fmt: skip
    x, hover = rates["chunk"].to_list(), "%{y:.1%}"
    middle = [start + (end - start) / 2 for start, end in zip(x, chunk_ends(chunks), strict=True)]
    traces = [
        fig.bars(middle, rates["observed"], "observed", fig.GREY, hovertemplate=hover, opacity=0.45),
        fig.line(middle, rates["never_retrained_expected"], f"expected, {NEVER}", fig.VERMILLION, dash="dash",
                 symbol="square-open", hovertemplate=hover),
        fig.line(middle, rates["expected"], f"expected, {HEALED}", fig.BLUE, width=3, hovertemplate=hover),
    ]  # fmt: skip
    look = fig.layout(
        380,
        xaxis=_time_axis(chunks),
        yaxis=fig.axis(f"{outcome}, share of rows", tickformat=".0%", rangemode="tozero"),
        hovermode="x unified",
        bargap=0.15,
        **_promotion_marks(chunks),
    )
    look["legend"] |= {"y": -0.1, "yanchor": "top"}
    peak = rates.sort("observed", descending=True, nulls_last=True).row(0, named=True)
    said = [percent(peak[c]) for c in ("observed", "expected", "never_retrained_expected")]
    return Figure(
        title=f"Did it see the {outcome} coming?",
        caption="The bars are what happened; a line at their tops is a model that forecast the right number.",
        alt=f"At the worst, {said[0]} observed; {said[1]} expected when healed, {said[2]} when never retrained.",
        spec=fig.spec(traces, look),
    )


def failed_by_check(chunks: pl.DataFrame) -> pl.DataFrame:
    """``check`` (str), ``chunk`` (Datetime), ``label``: one row per failed check and chunk."""
    parts = chunks.select("chunk", "label", check=pl.col("failed_checks").fill_null("").str.split(","))
    return (
        parts.explode("check").with_columns(pl.col("check").str.strip_chars()).filter(pl.col("check") != "")
    )


def timeline_figure(chunks: pl.DataFrame) -> Figure:
    """A strip by chunk: which checks failed, what was decided, which champion served."""
    failed = failed_by_check(chunks)
    checks = failed.group_by("check").len().sort("len", "check")["check"].to_list()
    middle = {s: s + (e - s) / 2 for s, e in zip(chunks["chunk"], chunk_ends(chunks), strict=True)}
    traces = [*_failures(failed, middle), *_decisions(chunks, middle), *_champions(chunks)]
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
    promoted = ", ".join(
        f"v{v} after {label}" for v, label in _promotions(chunks).select("promoted", "label").rows()
    )
    return Figure(
        title="What failed, what was decided, who served",
        caption="From the top: failed checks (■), decisions, and the champion's version in each chunk.",
        alt=f"{failed.height} failed checks in {chunks.height} chunks. Promotions: {promoted or 'none'}.",
        spec=fig.spec(traces, look),
    )


def _failures(failed: pl.DataFrame, middle: dict[datetime, datetime]) -> list[fig.Trace]:
    if failed.is_empty():
        return []
    return [fig.line(
        [middle[start] for start in failed["chunk"]], map(fig.plain, failed["check"]), "check failed", fig.VERMILLION,
        mode="markers", symbol="square", size=11, customdata=[[None, fig.plain(n)] for n in failed["label"]],
        hovertemplate="%{customdata[1]}: %{y} failed<extra></extra>",
    )]  # fmt: skip


def _decisions(chunks: pl.DataFrame, middle: dict[datetime, datetime]) -> list[fig.Trace]:
    traces = []
    for action, (symbol, color, name) in DECISION_MARKS.items():
        rows = chunks.filter(pl.col("decision") == action)
        details = [
            ["", fig.plain(label), _wrapped(reason)]
            for label, reason in rows.select("label", "reason").rows()
        ]
        if rows.height:
            traces.append(fig.line(
                [middle[start] for start in rows["chunk"]], ["decision"] * rows.height, name, color, mode="markers",
                symbol=symbol, size=12, customdata=details,
                hovertemplate="%{customdata[1]}: " + name + "<br>%{customdata[2]}<extra></extra>",
            ))  # fmt: skip
    return traces


def _wrapped(text: str | None, width: int = 70) -> str:
    """A reason broken into lines, since a hover box does not break any."""
    lines = [""]
    for word in (text or UNKNOWN).split():
        lines = (
            [*lines, word]
            if len(lines[-1]) + len(word) > width
            else [*lines[:-1], f"{lines[-1]} {word}".strip()]
        )
    return "<br>".join(fig.plain(part) for part in lines[:6])


def _champions(chunks: pl.DataFrame) -> list[fig.Trace]:
    """One bar for each stretch with the same champion, in alternating tints and named in it."""
    spans = (
        chunks.with_columns(end=pl.Series(chunk_ends(chunks)), run=pl.col("champion").rle_id())
        .group_by("run", maintain_order=True)
        .agg(pl.first("champion", "chunk", "label"), pl.last("end"))
    )
    lengths = [(end - start).total_seconds() * 1000 for start, end in spans.select("chunk", "end").rows()]
    names = [UNKNOWN if version is None else f"v{version}" for version in spans["champion"]]
    tints = [fig.BLUE if index % 2 == 0 else "#1f5f93" for index in range(spans.height)]
    return [{
        "type": "bar", "orientation": "h", "name": "champion", "showlegend": False, "y": ["champion"] * spans.height,
        "base": spans["chunk"].to_list(), "x": lengths, "text": names, "textposition": "inside",
        "insidetextanchor": "middle", "textangle": 0, "insidetextfont": {"color": "#ffffff"},
        "marker": {"color": tints}, "customdata": [[None, fig.plain(label)] for label in spans["label"]],
        "hovertemplate": "%{text} since %{customdata[1]}<extra></extra>",
    }]  # fmt: skip
