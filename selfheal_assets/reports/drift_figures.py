"""The plots of a chunk's page: drift by feature, distributions, estimates, cohorts, realized metrics."""

from typing import Any

import polars as pl

from selfheal_assets.core.spec import ChunkPeriod
from selfheal_assets.reports import figures as fig
from selfheal_assets.reports.distributions import Distribution
from selfheal_assets.reports.page import Figure
from selfheal_assets.reports.statuses import SCORED_BY
from selfheal_assets.reports.text import interval, listing, moment, number, percent, statistic

MOST_BARS = 25
ALARMS_JUDGE = (
    "The dashed blue line at 1 is the limit of the distance, the same for few rows and for many. The alarms judge by "
    "evidence over all chunks instead, so a small change that is certain alarms too."
)


def with_ratio(univariate: pl.DataFrame) -> pl.DataFrame:
    """Known drift values with ``ratio`` (value over threshold) and ``name``, the largest ratio first."""
    several = univariate.group_by("feature").len()["len"].max() != 1
    name = pl.format("{} · {}", "feature", "method") if several else pl.col("feature")
    known = univariate.filter(pl.col("value").is_not_null() & (pl.col("threshold") > 0))
    return known.with_columns(ratio=pl.col("value") / pl.col("threshold"), name=name).sort(
        "ratio", "name", descending=[True, False]
    )


def ratio_figure(univariate: pl.DataFrame, judged: bool = False) -> Figure | None:
    """How far each feature moved, in units of its own limit. None if no value is known.

    ``judged``: ``alert`` is what the alarms say, not whether the distance is beyond its limit.
    """
    ranked = with_ratio(univariate)
    if ranked.is_empty():
        return None
    shown = ranked.head(MOST_BARS)
    words = ("alarm: it changed", "no alarm") if judged else ("outside its limit", "within its limit")
    traces = [
        _ratio_bars(shown.filter(pl.col("alert")), words[0], fig.VERMILLION, ""),
        _ratio_bars(shown.filter(~pl.col("alert").fill_null(False)), words[1], fig.GREY, "/"),
    ]
    order = [fig.plain(name) for name in reversed(shown["name"].to_list())]
    room = [
        0.0,
        max(1.1, 1.12 * shown["ratio"].to_list()[0]),
    ]  # beyond the limit, and for the longest bar's text
    look = fig.layout(
        80 + 27 * shown.height,
        xaxis=fig.axis("drift, as a multiple of the feature's own limit", range=room, showgrid=False),
        yaxis=fig.axis(type="category", categoryorder="array", categoryarray=order, ticks=""),
        shapes=[fig.vertical(1, fig.BLUE, "dash", width=2)],
        bargap=0.35,
        showlegend=True,
    )
    names = ranked.filter(pl.col("alert"))["feature"].unique(maintain_order=True).to_list()
    hidden = ranked.height - shown.height
    return Figure(
        title="How far each feature moved",
        caption=(ALARMS_JUDGE if judged else "The dashed blue line at 1 is the limit.")
        + (f" {hidden} smaller ones are left out." if hidden else ""),
        alt=f"Bars by feature. {words[0].capitalize()}: {listing(names, 8) or 'none'}.",
        spec=fig.spec([t for t in traces if t["y"]], look),
    )


def _ratio_bars(rows: pl.DataFrame, name: str, color: str, hatch: str) -> fig.Trace:
    details = [
        [fig.plain(row["method"]), statistic(row["value"]), statistic(row["threshold"])]
        for row in rows.iter_rows(named=True)
    ]
    return fig.bars(
        rows["ratio"].to_list(),
        [fig.plain(feature) for feature in rows["name"]],
        name,
        color,
        hatch,
        orientation="h",
        text=[f"{ratio:.2f}×" for ratio in rows["ratio"]],
        textposition="outside",
        cliponaxis=False,
        customdata=details,
        hovertemplate="%{y}<br>%{customdata[0]} = %{customdata[1]}, limit %{customdata[2]}<extra></extra>",
    )


def distribution_figure(found: Distribution, told: str = "") -> Figure:
    """A feature's distribution then (hatched) and now (filled); ``told`` says more of the change."""
    bins = [fig.plain(name) for name in found.bins]
    hover = "%{x}: %{y:.1%}<extra>%{fullData.name}</extra>"
    look = fig.layout(
        260,
        xaxis=fig.axis(type="category", showgrid=False),
        yaxis=fig.axis("share of rows", tickformat=".0%", rangemode="tozero"),
        barmode="group",
        bargap=0.25,
    )
    traces = [
        fig.bars(bins, found.then, "reference", fig.GREY, "/", hovertemplate=hover),
        fig.bars(bins, found.now, "this chunk", fig.BLUE, hovertemplate=hover),
    ]
    alt = "; ".join(
        f"{b} {percent(t)} → {percent(n)}" for b, t, n in zip(found.bins, found.then, found.now, strict=True)
    )
    return Figure(
        found.feature,
        f"{told} {found.change}".strip(),
        f"Shares of rows by {found.feature}: {alt}",
        fig.spec(traces, look),
        True,
    )


def estimates_figure(estimates: pl.DataFrame) -> Figure | None:
    """Estimated metrics with interval and healthy range. None if no value is known."""
    known = estimates.filter(pl.col("value").is_not_null()).reverse()
    if known.is_empty():
        return None
    traces = [trace for row in known.iter_rows(named=True) for trace in _estimate_traces(row)]
    for name in {t["name"] for t in traces}:
        next(t for t in traces if t["name"] == name)["showlegend"] = True
    look = fig.layout(
        110 + 42 * known.height,
        xaxis=fig.axis("value of the metric"),
        yaxis=fig.axis(type="category", ticks=""),
    )
    said = "; ".join(
        f"{row['metric']} {number(row['value'])}, "
        f"healthy {interval(row['threshold_lower'], row['threshold_upper'])}"
        for row in known.iter_rows(named=True)
    )
    return Figure(
        title="Estimated performance, before labels",
        caption="Grey: the healthy range, or its only limit. A cross marks an estimate outside.",
        alt=f"Estimates: {said}",
        spec=fig.spec(traces, look),
    )


def _estimate_traces(row: dict[str, Any]) -> list[fig.Trace]:
    """The healthy range, and the estimate as a mark with its interval."""
    y = fig.plain(row["metric"])
    limited = row["threshold_lower"] is not None or row["threshold_upper"] is not None
    color, symbol, name = (fig.BLUE, "circle", "within") if limited else (fig.GREY, "circle-open", "no limit")
    if row["alert"]:
        color, symbol, name = fig.VERMILLION, "x", "outside"
    mark = fig.line(
        [row["value"]], [y], name, color, symbol=symbol, size=11, mode="markers", showlegend=False
    )
    mark |= {"legendgroup": name, "hovertemplate": "%{y}: %{x:.3f}<extra></extra>"}
    if row["lower"] is not None and row["upper"] is not None:
        arms = {"array": [row["upper"] - row["value"]], "arrayminus": [row["value"] - row["lower"]]}
        mark["error_x"] = {"type": "data", "symmetric": False, "color": color, "thickness": 1.5, **arms}
    return [*_healthy_range(row, y), mark]


def _healthy_range(row: dict[str, Any], y: str) -> list[fig.Trace]:
    """A broad stripe between both limits, or an upright dash at the only one."""
    ends = [end for end in (row["threshold_lower"], row["threshold_upper"]) if end is not None]
    name = "healthy range" if len(ends) == 2 else "limit"
    shared = {"legendgroup": name, "showlegend": False}
    if len(ends) == 2:
        stripe = fig.line(ends, [y, y], name, fig.BAND, width=16, mode="lines", hoverinfo="skip")
        return [stripe | shared]
    dash = fig.line(ends, [y] * len(ends), name, fig.GREY, mode="markers", symbol="line-ns-open", size=22)
    return [dash | shared | {"hovertemplate": "limit %{x:.3f}<extra></extra>"}] if ends else []


def cohort_figure(evidence: pl.DataFrame, period: ChunkPeriod, outcome: str) -> Figure:
    """Expected and observed outcomes so far, cohort by cohort."""
    x = [fig.plain(moment(cohort, period)) for cohort in evidence["cohort"]]
    details = [
        [f"{age:.0f}", percent(share, 0)]
        for age, share in evidence.select("mean_age_days", "share_known").iter_rows()
    ]
    hover = "%{y:.1f}; aged %{customdata[0]} days, %{customdata[1]} of its harm should show by now"
    expected = evidence["expected"].to_list()
    observed = evidence["observed"].to_list()
    traces = [
        fig.bars(x, expected, "expected so far", fig.GREY, "/", customdata=details, hovertemplate=hover),
        fig.bars(x, observed, "observed so far", fig.BLUE, hovertemplate="%{y:.0f}"),
    ]
    look = fig.layout(
        320,
        xaxis=fig.axis("cohort", type="category", showgrid=False),
        yaxis=fig.axis(outcome, rangemode="tozero"),
        hovermode="x unified",
        barmode="group",
    )
    return Figure(
        title=f"{outcome.capitalize()} by cohort: expected and observed so far",
        caption="Expected is what the champion's probabilities and the age of the cohort imply.",
        alt=f"In all, {number(sum(expected), 1)} {outcome} expected and {number(sum(observed), 0)} observed.",
        spec=fig.spec(traces, look),
    )


def realized_figures(realized: pl.DataFrame, period: ChunkPeriod) -> list[Figure]:
    """One plot for each metric with a known value: matured cohorts with their intervals."""
    known = realized.filter(pl.col("value").is_not_null()).sort("cohort")
    if "scored_by" not in known.columns:
        known = known.with_columns(scored_by=pl.lit("served"))
    parts = known.partition_by("metric", maintain_order=True)
    return [_realized_figure(part, period, half=len(parts) > 1) for part in parts]


def _realized_figure(part: pl.DataFrame, period: ChunkPeriod, half: bool) -> Figure:
    metric, models = part["metric"][0], part.partition_by("scored_by", maintain_order=True)
    looks = [
        (fig.BLUE, "circle", "solid"),
        (fig.VERMILLION, "square-open", "dash"),
        (fig.GREY, "diamond", "dot"),
    ]
    traces = [
        _realized_line(rows, period, *look, legend=len(models) > 1)
        for rows, look in zip(models, looks, strict=False)
    ]
    look = fig.layout(260, xaxis=fig.axis(type="category", showgrid=False), yaxis=fig.axis())
    alt = "; ".join(
        f"{x} {number(y)}" for trace in traces for x, y in zip(trace["x"], trace["y"], strict=True)
    )
    caption = "Cohorts past the horizon, with intervals."
    return Figure(f"Realized {metric}", caption, f"Realized {metric}: {alt}", fig.spec(traces, look), half)


def _realized_line(
    rows: pl.DataFrame, period: ChunkPeriod, color: str, symbol: str, dash: str, legend: bool
) -> fig.Trace:
    values, name = rows["value"].to_list(), rows["scored_by"][0]
    x = [fig.plain(moment(cohort, period)) for cohort in rows["cohort"]]
    up = [None if u is None else u - v for u, v in zip(rows["upper"], values, strict=True)]
    down = [None if low is None else v - low for low, v in zip(rows["lower"], values, strict=True)]
    arms = {"array": up, "arrayminus": down, "thickness": 1.5, "color": color}
    trace = fig.line(
        x,
        values,
        fig.plain(SCORED_BY.get(name, name)),
        color,
        size=8,
        symbol=symbol,
        dash=dash,
        showlegend=legend,
    )
    return trace | {
        "error_y": {"type": "data", "symmetric": False, **arms},
        "customdata": rows.select("rows", "positives").rows(),
        "hovertemplate": "%{x}: %{y:.3f}<br>%{customdata[0]} rows, %{customdata[1]} positives<extra></extra>",
    }
