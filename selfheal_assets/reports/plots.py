"""Small plots for the Dagster UI, as Markdown with the picture inlined. Pages have their own figures."""

import base64
import io

import polars as pl


def bars_markdown(frame: pl.DataFrame, name: str, value: str, limit: float) -> str:
    """Horizontal bars of ``value`` by ``name``, longest on top, with the limit as a line.

    Args:
        frame: one row per bar; rows without a value are left out.
        name: column of the labels.
        value: column of the lengths.
        limit: drawn as a dashed line; bars beyond it are darker and marked.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = frame.drop_nulls(value).sort(value)
    values = rows[value].to_list()
    height = 0.9 + 0.28 * len(values)
    figure = Figure(figsize=(7, height), dpi=80)
    axes = figure.add_axes((0.24, 0.5 / height, 0.74, 1 - 0.55 / height))
    colours = ["#b5400b" if v > limit else "#7d9cc0" for v in values]
    labels = [f"{n} ▲" if v > limit else n for n, v in zip(rows[name].to_list(), values, strict=True)]
    axes.barh(labels, values, color=colours)
    axes.axvline(limit, color="#333333", linestyle="--", linewidth=1, label=f"limit {limit:g}")
    axes.set_xlabel("Jensen–Shannon distance to the reference")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    picture = base64.b64encode(buffer.getvalue()).decode()
    return f"![Distance of each feature to the reference](data:image/png;base64,{picture})"
