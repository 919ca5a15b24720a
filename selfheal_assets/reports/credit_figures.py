"""The plots of the credit view: PSI of the score over time, score bands, ranking by cohort, vintages."""

import polars as pl

from selfheal_assets.core.spec import ChunkPeriod
from selfheal_assets.reports import figures as fig
from selfheal_assets.reports.credit_tables import band_name
from selfheal_assets.reports.page import Figure
from selfheal_assets.reports.text import moment, number, percent

MOST_CURVES = 6
# Each curve has a dash and a symbol of its own beside its colour.
_CURVES = (
    (fig.GREY, "dot", "circle-open"),
    (fig.GREY, "solid", "square"),
    (fig.GREEN, "dash", "diamond-open"),
    (fig.GREEN, "solid", "triangle-up"),
    (fig.BLUE, "dashdot", "circle"),
    (fig.VERMILLION, "solid", "x"),
)


def _newest_version(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per cohort: that of the version that answered most of it."""
    size = "rows" if "rows" in rows.columns else "positives"
    return rows.sort(size, descending=True).unique("cohort", keep="first").sort("cohort")


def psi_figure(found: pl.DataFrame, psi_bands: tuple[float, float], period: ChunkPeriod) -> Figure | None:
    """PSI of the score over time, with the bands. None if no value is known."""
    known = found.filter(pl.col("psi").is_not_null()) if not found.is_empty() else found
    if known.is_empty():
        return None
    known = _newest_version(known)
    x = [fig.plain(moment(cohort, period)) for cohort in known["cohort"]]
    line = fig.line(
        x, known["psi"].to_list(), "PSI of the score", fig.BLUE, showlegend=False,
        customdata=known.select("band").rows(),
        hovertemplate="%{x}: %{y:.3f} (%{customdata[0]})<extra></extra>",
    )  # fmt: skip
    limits = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": limit, "y1": limit, "layer": "below",
         "line": {"color": color, "width": 1, "dash": dash}}
        for limit, color, dash in zip(psi_bands, (fig.GREY, fig.VERMILLION), ("dot", "dash"), strict=True)
    ]  # fmt: skip
    notes = [
        fig.note(f"{word} from {limit:g}", xref="paper", x=1, xanchor="right", y=limit, yanchor="bottom")
        for word, limit in zip(("moderate", "large"), psi_bands, strict=True)
    ]
    top = max(1.15 * psi_bands[1], 1.1 * float(known["psi"].max()))  # type: ignore[arg-type]
    look = fig.layout(
        260,
        xaxis=fig.axis(type="category", showgrid=False),
        yaxis=fig.axis(range=[0, top]),
        shapes=limits,
        annotations=notes,
    )
    said = "; ".join(f"{name} {number(value)}" for name, value in zip(x, known["psi"], strict=True))
    return Figure("PSI of the score", "Each cohort against its champion's reference.", f"PSI of the score: {said}",
                  fig.spec([line], look))  # fmt: skip


def bands_figure(bands: pl.DataFrame, outcome: str, banded: tuple[str, str]) -> Figure | None:
    """Expected and observed rate of each score band. None if nothing matured."""
    known = bands.filter(pl.col("rate").is_not_null())
    if known.is_empty():
        return None
    x = [band_name(band, bands.height) for band in known["band"]]
    rates, lower, upper = (known[name].to_list() for name in ("rate", "lower", "upper"))
    arms = {
        "array": [u - r for u, r in zip(upper, rates, strict=True)],
        "arrayminus": [r - low for low, r in zip(lower, rates, strict=True)],
    }
    observed = fig.line(
        x, rates, "observed, with its interval", fig.BLUE, mode="markers", size=9,
        error_y={"type": "data", "symmetric": False, "color": fig.BLUE, "thickness": 1.5, **arms},
        customdata=known.select("positives", "matured").rows(),
        hovertemplate="%{y:.2%}: %{customdata[0]} of %{customdata[1]}<extra>observed</extra>",
    )  # fmt: skip
    expected = fig.bars(
        x, known["expected_rate"].to_list(), "expected by the scores", fig.GREY, "/",
        hovertemplate="%{y:.2%}<extra>expected</extra>",
    )  # fmt: skip
    look = fig.layout(
        320,
        xaxis=fig.axis("score band", type="category", showgrid=False),
        yaxis=fig.axis(f"share of {outcome}", tickformat=".0%", rangemode="tozero"),
    )
    off = known.filter(~pl.col("agrees"))
    said = "; ".join(
        f"band {r['band']} expected {percent(r['expected_rate'])}, observed {percent(r['rate'])}"
        for r in known.iter_rows(named=True)
    )
    return Figure(
        "Score bands: expected and observed",
        f"Matured cases of {banded[0]} to {banded[1]}, as they were scored then. "
        f"In {off.height} of {known.height} bands the expected rate lies outside the observed one's interval.",
        f"Rates of {outcome}: {said}",
        fig.spec([expected, observed], look),
    )


def ranking_figure(ranking: pl.DataFrame, period: ChunkPeriod) -> Figure | None:
    """KS and Gini, cohort by cohort. None if no cohort can be ranked."""
    known = ranking.filter(pl.col("gini").is_not_null())
    if known.is_empty():
        return None
    known = _newest_version(known)
    x = [fig.plain(moment(cohort, period)) for cohort in known["cohort"]]
    gini = known["gini"].to_list()
    arms = {
        "array": [None if u is None else u - g for u, g in zip(known["upper"], gini, strict=True)],
        "arrayminus": [None if low is None else g - low for low, g in zip(known["lower"], gini, strict=True)],
    }
    traces = [
        fig.line(
            x, gini, "Gini, with its interval", fig.BLUE,
            error_y={"type": "data", "symmetric": False, "color": fig.BLUE, "thickness": 1.5, **arms},
            customdata=known.select("positives", "negatives").rows(),
            hovertemplate="%{y:.3f}; %{customdata[0]} positives, %{customdata[1]} negatives<extra>Gini</extra>",
        ),
        fig.line(
            x, known["ks"].to_list(), "KS", fig.VERMILLION, dash="dash", symbol="square-open", size=8,
            hovertemplate="%{y:.3f}<extra>KS</extra>",
        ),
    ]  # fmt: skip
    look = fig.layout(
        260, xaxis=fig.axis(type="category", showgrid=False), yaxis=fig.axis(rangemode="tozero")
    )
    said = "; ".join(
        f"{name} Gini {number(g)}, KS {number(k)}" for name, g, k in zip(x, gini, known["ks"], strict=True)
    )
    return Figure(
        "KS and Gini by cohort", "Matured cohorts, as they were scored then.", said, fig.spec(traces, look)
    )


def _spread(cohorts: list, most: int) -> list:
    """At most so many, evenly spread, the first and the last included."""
    if len(cohorts) <= most:
        return cohorts
    return [cohorts[round(i * (len(cohorts) - 1) / (most - 1))] for i in range(most)]


def vintage_figure(vintages: pl.DataFrame, period: ChunkPeriod, outcome: str) -> Figure | None:
    """Cumulative share of positives by months on book, a curve per cohort. None if no cohort is a month old."""
    aged = vintages.filter(pl.col("months_on_book").max().over("cohort") > 0)
    cohorts = _spread(aged["cohort"].unique().sort().to_list(), MOST_CURVES)
    if not cohorts:
        return None
    traces, said = [], []
    for cohort, (color, dash, symbol) in zip(cohorts, _CURVES[-len(cohorts) :], strict=True):
        part, name = aged.filter(pl.col("cohort") == cohort).sort("months_on_book"), moment(cohort, period)
        ages, rates = part["months_on_book"].to_list(), part["rate"].to_list()
        traces.append(
            fig.line(
                ages, rates, fig.plain(name), color, dash=dash, symbol=symbol, size=6,
                customdata=part.select("positives", "rows", "lower", "upper").rows(),
                hovertemplate="%{y:.2%} (%{customdata[2]:.2%} – %{customdata[3]:.2%}); %{customdata[0]} of "
                "%{customdata[1]}<extra>%{fullData.name}, month %{x}</extra>",
            )
        )  # fmt: skip
        said.append(f"{name} {percent(rates[-1], 2)} after {ages[-1]} months")
    look = fig.layout(
        340,
        xaxis=fig.axis("months on book", showgrid=False, dtick=6),
        yaxis=fig.axis(f"share of {outcome} so far", tickformat=".1%", rangemode="tozero"),
    )
    return Figure(
        "Vintage curves",
        "Of each cohort, up to the age that all of it has reached. A steeper curve is a worse vintage.",
        f"Cumulative share of {outcome}: {'; '.join(said)}",
        fig.spec(traces, look),
    )
