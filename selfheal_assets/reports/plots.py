"""Small plots for the Dagster UI, as Markdown with the picture inlined. Pages have their own figures."""

import base64
import io

import polars as pl


def bars_markdown(frame: pl.DataFrame, name: str, value: str, marked: str) -> str:
    """Horizontal bars of ``value`` by ``name``, longest on top, with the limit as a line.

    Args:
        frame: one row per bar; rows without a value are left out.
        name: column of the labels.
        value: column of the lengths.
        marked: column of booleans; bars where it is true are darker and marked, as the legend says.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = frame.drop_nulls(value).sort(value)
    values = rows[value].to_list()
    height = 0.9 + 0.28 * len(values)
    figure = Figure(figsize=(7, height), dpi=80)
    axes = figure.add_axes((0.24, 0.5 / height, 0.74, 1 - 0.55 / height))
    marks = rows[marked].fill_null(False).to_list()
    colours = ["#b5400b" if mark else "#7d9cc0" for mark in marks]
    labels = [f"{n} ▲" if mark else n for n, mark in zip(rows[name].to_list(), marks, strict=True)]
    axes.barh(labels, values, color=colours)
    axes.set_xlabel("Jensen–Shannon distance to the reference (▲ the alarms say that it changed)")
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    picture = base64.b64encode(buffer.getvalue()).decode()
    return f"![Distance of each feature to the reference](data:image/png;base64,{picture})"
