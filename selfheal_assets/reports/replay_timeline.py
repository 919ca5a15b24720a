"""The strip under a replay's plots: which checks failed, what was decided, which champion served, by time."""

from collections.abc import Mapping
from datetime import datetime
from textwrap import wrap
from typing import Any

import polars as pl

from selfheal_assets.core.decision import WITHHELD, Action
from selfheal_assets.reports import figures as fig
from selfheal_assets.reports.decisions import DECISION_MARKS, anchor, version
from selfheal_assets.reports.page import Figure
from selfheal_assets.reports.replay_figures import chunk_ends, middles, promotions, time_axis, time_margin
from selfheal_assets.reports.text import UNKNOWN, check_name, moment

TINTS = ("#2372b0", "#1b5687")


def timeline_figure(chunks: pl.DataFrame, decisions: pl.DataFrame) -> Figure:
    """The strip.

    Args:
        chunks: as ``replay.replay_page`` takes them.
        decisions: likewise; a click on a mark goes to the decision's evidence.
    """
    failed = failed_by_check(chunks)
    checks = failed.group_by("check").len().sort("len", "check")["check"].to_list()
    marks = _decisions(decisions)
    lanes = [lane for lane in ("withheld", "rolled back", "decision") if any(lane in t["y"] for t in marks)]
    order = ["champion", *lanes, *(fig.plain(check_name(check)) for check in checks)]
    look = fig.layout(
        130 + 30 * len(order),
        margin=time_margin(chunks) | {"t": 34},
        xaxis=time_axis(chunks),
        yaxis=fig.axis(
            type="category",
            categoryorder="array",
            categoryarray=order,
            range=[-0.6, len(order) - 0.4],
            automargin=False,
        ),
        barmode="overlay",
        bargap=0.3,
    )
    promoted = ", ".join(promotions(chunks)["label"].to_list())
    return Figure(
        title="What failed, what was decided, who served",
        caption="From the top: failed checks (■), decisions on their day (a click on a mark leads to its evidence), "
        "retrainings that were withheld, the champion.",
        alt=f"{failed.height} checks failed in {chunks.height} chunks; {decisions.height} decisions. Promoted after "
        f"{promoted or 'none'}.",
        spec=fig.spec([*_failures(failed, chunks), *marks, *_champions(chunks)], look),
    )


def failed_by_check(chunks: pl.DataFrame) -> pl.DataFrame:
    """``check`` (str), ``chunk`` (Datetime), ``label``: one row per failed check and chunk."""
    parts = chunks.select("chunk", "label", check=pl.col("failed_checks").fill_null("").str.split(","))
    return (
        parts.explode("check").with_columns(pl.col("check").str.strip_chars()).filter(pl.col("check") != "")
    )


def _failures(failed: pl.DataFrame, chunks: pl.DataFrame) -> list[fig.Trace]:
    if failed.is_empty():
        return []
    middle = dict(zip(chunks["chunk"], middles(chunks), strict=True))
    x = [middle[start] for start in failed["chunk"]]
    y = [fig.plain(check_name(check)) for check in failed["check"]]
    trace = fig.line(x, y, "check failed", fig.VERMILLION, mode="markers", symbol="square", size=11)
    details = [["", fig.plain(label)] for label in failed["label"]]
    return [trace | {"customdata": details, "hovertemplate": "%{customdata[1]}: %{y} failed<extra></extra>"}]


def _lane(action: str) -> str:
    """The row of the strip: what withheld a retraining and what was taken back are apart from what was judged."""
    if action in WITHHELD:
        return "withheld"
    return "rolled back" if action == Action.roll_back.value else "decision"


def _decisions(decisions: pl.DataFrame) -> list[fig.Trace]:
    traces = []
    for action, (symbol, color, name) in DECISION_MARKS.items():
        rows = decisions.filter(pl.col("action") == action)
        if rows.is_empty():
            continue
        x, y = rows["as_of"].to_list(), [_lane(action)] * rows.height
        trace = fig.line(x, y, name, color, mode="markers", symbol=symbol, size=12)
        trace["customdata"] = [
            [anchor(row["id"]), fig.plain(_said(row)), _wrapped(row["reason"])]
            for row in rows.iter_rows(named=True)
        ]
        hover = f"%{{customdata[1]}}: {name}<br>%{{customdata[2]}}<extra></extra>"
        traces.append(trace | {"hovertemplate": hover, "cliponaxis": False})
    return traces


def _said(row: Mapping[str, Any]) -> str:
    about = f", {version(row['challenger'])}" if row["challenger"] is not None else ""
    return f"{moment(row['as_of'])}{about}"


def _wrapped(text: str | None) -> str:
    """A reason broken into lines, since a hover box does not break any."""
    return "<br>".join(fig.plain(part) for part in wrap(text or UNKNOWN, 70)[:6])


def stretches(chunks: pl.DataFrame) -> pl.DataFrame:
    """Stretches of chunks with the same champion, in order.

    Returns:
        ``champion``, ``chunk`` (start), ``end``, ``label`` (of the first chunk), ``chunks`` and ``rows`` (counts).
    """
    ends = pl.Series(chunk_ends(chunks), dtype=pl.Datetime("us"))
    return (
        chunks.with_columns(end=ends, run=pl.col("champion").rle_id())
        .group_by("run", maintain_order=True)
        .agg(pl.first("champion", "chunk", "label"), pl.last("end"), pl.sum("rows"), chunks=pl.len())
    )


def _champions(chunks: pl.DataFrame) -> list[fig.Trace]:
    """One bar for each stretch with the same champion, in alternating tints and named in it."""
    spans = stretches(chunks)
    lengths: list[tuple[datetime, datetime]] = spans.select("chunk", "end").rows()
    trace = {
        "type": "bar", "orientation": "h", "name": "champion", "showlegend": False,
        "y": ["champion"] * spans.height,
        "base": spans["chunk"].to_list(),
        "x": [(end - start).total_seconds() * 1000 for start, end in lengths],
        "text": [version(number) for number in spans["champion"]],
        "textposition": "inside", "insidetextanchor": "middle", "textangle": 0,
        "insidetextfont": {"color": "#ffffff"},
        "marker": {"color": [TINTS[index % 2] for index in range(spans.height)]},
        "customdata": [["champions", fig.plain(label)] for label in spans["label"]],
        "hovertemplate": "%{text} since %{customdata[1]}<extra></extra>",
    }  # fmt: skip
    return [trace]
