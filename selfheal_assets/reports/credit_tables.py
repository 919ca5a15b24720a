"""The tables of the credit view: every number behind its plots."""

from typing import Any

import polars as pl

from selfheal_assets.core.spec import ChunkPeriod
from selfheal_assets.reports.page import Badge, Column, Table, Tone
from selfheal_assets.reports.statuses import finding_badge
from selfheal_assets.reports.text import UNKNOWN, count, moment, number, percent

STATUS = Column("Status", False)
_PSI: dict[str, tuple[str, Tone]] = {
    "within chance": ("✓", "good"),
    "small": ("✓", "good"),
    "moderate": ("▲", "unknown"),
    "large": ("▲", "bad"),
}


def percent_interval(lower: float | None, upper: float | None) -> str:
    """``1.2 – 3.4 %``, or a dash."""
    if lower is None or upper is None:
        return UNKNOWN
    return f"{lower * 100:.1f} – {percent(upper)}"


def _unknown(row: dict[str, Any]) -> Badge:
    return finding_badge("INSUFFICIENT_DATA", row["reason"] or "")


def stability_table(found: pl.DataFrame, psi_bands: tuple[float, float]) -> Table:
    """PSI of the score and CSI of each feature, the largest first."""
    titles = ("PSI", "By chance, at most", "Cells", "Rows")
    shown = found.sort(["kind", "psi", "variable"], descending=[True, True, False], nulls_last=True)
    rows = [
        [
            r["variable"],
            f"v{r['model_version']}",
            number(r["psi"]),
            number(r["cut_off"]),
            count(r["cells"]),
            count(r["rows"]),
            _unknown(r) if r["band"] is None else Badge(*_psi_badge(r["band"])),
        ]
        for r in shown.iter_rows(named=True)
    ]
    moderate, large = psi_bands
    caption = (
        f"Stability against the champion's reference: the score's PSI, then each feature's (CSI). From {moderate:g} "
        f"moderate, from {large:g} large, unless chance alone can explain it"
    )
    return Table(
        caption, [Column("Variable", False), Column("Version", False), *map(Column, titles), STATUS], rows
    )


def _psi_badge(band: str) -> tuple[str, str, Tone]:
    symbol, tone = _PSI[band]
    return symbol, band, tone


def bands_table(bands: pl.DataFrame, outcome: str) -> Table:
    """Expected and observed rates of each score band."""
    titles = ("Cases", "Refused", "Matured", "Expected", "Observed", "Interval of the observed")
    rows = [
        [
            band_name(r["band"], bands.height),
            count(r["rows"]),
            percent(r["flagged"] / r["rows"] if r["rows"] else None),
            count(r["matured"]),
            percent(r["expected_rate"], 2),
            percent(r["rate"], 2),
            percent_interval(r["lower"], r["upper"]),
            _unknown(r) if r["agrees"] is None else _agreement(r),
        ]
        for r in bands.iter_rows(named=True)
    ]
    caption = (
        f"Score bands: tenths of each version's reference by score; rates of {outcome} among matured cases"
    )
    return Table(caption, [Column("Band", False), *map(Column, titles), STATUS], rows, folded=True)


def band_name(band: int, bands: int) -> str:
    """A band's place, with words at both ends."""
    if band == 0:
        return "no band"
    ends = {1: " (lowest scores)", bands: " (highest scores)"}
    return f"{band}{ends.get(band, '')}"


def _agreement(row: dict[str, Any]) -> Badge:
    if row["agrees"]:
        return Badge("✓", "as expected", "good")
    return Badge(
        "▲", "more than expected" if row["rate"] > row["expected_rate"] else "fewer than expected", "bad"
    )


def ranking_table(ranking: pl.DataFrame, period: ChunkPeriod) -> Table:
    """KS and Gini of each matured cohort."""
    titles = ("KS", "Gini", "Interval of the Gini", "Positives", "Negatives")
    rows = [
        [
            moment(r["cohort"], period),
            f"v{r['model_version']}",
            number(r["ks"]),
            number(r["gini"]),
            f"{number(r['lower'])} – {number(r['upper'])}" if r["lower"] is not None else UNKNOWN,
            count(r["positives"]),
            count(r["negatives"]),
            "measured" if r["reason"] is None else _unknown(r),
        ]
        for r in ranking.iter_rows(named=True)
    ]
    columns = [Column("Cohort", False), Column("Version", False), *map(Column, titles), STATUS]
    return Table("How well the scores ranked the matured cases of each cohort", columns, rows, folded=True)


def vintage_table(vintages: pl.DataFrame, period: ChunkPeriod) -> Table:
    """Cumulative share of positives by cohort, after three months on book and every six."""
    ages = [age for age in vintages["months_on_book"].unique().sort() if age == 3 or (age and age % 6 == 0)]
    rows = []
    for (cohort,), part in vintages.group_by("cohort", maintain_order=True):
        by_age = dict(part.select("months_on_book", "rate").iter_rows())
        cells = [percent(by_age.get(age), 2) for age in ages]
        rows.append([moment(cohort, period), count(part["rows"][0]), *cells])
    columns = [Column("Cohort", False), Column("Cases"), *(Column(f"{age} months") for age in ages)]
    return Table(
        "Cumulative share of positives by months on book; a dash: not all have come that far",
        columns,
        rows,
        True,
    )


def impact_table(impact: pl.DataFrame, least: float) -> Table:
    """Approval rates by group, and their ratio to the most approved group's."""
    titles = ("Cases", "Approved", "Ratio", "Interval of the ratio")
    shown = impact.sort(["fairness", "segment", "rate"], descending=[True, False, False])
    rows = [
        [
            f"{r['segment']}: {r['group_name']}",
            "yes" if r["fairness"] else "no",
            count(r["rows"]),
            percent(r["rate"]),
            number(r["ratio"], 2),
            f"{number(r['lower'], 2)} – {number(r['upper'], 2)}" if r["lower"] is not None else UNKNOWN,
            r["compared_with"] or UNKNOWN,
            _unknown(r) if r["flagged"] is None else _fairness(r["flagged"], least),
        ]
        for r in shown.iter_rows(named=True)
    ]
    columns = [
        Column("Group", False), Column("Protected", False), *map(Column, titles), Column("Compared with", False),
        STATUS,
    ]  # fmt: skip
    caption = f"Adverse impact: approval rate over that of the most approved group, at least {least:g}"
    return Table(caption, columns, rows)


def _fairness(flagged: bool, least: float) -> Badge:
    return Badge("▲", f"below {least:g}", "bad") if flagged else Badge("✓", f"at least {least:g}", "good")


def swap_table(swap: pl.DataFrame, outcome: str, swapped: str) -> Table:
    """Who would be approved by one model and refused by the other, and how they turned out."""
    titles = ("Cases", "Share", "Matured", f"Rate of {outcome}", "Interval")
    rows = [
        [
            r["group"],
            count(r["rows"]),
            percent(r["share"]),
            count(r["matured"]),
            percent(r["rate"], 2) if r["rate"] is not None else _unknown(r),
            percent_interval(r["lower"], r["upper"]),
        ]
        for r in swap.iter_rows(named=True)
    ]
    return Table(
        f"Swap set: {swapped}" if swapped else "Swap set",
        [Column("Decision", False), *map(Column, titles)],
        rows,
    )
