"""The plots of a model card: segments, calibration, and what moves the score."""

import polars as pl

from selfheal_assets.core.model_card import CardFigures
from selfheal_assets.reports import figures as fig
from selfheal_assets.reports.page import Figure
from selfheal_assets.reports.text import interval, number, percent


def segments_figure(found: CardFigures) -> Figure | None:
    """ROC AUC of each segment with its interval, beside that of all cases. None if none is known."""
    known = found.segments.filter((pl.col("metric") == "roc_auc") & pl.col("value").is_not_null()).reverse()
    if known.is_empty():
        return None
    trace = fig.line(
        known["value"].to_list(), [fig.plain(s) for s in known["segment"]], "ROC AUC, 95 % interval", fig.BLUE,
        mode="markers", size=10,
        error_x=_arms(known, fig.BLUE),
        customdata=known.select("rows", "positives").rows(),
        hovertemplate="%{y}: %{x:.3f}<br>%{customdata[0]} rows, %{customdata[1]} positives<extra></extra>",
    )  # fmt: skip
    overall = found.metrics.filter((pl.col("metric") == "roc_auc") & pl.col("value").is_not_null())[
        "value"
    ].to_list()
    look = fig.layout(
        110 + 30 * known.height,
        xaxis=fig.axis("ROC AUC"),
        yaxis=fig.axis(type="category", ticks=""),
        shapes=[fig.vertical(value, fig.GREY, "dash", width=2) for value in overall],
        showlegend=True,
    )
    alt = "; ".join(f"{r['segment']} {number(r['value'])}" for r in known.iter_rows(named=True))
    return Figure(
        "How well it ranks, segment by segment",
        "The dashed line is all cases together. An interval that spans it does not tell the segment from the rest.",
        f"ROC AUC by segment: {alt}",
        fig.spec([trace], look),
    )


def _arms(rows: pl.DataFrame, color: str) -> fig.Trace:
    """Error bars from ``value``, ``lower`` and ``upper``."""
    up, down = rows["upper"] - rows["value"], rows["value"] - rows["lower"]
    bars = {"array": up.to_list(), "arrayminus": down.to_list()}
    return {"type": "data", "symmetric": False, "color": color, "thickness": 1.5} | bars


def calibration_figure(curve: pl.DataFrame, served: pl.DataFrame, outcome: str) -> Figure:
    """Observed share against expected share, by bins of equally many cases: on the reference, and as served."""
    known = [
        (name, rows, look)
        for name, rows, look in (
            ("on its reference", curve, (fig.BLUE, "solid", "circle")),
            ("as served", served, (fig.VERMILLION, "dash", "square-open")),
        )
        if rows.height
    ]
    end = max(max(rows["expected"].max(), rows["upper"].max()) for _, rows, _ in known)  # type: ignore[type-var]
    right = fig.line([0, end], [0, end], "right", fig.GREEN, dash="dot", mode="lines", hoverinfo="skip")
    look = fig.layout(
        380,
        xaxis=fig.axis(f"expected share of {outcome}", tickformat=".1%", rangemode="tozero"),
        yaxis=fig.axis(f"observed share of {outcome}", tickformat=".1%", rangemode="tozero"),
    )
    alt = "; ".join(f"{name}: {_pairs(rows)}" for name, rows, _ in known)
    return Figure(
        f"Expected and observed, in {curve.height} bands of the score with equally many cases",
        "On the dotted line the expectation is right; below it the model expects too many, above it too few. Bars "
        "are 95 % intervals.",
        f"Calibration curve {alt}",
        fig.spec([right, *(_curve(name, rows, *kind) for name, rows, kind in known)], look),
    )


def _pairs(curve: pl.DataFrame) -> str:
    pairs = curve.select("expected", "observed").rows()
    return ", ".join(f"{percent(e)} expected {percent(o)} observed" for e, o in pairs)


def _curve(name: str, curve: pl.DataFrame, color: str, dash: str, symbol: str) -> fig.Trace:
    return fig.line(
        curve["expected"].to_list(), curve["observed"].to_list(), name, color, dash=dash, symbol=symbol, size=8,
        error_y=_arms(curve.rename({"observed": "value"}), color),
        customdata=curve.select("rows").rows(),
        hovertemplate="expected %{x:.1%}, observed %{y:.1%}<br>%{customdata[0]} rows<extra></extra>",
    )  # fmt: skip


def importance_figure(importance: pl.DataFrame) -> Figure:
    """How strongly each feature moves the score, on average."""
    shown = importance.reverse()
    trace = fig.bars(
        shown["strength"].to_list(), [fig.plain(n) for n in shown["feature"]], "mean absolute contribution", fig.BLUE,
        orientation="h", text=[percent(s, 0) for s in shown["share"]], textposition="outside", cliponaxis=False,
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )  # fmt: skip
    look = fig.layout(
        90 + 26 * shown.height,
        xaxis=fig.axis("mean absolute contribution, log odds", showgrid=False),
        yaxis=fig.axis(type="category", ticks=""),
        bargap=0.35,
    )
    first = importance.head(3)
    names = ", ".join(f"{n} {percent(s, 0)}" for n, s in first.select("feature", "share").rows())
    return Figure(
        "Which features move the score most",
        "Mean size of a feature's contribution (TreeSHAP, on the calibrated log odds), with its share of all.",
        f"Bars by feature. The strongest: {names}.",
        fig.spec([trace], look),
    )


def effect_figure(effect: pl.DataFrame) -> Figure:
    """What a feature's values do to the score: mean contribution and the middle four fifths, by cell."""
    name, cells = effect["feature"][0], [fig.plain(c) for c in effect["cell"]]
    rows = effect.rename({"effect": "value", "least": "lower", "most": "upper"})
    raises = fig.line(
        cells, effect["effect"].to_list(), "mean contribution", fig.BLUE, mode="markers", size=9,
        error_y=_arms(rows, fig.BLUE), showlegend=False,
        customdata=effect.select("rows").rows(),
        hovertemplate="%{x}: %{y:+.2f}<br>%{customdata[0]} rows<extra></extra>",
    )  # fmt: skip
    zero = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "layer": "between"}
    look = fig.layout(
        270,
        xaxis=fig.axis(type="category", showgrid=False),
        yaxis=fig.axis("log odds"),
        shapes=[zero | {"line": {"color": fig.GREY, "width": 1, "dash": "dash"}}],
    )
    top, low = (effect.sort("effect", descending=down).row(0, named=True) for down in (True, False))
    ends = [f"{row['cell']} ({row['effect']:+.2f})" for row in (top, low)]
    caption = f"Highest at {ends[0]}, lowest at {ends[1]}."
    spread = "; ".join(f"{c} {e:+.2f}" for c, e in effect.select("cell", "effect").rows())
    bounds = interval(float(effect["least"].min()), float(effect["most"].max()), 2)  # type: ignore[arg-type]
    alt = f"Mean contribution by {name}: {spread}. Four fifths of the cases lie within {bounds}."
    return Figure(name, caption, alt, fig.spec([raises], look), half=True)
