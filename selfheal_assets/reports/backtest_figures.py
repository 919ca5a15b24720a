"""The plots of a backtest's page: each policy by chunk, what it did on one time line, how sure differences are."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl

from selfheal_assets.core.backtest import Backtest
from selfheal_assets.core.periods import chunk_label
from selfheal_assets.core.spec import ChunkPeriod
from selfheal_assets.reports import figures as fig
from selfheal_assets.reports.decisions import DECISION_MARKS
from selfheal_assets.reports.page import Figure
from selfheal_assets.reports.replay_figures import TICKS
from selfheal_assets.reports.text import UNKNOWN, metric_name, moment, number

HIGHER_IS_BETTER = ("auc", "auc_within", "f1")
COMPARED = ("auc", "auc_within", "off_balance", "calibration_error", "brier", "log_loss", "f1", "cost")
REGRETTED = ("star", fig.VERMILLION, "promoted, and regretted")


def looks(found: Backtest, lead: str) -> dict[str, dict[str, Any]]:
    """Each policy's colour, dash, mark and width; the lead's is the broad solid one."""
    others = [p for p in found.policies if p != lead]
    every = {lead: fig.SERIES[0]} | {
        p: fig.SERIES[1 + i % (len(fig.SERIES) - 1)] for i, p in enumerate(others)
    }
    return {
        policy: {"color": color, "dash": dash, "symbol": mark, "width": 3 if policy == lead else 2}
        for policy, (color, dash, mark) in every.items()
    }


def _middles(starts: list[datetime], until: datetime) -> list[datetime]:
    ends = [*starts[1:], until]
    return [start + (end - start) / 2 for start, end in zip(starts, ends, strict=True)]


def _time_axis(found: Backtest) -> dict[str, Any]:
    edge = (found.until - found.from_time) / 80
    years = found.until - found.from_time > timedelta(days=3 * 365)
    ticks = {"dtick": "M12", "tickformat": "%Y"} if years else {}
    return fig.axis(type="date", range=[found.from_time - edge, found.until + edge], **ticks)


def _margin(found: Backtest) -> dict[str, int]:
    """One left margin for all plots by time: a day is at one place in all of them."""
    return {"l": max(88, round(7 * max(map(len, found.policies))) + 14), "r": 16, "t": 34, "b": 28}


def _events(found: Backtest) -> list[dict[str, Any]]:
    """A dotted line where a known event begins."""
    return [fig.vertical(start, fig.GREY) for start in found.events["starts"].to_list()]


def _by_chunk(found: Backtest, lead: str, metric: str, hover: str) -> list[fig.Trace]:
    traces = []
    for policy, look in looks(found, lead).items():
        rows = found.chunks.filter(pl.col("policy") == policy).sort("chunk")
        x = _middles(rows["chunk"].to_list(), found.until) if rows.height else []
        traces.append(fig.line(x, rows[metric].to_list(), fig.plain(policy), hovertemplate=hover, **look))
    return [*traces[1:], traces[0]]  # the lead above the others


def _means(found: Backtest, metric: str) -> str:
    rows = found.summary.select("policy", metric).rows()
    return "; ".join(f"{policy} {number(value)}" for policy, value in rows)


def _layout(found: Backtest, height: int, value_axis: dict[str, Any]) -> dict[str, Any]:
    look = fig.layout(
        height,
        margin=_margin(found) | {"b": 84},
        xaxis=_time_axis(found),
        yaxis=value_axis | {"automargin": False},
        hovermode="x unified",
        shapes=_events(found),
    )
    look["legend"] |= {"y": -0.1, "yanchor": "top"}
    return look


def metric_figure(found: Backtest, lead: str, metric: str, title: str, caption: str) -> Figure:
    """A metric by chunk, a line for each policy."""
    traces = _by_chunk(found, lead, metric, "%{y:.3f}")
    look = _layout(found, 400, fig.axis(metric_name(metric)))
    alt = f"Lines over time, one for each policy. Over the compared cases: {_means(found, metric)}."
    return Figure(title, caption, alt, fig.spec(traces, look))


def level_figure(found: Backtest, lead: str, outcome: str) -> Figure:
    """Expected over observed by chunk, on a log scale."""
    traces = _by_chunk(found, lead, "expected_over_observed", "%{y:.2f}")
    value_axis = fig.axis(
        f"{outcome} expected ÷ observed", type="log", tickvals=TICKS, ticktext=list(map(str, TICKS))
    )
    look = _layout(found, 400, value_axis)
    right = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "layer": "between"}
    look["shapes"] = [*look["shapes"], right | {"line": {"color": fig.GREEN, "width": 2, "dash": "dash"}}]
    alt = f"Lines over time. Over the compared cases: {_means(found, 'expected_over_observed')}."
    caption = "The dashed green line at 1 is right; below it harm was underestimated, above it overestimated."
    return Figure(f"Did each see the {outcome} coming?", caption, alt, fig.spec(traces, look))


def actions_figure(found: Backtest) -> Figure:
    """What each policy did, one lane for each; regretted promotions have a mark of their own."""
    actions = found.actions.with_columns(bad=pl.col("regretted").fill_null(False))
    kinds = [(a, False, mark) for a, mark in DECISION_MARKS.items()] + [("PROMOTE", True, REGRETTED)]
    traces = []
    for action, bad, (symbol, color, name) in kinds:
        rows = actions.filter((pl.col("action") == action) & (pl.col("bad") == bad))
        if rows.is_empty():
            continue
        size = 15 if bad else 11
        trace = fig.line(
            rows["as_of"].to_list(), list(map(fig.plain, rows["policy"])), name, color,
            mode="markers", symbol=symbol, size=size,
        )  # fmt: skip
        trace["customdata"] = [["", fig.plain(_said(row))] for row in rows.iter_rows(named=True)]
        traces.append(trace | {"hovertemplate": "%{customdata[1]}<extra></extra>", "cliponaxis": False})
    order = list(map(fig.plain, reversed(found.policies)))
    look = fig.layout(
        130 + 40 * len(order),
        margin=_margin(found),
        xaxis=_time_axis(found),
        yaxis=fig.axis(
            type="category", categoryorder="array", categoryarray=order, range=[-0.6, len(order) - 0.4],
            automargin=False,
        ),
        shapes=_events(found),
    )  # fmt: skip
    regrets = actions.filter("bad").group_by("policy", maintain_order=True).len().rows()
    told = "; ".join(f"{policy} {n}" for policy, n in regrets) or "none"
    return Figure(
        "Promotions, refusals and regrets on one time line",
        "A star is a promotion whose model was worse, on the labels that came later, than the one it replaced.",
        f"Marks by policy and day. Regretted promotions: {told}.",
        fig.spec(traces, look),
    )


def _said(row: dict[str, Any]) -> str:
    regret = row["regret"]
    worth = "" if regret is None else f"; log loss {regret:+.4f} against the replaced"
    return f"{moment(row['as_of'])}, {row['policy']}: {row['action'].replace('_', ' ').lower()}{worth}"


def difference_figures(found: Backtest, lead: str) -> list[Figure]:
    """For each metric the lead's figure less each other policy's, with its interval."""
    known = set(found.differences.filter(pl.col("difference").is_not_null())["metric"])
    return [_difference_figure(found, lead, metric) for metric in COMPARED if metric in known]


def _difference_figure(found: Backtest, lead: str, metric: str) -> Figure:
    rows = found.differences.filter(
        (pl.col("metric") == metric) & (pl.col("against") == lead) & pl.col("difference").is_not_null()
    ).reverse()
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    gains = [
        (p, -d, -u, -low) for p, d, low, u in rows.select("policy", "difference", "lower", "upper").rows()
    ]
    traces = [
        _group([g for g in gains if test(sign, g)], *look)
        for test, look in (
            (_is_better, (fig.GREEN, "triangle-up", f"{lead} better")),
            (_is_open, (fig.GREY, "circle-open", "not told apart")),
            (_is_worse, (fig.VERMILLION, "x", f"{lead} worse")),
        )
    ]
    order = [fig.plain(p) for p, *_ in gains]
    look = fig.layout(
        120 + 36 * len(gains),
        xaxis=fig.axis(f"{lead} less the other"),
        yaxis=fig.axis(
            type="category", categoryorder="array", categoryarray=order, range=[-0.6, len(order) - 0.4]
        ),
        shapes=[fig.vertical(0, fig.BLUE, "dash", width=2)],
    )
    alt = "; ".join(f"less {p} {d:+.4f} ({low:+.4f} to {u:+.4f})" for p, d, low, u in gains)
    better = "right" if sign > 0 else "left"
    caption = f"{better.capitalize()} of the dashed line {lead} is better."
    return Figure(
        metric_name(metric), caption, f"{lead}: {alt}", fig.spec([t for t in traces if t["x"]], look), True
    )


Gain = tuple[str, float, float, float]


def _is_better(sign: int, found: Gain) -> bool:
    return min(sign * found[2], sign * found[3]) > 0


def _is_worse(sign: int, found: Gain) -> bool:
    return max(sign * found[2], sign * found[3]) < 0


def _is_open(sign: int, found: Gain) -> bool:
    return not _is_better(sign, found) and not _is_worse(sign, found)


def _group(gains: list[Gain], color: str, symbol: str, name: str) -> fig.Trace:
    x, y = [d for _, d, _, _ in gains], [fig.plain(p) for p, *_ in gains]
    trace = fig.line(x, y, fig.plain(name), color, mode="markers", symbol=symbol, size=11)
    arms = {"array": [u - d for _, d, _, u in gains], "arrayminus": [d - low for _, d, low, _ in gains]}
    trace["error_x"] = {"type": "data", "symmetric": False, "color": color, "thickness": 1.5} | arms
    return trace | {"hovertemplate": "%{y}: %{x:+.4f}<extra></extra>"}


def chunk_name(start: datetime | None, period: str) -> str:
    """``2007 Q3``; a day where the period is none of the calendar's."""
    known: dict[str, ChunkPeriod] = {"day": "day", "week": "week", "month": "month", "quarter": "quarter"}
    if start is None:
        return UNKNOWN
    return chunk_label(start, known[period]) if period in known else moment(start)
