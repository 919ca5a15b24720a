"""Plotly figures as plain data: the palette, the axes and the few kinds of trace the reports share.

Plain data, because building ``plotly.graph_objects`` costs a hundred times as much as the page around it; the
tests validate every figure against plotly's own schema. The colours are those of Okabe and Ito (safe for the
colour-blind), shifted so that each has a contrast of 3:1 or more on the light and on the dark page; a second
mark (dash, symbol, hatching) always says the same as the colour. Text and grid follow the page's CSS.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

Trace = dict[str, Any]

BLUE = "#2b7bba"
VERMILLION = "#d55e00"
GREEN = "#0a9370"
GREY = "#7d8794"
PURPLE = "#a9639f"
OCHRE = "#a07800"
BAND = "rgba(125,135,148,0.28)"
BLUE_BAND = "rgba(43,123,186,0.24)"
# Series that are told apart: colour, dash and mark each say which, so that any one of them suffices.
SERIES = (
    (BLUE, "solid", "circle"),
    (VERMILLION, "dash", "square-open"),
    (GREEN, "dot", "triangle-up"),
    (PURPLE, "dashdot", "diamond-open"),
    (OCHRE, "longdash", "x"),
    (GREY, "longdashdot", "cross"),
)
CLEAR = "rgba(0,0,0,0)"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif'
AXIS = {
    "automargin": True,
    "zeroline": False,
    "gridcolor": "#e9edf1",
    "linecolor": "#d5dbe2",
    "fixedrange": True,
}


def plain(value: object) -> str:
    """Text of unknown origin for a plot: plotly would read tags in it as formatting."""
    return html.escape(str(value))


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """An axis in the house style."""
    return AXIS | {"title": {"text": title, "standoff": 8, "font": {"size": 13}}} | more


def layout(height: int, **more: Any) -> dict[str, Any]:
    """A layout in the house style: no frame, legend on top, one dark hover box for both themes."""
    return {
        "height": height,
        "margin": {"l": 8, "r": 16, "t": 34, "b": 8},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"family": FONT, "size": 13, "color": "#1b2129"},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "bgcolor": CLEAR},
        "hoverlabel": {
            "bgcolor": "#26303b",
            "bordercolor": "#7d8794",
            "align": "left",
            "font": {"color": "#ffffff", "size": 13, "family": FONT},
        },
    } | more


def line(x: Sequence[Any], y: Sequence[Any], name: str, color: str, **more: Any) -> Trace:
    """A line with marks; gaps where nothing is known."""
    look = {"dash": more.pop("dash", "solid"), "width": more.pop("width", 2)}
    marker = {"symbol": more.pop("symbol", "circle"), "size": more.pop("size", 6), "color": color}
    if str(marker["symbol"]).endswith("-open"):
        marker["line"] = {"width": 2 if marker["size"] > 8 else 1}
    return {
        "type": "scatter", "mode": "lines+markers", "name": name, "x": list(x), "y": list(y),
        "line": look | {"color": color}, "marker": marker, "connectgaps": False,
    } | more  # fmt: skip


def _known_runs(lower: Sequence[float | None], upper: Sequence[float | None]) -> list[range]:
    """Stretches in which both bounds are known."""
    runs, start = [], None
    for index in range(len(lower) + 1):
        known = index < len(lower) and lower[index] is not None and upper[index] is not None
        if known and start is None:
            start = index
        elif not known and start is not None:
            runs.append(range(start, index))
            start = None
    return runs


def band(
    x: Sequence[Any],
    lower: Sequence[float | None],
    upper: Sequence[float | None],
    name: str,
    fill: str = BAND,
) -> list[Trace]:
    """A shaded band between two bounds, one polygon for each stretch in which both are known."""
    traces: list[Trace] = []
    for run in _known_runs(lower, upper):
        there, back = list(run), list(reversed(run))
        traces.append({
            "type": "scatter", "mode": "lines", "fill": "toself", "fillcolor": fill, "line": {"width": 0},
            "hoverinfo": "skip", "name": name, "legendgroup": name, "showlegend": not traces,
            "x": [x[i] for i in there + back],
            "y": [upper[i] for i in there] + [lower[i] for i in back],
        })  # fmt: skip
    return traces


def bars(x: Sequence[Any], y: Sequence[Any], name: str, color: str, hatch: str = "", **more: Any) -> Trace:
    """Bars; a hatching tells two sets apart without colour."""
    pattern = {"shape": hatch, "fgcolor": color, "bgcolor": CLEAR, "size": 6, "solidity": 0.35}
    marker = {"color": color, "line": {"color": color, "width": 1}} | ({"pattern": pattern} if hatch else {})
    return {"type": "bar", "name": name, "x": list(x), "y": list(y), "marker": marker} | more


def vertical(x: Any, color: str, dash: str = "dot", width: int = 1) -> dict[str, Any]:
    """A vertical line through the whole plot, above the grid and behind the data."""
    return {
        "type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "layer": "between",
        "line": {"color": color, "width": width, "dash": dash},
    }  # fmt: skip


def note(text: str, **where: Any) -> dict[str, Any]:
    """A short text at a place in the plot."""
    return {"text": text, "showarrow": False, "font": {"size": 11}} | where


def spec(traces: Sequence[Trace], look: Mapping[str, Any]) -> dict[str, Any]:
    """A figure as plotly.js takes it."""
    return {"data": list(traces), "layout": dict(look)}
