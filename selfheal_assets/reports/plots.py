"""Small plots for the Dagster UI, as Markdown with the picture inlined. Pages have their own figures."""

import base64
import io
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bars_markdown(frame: pl.DataFrame, name: str, value: str, marked: str) -> str:
    """Horizontal bars of ``value`` by ``name``, longest on top, with the limit as a line.

    Args:
        frame: one row per bar; rows without a value are left out.
        name: column of the labels.
        value: column of the lengths.
        marked: column of booleans; bars where it is true are darker and marked, as the legend says.
    """
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
    return _inlined(figure, "Distance of each feature to the reference")


def timeline_markdown(health: pl.DataFrame) -> str:
    """Estimated and realized ROC AUC by chunk, with the estimate's interval; failed chunks are marked below.

    Args:
        health: one row per chunk in order: ``label``, ``estimated_auc``, ``estimated_lower``, ``estimated_upper``,
            ``realized_auc`` (of the cohort that matured in the chunk) and ``failed_checks``; figures may be null.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), dpi=80)
    axes = figure.add_axes((0.08, 0.27, 0.9, 0.68))
    at = list(range(health.height))
    columns = ("estimated_auc", "estimated_lower", "estimated_upper", "realized_auc")
    estimated, lower, upper, realized = (health[c].cast(pl.Float64).fill_null(float("nan")) for c in columns)
    axes.fill_between(at, lower.to_numpy(), upper.to_numpy(), color="#7d9cc0", alpha=0.35, linewidth=0)
    axes.plot(at, estimated.to_numpy(), "o-", ms=3, color="#3b6ea5", label="estimated, without labels")
    axes.plot(
        at, realized.to_numpy(), "s--", ms=3, color="#333333", label="realized, of the cohort just matured"
    )
    failed = [i for i, checks in enumerate(health["failed_checks"].to_list()) if checks]
    foot = axes.get_ylim()[0]
    axes.plot(failed, [foot] * len(failed), "^", color="#b5400b", clip_on=False, label="a check failed")
    step = max(1, len(at) // 8)
    axes.set_xticks(at[::step], health["label"].to_list()[::step], rotation=30, ha="right", fontsize=8)
    axes.set_ylabel("ROC AUC")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
    return _inlined(
        figure, "ROC AUC by chunk: estimated with its interval, realized, and chunks with a failed check"
    )


def _inlined(figure: "Figure", words: str) -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    picture = base64.b64encode(buffer.getvalue()).decode()
    return f"![{words}](data:image/png;base64,{picture})"
